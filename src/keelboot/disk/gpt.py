"""GUID partition table of a layout (UEFI specification 2.10, section 5): bytes for both ends of the disk."""

import struct
import zlib
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from keelboot.disk.layout import Partition

_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_MBR_ENTRY = struct.Struct("<BBBBBBBBII")
_ENTRIES = 128
_REVISION = 0x00010000
_NAME_BYTES = 72


class Partitioned(Protocol):
    """A disk of `size` bytes, and what lies where on it."""

    @property
    def size(self) -> int: ...
    @property
    def uuid(self) -> UUID: ...
    @property
    def partitions(self) -> Sequence[Partition]: ...


def primary(layout: Partitioned, *, sector: int = 512) -> bytes:
    """What the disk begins with: protective MBR, header and entries. SECTOR is the disk's logical block size."""
    entries = _entries(layout, sector)
    last = layout.size // sector - 1
    header = _header(layout, sector, entries, at=1, other=last, entries_at=2)
    return _protective_mbr(last).ljust(sector, b"\0") + header.ljust(sector, b"\0") + entries


def backup(layout: Partitioned, *, sector: int = 512) -> bytes:
    """What the disk ends with: entries and header."""
    entries = _entries(layout, sector)
    last = layout.size // sector - 1
    header = _header(layout, sector, entries, at=last, other=1, entries_at=last - len(entries) // sector)
    return entries + header.ljust(sector, b"\0")


def _entries(layout: Partitioned, sector: int) -> bytes:
    return b"".join(_entry(partition, sector) for partition in layout.partitions).ljust(_ENTRIES * _ENTRY.size, b"\0")


def _entry(partition: Partition, sector: int) -> bytes:
    name = partition.name.encode("utf-16-le")
    if len(name) > _NAME_BYTES or partition.start % sector or partition.size % sector:
        raise ValueError(f"cannot be described in a GPT: {partition}")
    return _ENTRY.pack(
        partition.type.bytes_le,
        partition.uuid.bytes_le,
        partition.start // sector,
        partition.end // sector - 1,  # the last block that belongs to it
        partition.attributes,
        name,
    )


def _header(layout: Partitioned, sector: int, entries: bytes, *, at: int, other: int, entries_at: int) -> bytes:
    def packed(checksum: int) -> bytes:
        return _HEADER.pack(
            b"EFI PART",
            _REVISION,
            _HEADER.size,
            checksum,
            0,
            at,
            other,
            2 + entry_blocks,  # the first usable block
            layout.size // sector - 2 - entry_blocks,  # the last
            layout.uuid.bytes_le,
            entries_at,
            _ENTRIES,
            _ENTRY.size,
            zlib.crc32(entries),
        )

    entry_blocks = len(entries) // sector
    return packed(zlib.crc32(packed(0)))


def _protective_mbr(last: int) -> bytes:
    # One partition of type 0xEE over the whole disk, or as much as 32 bits can say (section 5.2.3).
    entry = _MBR_ENTRY.pack(0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, min(last, 0xFFFFFFFF))
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"
