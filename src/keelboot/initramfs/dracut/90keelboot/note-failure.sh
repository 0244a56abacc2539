#!/bin/sh
# The initramfs has failed and the machine restarts: dracut's hook "shutdown-emergency", and watch-try, which says in
# keelboot_reason what it was. Where the store can be reached, the boot record gets it; what mount-root noted itself
# stands before it and counts.
if [ -z "${keelboot_reason:-}" ]; then
    keelboot_reason="failed in the initramfs: $(systemctl --failed --plain --no-legend | sed 's/ .*//' | tr '\n' ' ')"
fi
keelboot_digest=$(sed -n 's/.*\<composefs=?\{0,1\}\([0-9a-f]*\).*/\1/p' /proc/cmdline)
for keelboot_store in /sysroot/sysroot /sysroot; do
    if [ -z "$keelboot_digest" ] || [ ! -d "$keelboot_store/state" ]; then continue; fi
    mount -o remount,bind,rw "$keelboot_store" 2>/dev/null || :
    mkdir -p "$keelboot_store/state/boots"
    printf '\n%s %s refused %s\n' "$(cat /proc/sys/kernel/random/boot_id)" "$(date +%s)" \
        "$keelboot_reason" >>"$keelboot_store/state/boots/$keelboot_digest"
    sync "$keelboot_store/state/boots/$keelboot_digest"
    break
done
