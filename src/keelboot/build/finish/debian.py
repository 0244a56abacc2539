"""Debian and what is made from it (Ubuntu): apt, dracut, systemd-boot."""

import shlex
from collections.abc import Sequence

from keelboot.image.release import Release

_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}


def matches(release: Release) -> bool:
    return "debian" in {release.id, *release.like}


def kernel_package(machine: str, flavour: str) -> str:
    architecture = _ARCHITECTURE.get(machine, machine)
    names = {"generic": f"linux-image-{architecture}", "cloud": f"linux-image-cloud-{architecture}"}
    return names.get(flavour, flavour)


def packages(machine: str, release: Release) -> Sequence[str]:  # noqa: ARG001 - same names on both architectures
    return [
        *("systemd", "systemd-sysv", "udev", "dbus", "libpam-systemd", "systemd-resolved", "systemd-timesyncd"),
        *("dracut", "zstd", "kmod", "fsverity", "systemd-boot-efi"),
        *("e2fsprogs", "dosfstools", "fdisk", "util-linux", "iproute2", "ca-certificates"),
        *("python3", "python3-urllib3", "python3-zstandard", "python3-yaml", "python3-cryptography"),  # the agent
    ]


def install(kernel: str, packages: Sequence[str]) -> str:
    # Ubuntu names its only kernel linux-image-generic; Debian's metapackages carry the architecture.
    return f"""
export DEBIAN_FRONTEND=noninteractive INITRD=No
. /etc/os-release
kernel={shlex.quote(kernel)}
case $ID:$kernel in ubuntu:linux-image-amd64|ubuntu:linux-image-arm64) kernel=linux-image-generic ;; esac
if ls /boot/vmlinuz-* /usr/lib/modules/*/vmlinuz >/dev/null 2>&1; then kernel=; fi
apt-get update -q
# The initramfs is made once, at the end, by us: the kernel's hook would make one per package.
mkdir -p /etc/kernel/postinst.d
apt-get install -q -y --no-install-recommends -o DPkg::Options::=--force-unsafe-io $kernel {shlex.join(packages)}
if [ "$ID" = debian ]; then systemctl enable systemd-resolved.service systemd-timesyncd.service; fi
"""


def initramfs() -> str:
    return 'dracut --force --kver "$kver" "/usr/lib/modules/$kver/initramfs.img"'


def package_database() -> str:
    return """
mkdir -p /usr/lib/sysimage/apt
if [ ! -L /var/lib/dpkg ]; then
    rm -f /var/lib/dpkg/*-old /var/lib/dpkg/lock*
    mv /var/lib/dpkg /usr/lib/sysimage/dpkg
    ln -s ../../usr/lib/sysimage/dpkg /var/lib/dpkg
fi
if [ -f /var/lib/apt/extended_states ] && [ ! -L /var/lib/apt/extended_states ]; then
    mv /var/lib/apt/extended_states /usr/lib/sysimage/apt/extended_states
    ln -s ../../../usr/lib/sysimage/apt/extended_states /var/lib/apt/extended_states
fi
"""


def clean() -> str:
    return """
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache
# They update packages in place, or save a package database that belongs to the image.
for timer in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer; do
    rm -f "/etc/systemd/system/timers.target.wants/$timer"
done
"""
