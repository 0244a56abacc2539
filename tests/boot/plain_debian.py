"""A disk with an ordinary Debian on it: GPT, an ESP with GRUB, one ext4, as an installer would leave it."""

import json
import subprocess
import tempfile
import uuid
from pathlib import Path

_MIB = 1 << 20
_ESP, _ROOT, _DISK = 400, 5600, 6144  # MiB
_FSTAB = "UUID={uuid} / ext4 defaults 0 1\nPARTLABEL=esp /boot/efi vfat defaults 0 2\n"
_GRUB = """\
set timeout=1
search --no-floppy --fs-uuid --set=root {uuid}
menuentry debian {{
    linux /boot/vmlinuz-{kernel} root=UUID={uuid} rw console=tty0 console=ttyS0
    initrd /boot/initrd.img-{kernel}
}}
"""


def write(image: str, disk: Path) -> None:
    """Make DISK of the container image IMAGE, of podman's store; root is needed for its owners."""
    with tempfile.TemporaryDirectory(dir=disk.parent) as name:
        place = Path(name)
        root = place / "root"
        root.mkdir()
        container = _told("podman", "create", image, "true").strip()
        _run("sh", "-c", f"podman export {container} | tar -C {root} -xf -")
        _run("podman", "rm", container)
        identifier = str(uuid.uuid4())
        _settle(root, identifier)
        _run("truncate", "-s", f"{_ROOT}M", place / "ext4")
        # As Debian's installer makes it: without fs-verity.
        _run("mke2fs", "-q", "-t", "ext4", "-O", "^verity", "-U", identifier, "-d", root, place / "ext4")
        _esp(place, root, identifier)
        _run("truncate", "-s", f"{_DISK}M", disk)
        kinds = ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp", "linux, name=plain")
        lines = [f"start={2048}, size={_ESP * 2048}, type={kinds[0]}"]
        lines += [f"start={2048 + _ESP * 2048}, size={_ROOT * 2048}, type={kinds[1]}"]
        _run("sfdisk", "-q", disk, given="label: gpt\n" + "\n".join(lines) + "\n")
        for part, start in (("esp", 1), ("ext4", 1 + _ESP)):
            _run("dd", f"if={place / part}", f"of={disk}", "bs=1M", f"seek={start}", "conv=notrunc,sparse")


def _settle(root: Path, identifier: str) -> None:
    (root / "etc/fstab").write_text(_FSTAB.format(uuid=identifier))
    (root / "etc/machine-id").write_text("uninitialized\n")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (root / "etc/hostname").write_text("plain\n")  # while an image is built, podman has a file of its own there
    (root / "boot/efi").mkdir(parents=True)
    (root / "home/mine").write_text("precious\n")


def _esp(place: Path, root: Path, identifier: str) -> None:
    file = place / "esp"
    _run("truncate", "-s", f"{_ESP}M", file)
    _run("mkfs.fat", "-F", "32", file)
    (kernel,) = (path.name.removeprefix("vmlinuz-") for path in (root / "boot").glob("vmlinuz-*"))
    grub = root / "usr/lib/grub/x86_64-efi/monolithic/grubx64.efi"
    (place / "grub.cfg").write_text(_GRUB.format(uuid=identifier, kernel=kernel))
    _run("mmd", "-i", file, "::/EFI", "::/EFI/BOOT", "::/EFI/debian")
    for source, name in (
        (grub, "BOOT/BOOTX64.EFI"),
        (grub, "debian/grubx64.efi"),
        (place / "grub.cfg", "debian/grub.cfg"),
    ):
        _run("mcopy", "-i", file, source, f"::/EFI/{name}")


def _told(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def _run(*words: str | Path, given: str = "") -> None:
    done = subprocess.run(words, check=False, capture_output=True, text=True, input=given)
    assert done.returncode == 0, json.dumps([list(map(str, words)), done.stderr])
