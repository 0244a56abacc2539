"""A mounted filesystem as it was found, and what that means for an installation into it. Pure.

The facts are lines of /proc/self/mountinfo (proc_pid_mountinfo(5)) and lsblk's tree of what the filesystem stands on.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from keelboot.failure import DeviceNotEmpty, Failure
from keelboot.host.install.configuration import FILESYSTEMS
from keelboot.host.mounts import Mount, at, unescaped

ESP_PLACES: Final = ("boot/efi", "efi", "boot")  # where an ESP is looked for below the root, in this order
OWN: Final = ("composefs", "state")  # what an installation makes
_ORDINARY = ("lost+found", "boot", "efi")  # what an empty filesystem may have: mount points, and ext4's own


@dataclass(frozen=True, slots=True)
class Place:
    """A filesystem that is mounted at POINT, and the ESP below it."""

    point: str
    root: Mount
    esp: Mount | None


def place(point: str, mounts: Sequence[Mount]) -> Place:
    """The filesystem at POINT, an absolute path. Raises Failure where nothing that could be a root is mounted there."""
    root = at(point, mounts)
    if root is None:
        raise Failure(
            f"cannot install to {point}",
            why="nothing is mounted there",
            fix=f"Mount the filesystem that is to be the root there: mount DEVICE {point}",
        )
    if root.kind not in FILESYSTEMS or not root.source.startswith("/dev/"):
        raise Failure(
            f"cannot install to {point}",
            why=f"it is {root.kind} on {root.source}, and the root has to be on a disk",
            fix=f"Take {', '.join(FILESYSTEMS)} on a partition, a logical volume, LUKS or RAID.",
        )
    if "ro" in root.options:
        raise Failure(f"cannot install to {point}", why="it is mounted read-only", fix=f"mount -o remount,rw {point}")
    found = (at(str(PurePosixPath(point, name)), mounts) for name in ESP_PLACES)
    return Place(point, root, next((mount for mount in found if mount and mount.kind == "vfat"), None))


def refuse_var(there: Place, mounts: Sequence[Mount]) -> None:
    """Raise Failure where /var has a mount of its own that the initramfs would not find."""
    point = str(PurePosixPath(there.point, "var"))
    if there.point != "/" and at(point, mounts):
        raise Failure(
            f"cannot install to {there.point}",
            why=f"{point} is a filesystem of its own, and /var is a directory of the root's here",
            fix=f"Unmount {point}. A partition for /var is what `keelboot install to-disk` makes.",
        )


def leftovers(names: Collection[str]) -> list[str]:
    """Those of NAMES, in a filesystem's top directory, that neither an empty one has nor an installation makes."""
    return sorted(set(names) - {*_ORDINARY, *OWN})


def refuse_content(point: str, names: Collection[str], replace: str | None) -> None:
    """Raise DeviceNotEmpty where something is there, and --replace does not say what becomes of it."""
    others = leftovers(names)
    if others and replace is None:
        shown = ", ".join(map(ascii, others[:5])) + (", ..." if len(others) > 5 else "")
        raise DeviceNotEmpty(
            f"cannot install to {point}",
            why=f"it is not empty: it has {shown}",
            fix="Add --replace=alongside to leave that as it is, or --replace=wipe to remove it. Nothing was changed.",
        )


def part_mounted(mountinfo: str, point: str) -> str:
    """Which directory or subvolume of its filesystem is mounted at POINT: "/" for all of it."""
    found = "/"
    for line in mountinfo.splitlines():
        words = line.split(" ")
        if len(words) > 4 and unescaped(words[4]) == point:
            found = unescaped(words[3])
    return found


def own_arguments(there: Place, uuid: str, part: str) -> list[str]:
    """What finds the filesystem again, whose UUID is given, of which PART is mounted. Raises Failure."""
    if not uuid:
        raise Failure(
            f"cannot install to {there.point}",
            why=f"nobody tells the UUID of the filesystem on {there.root.source}",
            fix="Say how the root is found: --root-mount-spec /dev/...",
        )
    if part == "/":
        return [f"root=UUID={uuid}"]
    if there.root.kind != "btrfs":
        raise Failure(
            f"cannot install to {there.point}",
            why=f"only the directory {part} of the filesystem on {there.root.source} is mounted there",
            fix="Mount the filesystem itself, not a directory of it.",
        )
    return [f"root=UUID={uuid}", f"rootflags=subvol={part}"]
