#!/bin/bash
# dracut module: mount the deployment that the kernel command line names, verified.

check() {
    require_binaries fsverity mount umount udevadm e2fsck || return 1
    return 255 # only when asked for by name: see dracut.conf.d/50-keelboot.conf
}

depends() {
    echo systemd base fs-lib
}

installkernel() {
    # erofs and overlay are the root; loop serves kernels before 6.12, whose EROFS cannot be mounted from a file.
    hostonly='' instmods erofs overlay loop ext4 btrfs xfs virtio_blk virtio_scsi virtio_pci nvme ahci sd_mod
    # Whether the loader counts this boot is an EFI variable; a boot that is counted runs under a watchdog, and a panic
    # in it is kept.
    hostonly='' instmods -s efivarfs efi_pstore lpc_ich i2c-i801 i6300esb iTCO_wdt sp5100_tco hpwdt sbsa_gwdt softdog
}

install() {
    inst_multiple fsverity mount umount mkdir cat sed grep udevadm readlink e2fsck
    inst_multiple chroot date modprobe mv rm sleep sync tail timeout tr
    inst_simple "$moddir/mount-root.sh" /usr/lib/keelboot/mount-root
    chmod 0755 "$initdir/usr/lib/keelboot/mount-root"
    inst_hook shutdown-emergency 50 "$moddir/note-failure.sh"
    inst_simple "$moddir/note-failure.sh" /usr/lib/keelboot/note-failure
    inst_simple "$moddir/watch-try.sh" /usr/lib/keelboot/watch-try
    chmod 0755 "$initdir/usr/lib/keelboot/watch-try"
    inst_simple "$moddir/keelboot-watch.service" "$systemdsystemunitdir/keelboot-watch.service"
    mkdir -p "$initdir$systemdsystemunitdir/sysinit.target.wants"
    ln -sf ../keelboot-watch.service "$initdir$systemdsystemunitdir/sysinit.target.wants/keelboot-watch.service"
    inst_simple "$moddir/watchdog.conf" /usr/lib/modprobe.d/50-keelboot-watchdog.conf
    inst_simple "$moddir/keelboot-root.service" "$systemdsystemunitdir/keelboot-root.service"
    # Required, not wanted: without a verified root there must be no switch to anything else.
    mkdir -p "$initdir$systemdsystemunitdir/initrd-root-fs.target.requires"
    ln -sf ../keelboot-root.service "$initdir$systemdsystemunitdir/initrd-root-fs.target.requires/keelboot-root.service"
}
