"""A block device as it was found: what is on it, who uses it, and whether it may be written over. Pure.

The facts are what lsblk(8) and wipefs(8) print as JSON; both are read like a stranger's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from keelboot.failure import DeviceInUse, DeviceNotEmpty, NotWritable

COLUMNS: Final = "NAME,PATH,TYPE,SIZE,RO,LOG-SEC,FSTYPE,LABEL,UUID,PTTYPE,PARTTYPE,PARTUUID,MOUNTPOINTS,MODEL"
_WHOLE = ("disk", "loop")
_HOLDERS = {"lvm": "a logical volume", "crypt": "an open LUKS volume", "mpath": "a multipath device"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A device of lsblk's tree, with what stands on it."""

    path: str
    type: str  # disk, part, loop, lvm, crypt, raid1, ...
    size: int  # bytes
    read_only: bool = False
    sector: int = 512  # bytes of a logical block
    filesystem: str = ""
    label: str = ""
    uuid: str = ""
    table: str = ""  # gpt, dos
    partition_type: str = ""
    partition_uuid: str = ""
    mounted_at: tuple[str, ...] = ()
    model: str = ""
    children: tuple["Node", ...] = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """The node that VALUE, of lsblk's "blockdevices", describes. Raises ValueError."""
        if not isinstance(value, dict):
            raise ValueError("lsblk printed no device")  # noqa: TRY004 - one error for whatever is wrong with the text
        places = value.get("mountpoints") or []
        return cls(
            path=_text(value, "path"),
            type=_text(value, "type"),
            size=int(value.get("size") or 0),
            read_only=_flag(value, "ro"),
            sector=int(value.get("log-sec") or 512),
            filesystem=_text(value, "fstype"),
            label=_text(value, "label"),
            uuid=_text(value, "uuid"),
            table=_text(value, "pttype"),
            partition_type=_text(value, "parttype"),
            partition_uuid=_text(value, "partuuid"),
            mounted_at=tuple(place for place in places if isinstance(place, str)),
            model=_text(value, "model").strip(),
            children=tuple(cls.parse(child) for child in value.get("children") or []),
        )

    def walk(self) -> Iterator["Node"]:
        """The device and all above it."""
        yield self
        for child in self.children:
            yield from child.walk()


def signatures(wipefs: object) -> list[str]:
    """The words for what wipefs found, from the JSON of `wipefs --no-act --json`. Raises ValueError."""
    found = wipefs.get("signatures", []) if isinstance(wipefs, dict) else []
    if not isinstance(found, list):
        raise ValueError("wipefs printed no list of signatures")  # noqa: TRY004 - as above
    told: dict[str, None] = {}
    for one in found:
        kind, label = _text(one, "type"), _text(one, "label")
        told[f"{kind} ({label!a})" if label else kind] = None
    return list(told)


def uses(device: Node) -> list[str]:
    """Who uses DEVICE, as clauses; none where nobody does."""
    told = []
    for node in device.walk():
        told += [
            f"{node.path} is in use as swap" if place == "[SWAP]" else f"{node.path} is mounted at {place}"
            for place in node.mounted_at
        ]
        if node is not device and node.type != "part":
            what = "a RAID array" if node.type.startswith("raid") else _HOLDERS.get(node.type, f"a {node.type}")
            told.append(f"{node.path} is {what} on it")
    return told


def losses(device: Node, found: Mapping[str, list[str]]) -> list[str]:
    """What would be lost with DEVICE, as clauses; FOUND has the signatures on each path."""
    told = []
    for node in device.walk():
        content = [word for word in found.get(node.path, []) if word not in ("dos", "PMBR", "gpt")]
        table = node.table if node is device else ""
        if node is device and not table and len(content) < len(found.get(node.path, [])):
            table = "gpt" if "gpt" in found[node.path] else "dos"
        if table:
            parts = sum(child.type == "part" for child in node.children)
            told.append(f"{node.path}: a partition table ({table}) with {parts} partition{'' if parts == 1 else 's'}")
        if not content and node.filesystem:
            content = [node.filesystem + (f" ({node.label!a})" if node.label else "")]
        told += [f"{node.path}: {word}, {shown(node.size)}" for word in content]
    return told


def refuse_kind(device: Node) -> None:
    """Raise Failure unless DEVICE is a whole disk that can be written."""
    if device.type == "part":
        raise NotWritable(
            f"cannot install to {device.path}",
            why="it is a partition, and `to-disk` takes a whole disk",
            fix="Name its disk, or make a filesystem there, mount it and use `keelboot install to-filesystem`.",
        )
    if device.type not in _WHOLE:
        raise NotWritable(
            f"cannot install to {device.path}",
            why=f"it is a device of type {device.type}, not a disk",
            fix="Make a filesystem on it, mount it with an ESP at boot/efi, and use `keelboot install to-filesystem`.",
        )
    if device.read_only:
        raise NotWritable(
            f"cannot install to {device.path}",
            why="it is read-only",
            fix="Name another disk, or lift the write protection (`blockdev --setrw`).",
        )


def refuse_use(path: str, in_use: list[str]) -> None:
    """Raise DeviceInUse where anybody uses it; no option overrides that."""
    if in_use:
        raise DeviceInUse(
            f"cannot install to {path}",
            why="; ".join(in_use),
            fix="Unmount it, close what is open on it, or name another disk. `lsblk` shows what uses it.",
        )


def refuse_content(path: str, lost: list[str]) -> None:
    """Raise DeviceNotEmpty where LOST is anything."""
    if lost:
        raise DeviceNotEmpty(
            f"cannot install to {path}",
            why="it has data on it:\n  " + "\n  ".join(lost),
            fix="Add --wipe if all of that may go. Nothing was changed.",
        )


def partition_path(disk: str, number: int) -> str:
    """What the kernel calls partition NUMBER of DISK: sda1, nvme0n1p1."""
    return f"{disk}{'p' if disk[-1].isdigit() else ''}{number}"


def shown(size: int) -> str:
    """SIZE in the unit that people say."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""


def _flag(value: Mapping[str, Any], key: str) -> bool:
    # util-linux before 2.33 printed "0" and "1".
    return value.get(key) in (True, 1, "1")
