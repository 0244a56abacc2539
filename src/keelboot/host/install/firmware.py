"""Telling the firmware to start our loader: a boot entry in its variables, made by efibootmgr(8)."""

from pathlib import Path
from typing import Final

from keelboot import command
from keelboot.boot.systemd_boot import LOADERS
from keelboot.failure import Failure, MissingTool
from keelboot.host.install import probe

_VARIABLES: Final = Path("/sys/firmware/efi/efivars")
LABEL: Final = "keelboot"


def require() -> None:
    """Raise Failure unless boot entries can be made here."""
    if not _VARIABLES.is_dir():
        raise Failure(
            "cannot tell the firmware to start the new system",
            why="this system was not started by UEFI, so there are no settings of its to change",
            fix="Start it by UEFI. Or add --generic-image, and choose the new loader in the firmware's own menu.",
        )
    if command.find("efibootmgr") is None:
        raise MissingTool(
            "cannot tell the firmware to start the new system",
            why="efibootmgr is not installed on this system",
            fix="`apt-get install efibootmgr`; in an image, add efibootmgr to its Containerfile.",
        )


def add(esp_device: str, architecture: str) -> None:
    """Have the firmware start systemd-boot of the ESP on ESP_DEVICE from now on. Raises Failure, CommandFailed."""
    part = probe.lsblk(Path(esp_device), inverse=True)
    number = Path("/sys/class/block", Path(part.path).name, "partition")
    if part.type != "part" or not part.children:
        raise Failure(
            "cannot tell the firmware to start the new system",
            why=f"the ESP on {esp_device} is no partition of a disk",
            fix="Add --generic-image, and choose the loader in the firmware's own menu.",
        )
    purpose = "tell the firmware to start the new system"
    loader = "\\" + LOADERS[architecture].installed.replace("/", "\\")
    for old in entries(command.run(["efibootmgr"], purpose=purpose).stdout.decode(errors="replace")):
        command.run(["efibootmgr", "--quiet", "--bootnum", old, "--delete-bootnum"], purpose=purpose)
    command.run(
        [
            *("efibootmgr", "--quiet", "--create", "--disk", part.children[0].path),
            *("--part", number.read_text().strip(), "--label", LABEL, "--loader", loader),
        ],
        purpose=purpose,
    )


def entries(listing: str) -> list[str]:
    """The numbers of entries with our label: those of an installation before this one."""
    found = []
    for line in listing.splitlines():
        name, _, rest = line.partition(" ")
        label = rest.lstrip("* ").split("\t")[0].strip()
        if name.startswith("Boot") and len(name.rstrip("*")) == len("Boot0000") and label == LABEL:
            found.append(name.rstrip("*").removeprefix("Boot"))
    return found
