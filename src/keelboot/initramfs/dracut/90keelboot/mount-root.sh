#!/bin/sh
# Mount the deployment that `composefs=DIGEST` on the kernel command line names, and nothing else.
#
# Before: the partition with the store is mounted read-write at /sysroot.
# After:  /sysroot is the verified root, the partition is at /sysroot/sysroot read-only,
#         /etc is a writable overlay kept per deployment, /var is its own partition or a directory of the store's.
# `composefs=?DIGEST` accepts a filesystem without fs-verity: only for a machine whose operator chose that.
set -eu

store=/sysroot
new=/run/keelboot/root
parent_root=/run/keelboot/parent
digest=

# note STAGE [TEXT]: a line of the boot record (docs/formats/deployment.md). A disk that cannot be written to is no
# reason not to boot from it. The empty line before it ends one that a power cut tore.
note() {
    [ -n "$digest" ] && [ -d "$store/state" ] || return 0
    {
        mkdir -p "$store/state/boots" &&
            printf '\n%s %s %s\n' "$(cat /proc/sys/kernel/random/boot_id)" "$(date +%s)" "$*" |
            sed 's/\\/&&/g' >>"$store/state/boots/$digest" &&
            sync "$store/state/boots/$digest" "$store/state/boots"
    } 2>/dev/null || :
}

refuse() {
    trap - EXIT
    reason=$(echo "$*" | tr '\n' ' ')
    # To the kernel log too: it is on every console, and pstore keeps it.
    echo "<2>keelboot: refusing to boot: $reason" >/dev/kmsg || :
    echo "keelboot: refusing to boot: $reason" >&2
    note refused "$reason"
    # emergency.target comes next: it restarts the machine (rd.shell=0 rd.emergency=reboot), or gives the shell that
    # rd.shell=1 asks for. Whoever stands before the screen gets to read why.
    sleep 10
    exit 1
}

# open_root DIGEST DIRECTORY: the verified root of DIGEST, read-only, at DIRECTORY.
open_root() {
    image=$store/composefs/images/$1
    [ -f "$image" ] || refuse "the store has no image $1"
    if [ "$verity" = require ]; then
        # Everything below the image is checked by the kernel on each read; the image itself is what this line checks.
        measured=$(fsverity measure "$image") || refuse "the image $1 is not protected by fs-verity"
        [ "${measured%% *}" = "$algorithm:$1" ] ||
            refuse "the image is not the one that was asked for: it measures ${measured%% *}, not $algorithm:$1"
    fi
    mkdir -p /run/keelboot/image "$2"
    # From Linux 6.12 on EROFS mounts straight from the file; before that mount(8) puts a loop device in between.
    mount -t erofs -o ro,X-mount.noloop "$image" /run/keelboot/image 2>/dev/null ||
        mount -t erofs -o ro,loop "$image" /run/keelboot/image || refuse "the image $1 does not mount"
    options=ro,metacopy=on,redirect_dir=on,lowerdir=/run/keelboot/image::$store/composefs/objects
    [ "$verity" = off ] || options=$options,verity=require
    mount -t overlay -o "$options" "composefs:$1" "$2" || refuse "the root of $1 does not mount"
    # The overlay holds it; its own name would only be one more way to unverified metadata.
    umount --lazy /run/keelboot/image
}

# first_etc: the deployment's own /etc from its parent's, made aside and renamed. A cut before that starts it again.
first_etc() {
    rm -rf "$state/etc.draft"
    # The record has one form, a member to a line; no string in it can hold a line's end.
    parent=$(sed -n 's/^  "parent": "\([0-9a-f]*\)",\{0,1\}$/\1/p' "$state/origin.json" 2>/dev/null || :)
    theirs=state/deploy/$parent/etc/upper
    if [ -n "$parent" ] && [ -d "$store/$theirs" ]; then
        open_root "$parent" "$parent_root"
        mount --bind "$store" "$new/sysroot"
        mount --bind /run "$new/run"
        mount --bind "$parent_root" "$new$parent_root"
        mount --bind /proc "$new/proc"
        mount --bind /dev "$new/dev"
        said=$(timeout 300 chroot "$new" /usr/bin/python3 -I -m keelboot.host.carryover \
            --parent-etc "$parent_root/etc" --parent-upper "/sysroot/$theirs" --image-etc /etc \
            --target "/sysroot/${state#"$store"/}/etc.draft" 2>&1) ||
            refuse "the parent's /etc cannot be carried over: $(echo "$said" | tail -n 3)"
        [ -z "$said" ] || echo "$said"
        umount "$new/dev" "$new/proc" "$new$parent_root" "$new/run" "$new/sysroot" "$parent_root"
    else
        mkdir -p "$state/etc.draft/upper" "$state/etc.draft/work"
    fi
    sync "$state/etc.draft" "$state/etc.draft/upper"
    mv "$state/etc.draft" "$state/etc"
    sync "$state"
}

