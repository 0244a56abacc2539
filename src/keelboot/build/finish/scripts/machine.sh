# What makes an image a machine of its own at its first boot, and not a copy of the builder.
[ -x /sbin/init ] || refuse "there is no init system at /sbin/init, though packages were installed"
mkdir -p /sysroot /boot /proc /sys /dev /run /tmp
[ -e /ostree ] || [ -L /ostree ] || ln -s sysroot/ostree /ostree
rm -f /etc/ssh/ssh_host_*
rm -f /etc/machine-id /var/lib/dbus/machine-id
echo uninitialized >/etc/machine-id
chmod 0444 /etc/machine-id
# The root is read-only, so /tmp has to be memory where the distribution does not have it so already.
if [ -e /usr/share/systemd/tmp.mount ] && [ ! -e /usr/lib/systemd/system/tmp.mount ]; then
    cp /usr/share/systemd/tmp.mount /usr/lib/systemd/system/tmp.mount
    systemctl enable tmp.mount
fi
systemctl enable keelboot-grow-var.service keelboot-announce.service
systemctl enable keelboot-boot.service keelboot-health.service keelboot-bless.service keelboot-trial.timer
# It would bless a boot through a mounted ESP, which there is none of, and before our own checks.
systemctl mask systemd-bless-boot.service
if [ -x /usr/sbin/sshd ]; then systemctl enable keelboot-ssh-host-keys.service; fi
# A network manager of the user's choice stays in charge; without one systemd-networkd asks for an address.
if [ -e /usr/sbin/NetworkManager ] || [ -e /usr/sbin/ifup ] || [ -e /usr/sbin/netplan ] || [ -e /usr/sbin/dhcpcd ]; then
    rm -f /usr/lib/systemd/network/90-keelboot-ethernet.network
else
    systemctl enable systemd-networkd.service
fi
