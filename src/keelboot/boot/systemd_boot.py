"""The ESP of a machine that boots with systemd-boot, as names and contents (systemd-boot(7), UAPI.1).

EFI/BOOT/BOOTX64.EFI            the loader, where firmware looks without being told
EFI/systemd/systemd-bootx64.efi the same, where `bootctl` looks
EFI/keelboot/<digest>/          vmlinuz and initrd, once per content
loader/loader.conf
startup.nsh                     what firmware does that has nothing left to boot and opens its shell
loader/entries/keelboot-<generation>-<deployment>.conf
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from keelboot.boot.entries import Entry


class LoaderNames(NamedTuple):
    """What the loader is called for one architecture."""

    in_image: str
    fallback: str
    installed: str


LOADERS: Mapping[str, LoaderNames] = {
    "amd64": LoaderNames(
        "usr/lib/systemd/boot/efi/systemd-bootx64.efi", "EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"
    ),
    "arm64": LoaderNames(
        "usr/lib/systemd/boot/efi/systemd-bootaa64.efi", "EFI/BOOT/BOOTAA64.EFI", "EFI/systemd/systemd-bootaa64.efi"
    ),
}

# The menu is one key press away (space) and does not delay a server's boot. Editing the command line would undo the
# verification of the root.
LOADER_CONF = b"timeout 0\nconsole-mode keep\neditor no\n"

# An entry whose initramfs is missing is given up by the kernel, and systemd-boot (257) then goes back to the firmware.
# Firmware for virtual machines opens its shell, which runs this: the next try is counted, until another entry's turn.
SHELL_SCRIPT: Final = b"reset\n"

KERNELS: Final = "EFI/keelboot"


def boot_digest(kernel_sha256: bytes, initramfs_sha256: bytes) -> str:
    """Names a kernel and its initramfs by content: deployments with the same pair share its directory on the ESP."""
    return hashlib.sha256(kernel_sha256 + initramfs_sha256).hexdigest()


def esp_files(
    entry: Entry, *, loader: Path, kernel: Path, initramfs: Path, architecture: str
) -> Mapping[str, bytes | Path]:
    """Everything a new ESP holds, by name, so that ENTRY boots."""
    names = LOADERS[architecture]
    return {
        names.fallback: loader,
        names.installed: loader,
        "loader/loader.conf": LOADER_CONF,
        "loader/entries.srel": b"type1\n",
        "startup.nsh": SHELL_SCRIPT,
        entry.linux.lstrip("/"): kernel,
        entry.initrd.lstrip("/"): initramfs,
        f"loader/entries/{entry.file_name}": entry.text().encode(),
    }