# reset_etc, reset_var: a factory reset that was asked for. The mark goes last, so a cut starts all of it again. No
# deployment keeps its /etc; as the parent has none either, first_etc makes an empty one.
reset_etc() {
    if [ ! -e "$store/state/factory-reset" ]; then
        rm -rf "$store/state/reset" # what an earlier one left when it was cut at its very end
        return 0
    fi
    echo "keelboot: factory reset: a fresh /etc and /var" >&2
    mkdir -p "$store/state/reset"
    for old in "$store"/state/deploy/*/etc; do
        [ -d "$old" ] || continue
        name=${old%/etc}
        name=${name##*/}
        rm -rf "$store/state/reset/$name"
        mv "$old" "$store/state/reset/$name"
    done
    sync "$store/state/reset" "$store"/state/deploy/*
}
reset_var() {
    [ -e "$store/state/factory-reset" ] || return 0
    for old in "$new/var"/* "$new/var"/.[!.]* "$new/var"/..?*; do
        [ "${old##*/}" = lost+found ] || rm -rf "$old"
    done
    sync -f "$new/var"
    rm -f "$store/state/factory-reset"
    sync "$store/state"
    rm -rf "$store/state/reset"
}

trap 'refuse "a step of the initramfs failed; its own words are above"' EXIT
# shellcheck disable=SC2013 # words are what is wanted
for word in $(cat /proc/cmdline); do
    case $word in composefs=*) asked=${word#composefs=} ;; esac
done
verity=require
case ${asked:=} in \?*) verity=off asked=${asked#\?} ;; esac
case $asked in
    '') refuse "the kernel command line has no composefs= argument" ;;
    *[!0-9a-f]*) refuse "composefs=$asked is not a digest" ;;
esac
case ${#asked} in
    64) algorithm=sha256 ;;
    128) algorithm=sha512 ;;
    *) refuse "composefs=$asked is not a digest" ;;
esac
digest=$asked
note initramfs

# A mount below a shared one cannot be moved; systemd makes everything shared again after the switch.
mount --make-rprivate /
open_root "$digest" "$new"

# /etc: below the image's, above it only what changed on this machine under this deployment.
state=$store/state/deploy/$digest
mkdir -p "$state"
reset_etc
[ -d "$state/etc" ] || first_etc
mkdir -p "$state/etc/upper" "$state/etc/work"
# Without redirects and metacopies each file of the upper layer is whole and where it says: it can be listed and copied.
options=redirect_dir=off,metacopy=off,lowerdir=$new/etc,upperdir=$state/etc/upper,workdir=$state/etc/work
mount -t overlay -o "$options" etc "$new/etc" || refuse "the machine's /etc does not mount"

# /var: the partition of the Discoverable Partitions type on the disk the store is on.
device=$(sed -n 's/^\([^ ]*\) \/sysroot .*/\1/p' /proc/mounts | sed -n '$p')
var=
partition=$(readlink -f "/sys/class/block/$(readlink -f "$device" | sed 's,.*/,,')" || :)
if [ -e "$partition/partition" ]; then
    udevadm settle --timeout=30 || :
    for sibling in "${partition%/*}"/*/partition; do
        name=${sibling%/partition}
        name=${name##*/}
        if udevadm info -q property -n "/dev/$name" | grep -q '^ID_PART_ENTRY_TYPE=4d21b016-b534-45c2-a9fb-5c16e091fd2d$'; then
            var=/dev/$name
        fi
    done
fi
if [ -n "$var" ]; then
    case $(udevadm info -q property -n "$var" | sed -n 's/^ID_FS_TYPE=//p') in
        # 1: errors were there and are corrected.
        ext4) said=$(e2fsck -p "$var" 2>&1) || [ $? -eq 1 ] || refuse "/var on $var needs a repair by hand: $said" ;;
    esac
    mount "$var" "$new/var" || refuse "/var on $var does not mount"
else
    mkdir -p "$store/state/var"
    mount --bind "$store/state/var" "$new/var" || refuse "/var does not mount"
fi
reset_var

# What leads into /var has to lead somewhere before the first service looks: systemd-tmpfiles works in the order of
# names, and a key for /root/.ssh would come before the line that makes /var/roothome.
for link in home mnt root srv usr/local; do
    target=$(readlink "$new/$link" || :)
    # shellcheck disable=SC2174 # only the deepest is to be private
    case $link:$target in
        root:var/*) [ -d "$new/$target" ] || mkdir -p -m 0700 "$new/$target" ;;
        *:var/* | *:../var/*) mkdir -p "$new/var/${target#*var/}" ;;
    esac
done

note root
mount --move /sysroot "$new/sysroot"
mount -o remount,bind,ro "$new/sysroot"
mount --move "$new" /sysroot
trap - EXIT
