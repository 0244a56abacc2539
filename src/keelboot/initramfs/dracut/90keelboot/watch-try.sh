#!/bin/sh
# A boot that the loader counts has to end, whatever hangs: blessed, or in a restart that uses up the try.
#
# begin: the first thing in the initramfs. In a counted boot the watchdog runs from here on; in others nothing happens.
# keep:  keeps it from resetting the machine until the initramfs is done, for so long as that may take. Killed before
#        the root is switched, it leaves a watchdog that runs on until the system manager takes it over.
set -eu

trial=/run/keelboot/trial
watchdog=/dev/watchdog0
limit=900 # seconds, as long as what comes after the initramfs may take (keelboot-trial.timer)
each=10
shell=no

tell() {
    echo "<4>keelboot: $*" >/dev/kmsg || :
}

begin() {
    counted || return 0
    mkdir -p "${trial%/*}" /run/systemd/system.conf.d
    echo >"$trial"
    printf '[Manager]\nRuntimeWatchdogSec=60\n' >/run/systemd/system.conf.d/50-keelboot-trial.conf
    start_watchdog
    modprobe -q efi_pstore || : # a panic from here on is told by the version that runs after it
}

# there PATTERN...: whether anything has such a name.
there() {
    [ -e "$1" ]
}

# counted: whether systemd-boot counts this boot's tries: it says so in a variable of the firmware.
counted() {
    variables=/sys/firmware/efi/efivars
    [ -d "${variables%/*}" ] || return 1
    modprobe -q efivarfs || :
    there "$variables"/LoaderInfo-* || mount -t efivarfs efivarfs "$variables" 2>/dev/null || :
    there "$variables"/LoaderBootCountPath-*
}

start_watchdog() {
    # The first two make Intel's device, whose driver is the fourth.
    for module in lpc_ich i2c-i801 i6300esb iTCO_wdt sp5100_tco hpwdt sbsa_gwdt softdog; do
        [ -e "$watchdog" ] || modprobe -q "$module" || :
    done
    # Closed without its magic character, it runs on.
    if { : >"$watchdog"; } 2>/dev/null; then
        tell "this boot is on trial, and a watchdog runs: $(cat /sys/class/watchdog/watchdog0/identity || :)"
    else
        tell "this boot is on trial, and this machine has no watchdog"
    fi
}

keep() {
    [ -e "$trial" ] || exit 0
    # shellcheck disable=SC2013 # words are what is wanted
    for word in $(cat /proc/cmdline); do
        case $word in
            rd.keelboot.timeout=*) limit=${word#*=} ;;
            rd.shell | rd.shell=1) shell=yes ;;
            rd.shell=0) shell=no ;;
        esac
    done
    if [ -e "$watchdog" ]; then exec 3>"$watchdog"; else exec 3>/dev/null; fi
    left=$limit
    while [ "$left" -gt 0 ]; do
        echo >&3
        sleep "$each" 3>&-
        # Whoever is to type a password may come tomorrow, and who asked for a shell may look around in it.
        [ $shell = yes ] || there /run/systemd/ask-password/ask.* || left=$((left - each))
    done
    waiting=$(systemctl list-jobs --plain --no-legend | sed -n 's/^ *[0-9]* *\([^ ]*\) .* running$/\1/p' | tr '\n' ' ' || :)
    # shellcheck disable=SC2034 # the script that is read next uses it
    keelboot_reason="it was not done after $limit seconds, and still waited for $waiting"
    tell "refusing to boot: the initramfs: $keelboot_reason"
    # shellcheck source=/dev/null # beside this one in the initramfs
    . /usr/lib/keelboot/note-failure || :
    sync
    systemctl reboot --force --force
}

"$1"
