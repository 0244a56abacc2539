# sh -c THIS sh IMAGE PODMAN...: prints a tar archive of the kernel, the initramfs, the files for /var, and the
# directories above them, as they are in IMAGE. It fails where one of these is a link, which could lead out of the image.
set -eu
image=$1
shift
root=$("$@" image mount "$image")
trap 'cd / && "$@" image unmount "$image" >/dev/null || :' EXIT
trap 'exit 1' HUP INT TERM
cd "$root"
seeds=usr/share/factory/var
for path in usr usr/lib usr/lib/modules usr/lib/modules/* usr/share usr/share/factory "$seeds"; do
    [ ! -L "$path" ] || exit 1
done
{
    for path in usr usr/lib usr/lib/modules usr/lib/modules/* usr/lib/modules/*/vmlinuz \
        usr/lib/modules/*/initramfs.img usr/share usr/share/factory; do
        if [ -e "$path" ] || [ -L "$path" ]; then printf '%s\0' "$path"; fi
    done
    if [ -d "$seeds" ]; then find "$seeds" -print0; fi
} | tar --create --file=- --format=pax --no-recursion --null --files-from=-
