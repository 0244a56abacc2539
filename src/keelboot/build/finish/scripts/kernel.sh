# The kernel: exactly one, in /usr/lib/modules/$kver as bootc's conventions have it; /boot stays empty.
kver=$(
    for modules in /usr/lib/modules/*/; do
        name=$(basename "$modules")
        if [ -e "$modules/vmlinuz" ] || [ -e "/boot/vmlinuz-$name" ]; then echo "$name"; fi
    done | sort -V | tail -n 1
)
refuse() {
    echo "keelboot: cannot finish: $*" >&2
    exit 65
}
[ -n "$kver" ] || refuse "no kernel is in /boot or /usr/lib/modules, though packages were installed"
for modules in /usr/lib/modules/*/; do
    [ "$(basename "$modules")" = "$kver" ] || rm -rf "$modules"
done
# A verified root needs overlayfs with verity=require, which came with Linux 6.6.
case $(printf '%s\n6.6\n' "${kver%%-*}" | sort -V | head -n 1) in
    6.6) ;;
    *)
        refuse "Linux $kver is too old: a verified root needs 6.6 or later, so install a newer kernel (from backports)"
        ;;
esac
for name in vmlinuz config System.map; do
    if [ -e "/boot/$name-$kver" ]; then mv "/boot/$name-$kver" "/usr/lib/modules/$kver/$name"; fi
done
chmod 0644 "/usr/lib/modules/$kver/vmlinuz"
find /boot -mindepth 1 -delete
rm -f /vmlinuz /vmlinuz.old /initrd.img /initrd.img.old
