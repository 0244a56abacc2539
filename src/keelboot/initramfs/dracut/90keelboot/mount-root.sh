#!/bin/sh
# Mount the deployment that `composefs=DIGEST` on the kernel command line names, and nothing else.
#
# Before: the partition with the store is mounted read-write at /sysroot.
# After:  /sysroot is the verified root, the partition is at /sysroot/sysroot read-only,
#         /etc is a writable overlay kept per deployment, /var is its own partition or a directory of the store's.
# `composefs=?DIGEST` accepts a filesystem without fs-verity: only for a machine whose operator chose that.
set -eu

refuse() {
    # To the kernel log too: it is on every console, and pstore keeps it.
    echo "<2>keelboot: refusing to boot: $*" >/dev/kmsg || :
    echo "keelboot: refusing to boot: $*" >&2
    exit 1
}

store=/sysroot
image_mount=/run/keelboot/image
new=/run/keelboot/root

digest=
# shellcheck disable=SC2013 # words are what is wanted
for word in $(cat /proc/cmdline); do
    case $word in composefs=*) digest=${word#composefs=} ;; esac
done
verity=require
case $digest in \?*) verity=off digest=${digest#\?} ;; esac
case $digest in
    '') refuse "the kernel command line has no composefs= argument" ;;
    *[!0-9a-f]*) refuse "composefs=$digest is not a digest" ;;
esac
case ${#digest} in
    64) algorithm=sha256 ;;
    128) algorithm=sha512 ;;
    *) refuse "composefs=$digest is not a digest" ;;
esac

objects=$store/composefs/objects
image=$store/composefs/images/$digest
[ -f "$image" ] || refuse "the store has no image $digest"

if [ "$verity" = require ]; then
    # Everything below the image is checked by the kernel on each read; the image itself is what this line checks.
    measured=$(fsverity measure "$image") || refuse "the image $digest is not protected by fs-verity"
    [ "${measured%% *}" = "$algorithm:$digest" ] ||
        refuse "the image is not the one the command line names: it measures ${measured%% *}, not $algorithm:$digest"
fi

mkdir -p "$image_mount" "$new"
# From Linux 6.12 on EROFS mounts straight from the file; before that mount(8) puts a loop device in between.
mount -t erofs -o ro,X-mount.noloop "$image" "$image_mount" 2>/dev/null ||
    mount -t erofs -o ro,loop "$image" "$image_mount" || refuse "the image $digest does not mount"
options=ro,metacopy=on,redirect_dir=on,lowerdir=$image_mount::$objects
[ "$verity" = off ] || options=$options,verity=require
mount -t overlay -o "$options" "composefs:$digest" "$new" || refuse "the root of $digest does not mount"
umount --lazy "$image_mount" # the overlay holds it; its own name would only be one more way to unverified metadata

# /etc: below the image's, above it only what changed on this machine under this deployment.
state=$store/state/deploy/$digest
mkdir -p "$state/etc/upper" "$state/etc/work"
mount -t overlay -o "lowerdir=$new/etc,upperdir=$state/etc/upper,workdir=$state/etc/work" etc "$new/etc" ||
    refuse "the machine's /etc does not mount"

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

# What leads into /var has to lead somewhere before the first service looks: systemd-tmpfiles works in the order of
# names, and a key for /root/.ssh would come before the line that makes /var/roothome.
for link in home mnt root srv usr/local; do
    target=$(readlink "$new/$link" || :)
    case $link:$target in
        # shellcheck disable=SC2174 # only the deepest is to be private
        root:var/*) [ -d "$new/$target" ] || mkdir -p -m 0700 "$new/$target" ;;
        *:var/* | *:../var/*) mkdir -p "$new/var/${target#*var/}" ;;
    esac
done

# A mount below a shared one cannot be moved; systemd makes everything shared again after the switch.
mount --make-rprivate /
mount --move /sysroot "$new/sysroot"
mount -o remount,bind,ro "$new/sysroot"
mount --move "$new" /sysroot
