"""What was written to a disk, in the order in which the disk was asked: the log of QEMU's filter blklogwrites.

The format is that of Linux' dm-log-writes (drivers/md/dm-log-writes.c): a sector with magic, version, number of entries
and the sector's size; then for each entry a sector that tells of it, and its data.
"""

import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from boot.partitions import Partition

SECTOR = 512
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
_MAGIC, _VERSION = 0x6A736677736872, 1
_HEAD, _ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")
_LARGEST = 1 << 40  # bytes: what a log may grow to, as a hole
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Written:
    """One request: SECTORS from SECTOR on, what kind it was, and where in the log its data is."""

    sector: int
    sectors: int
    flags: int
    data: int


def prepare(file: Path) -> Path:
    """An empty FILE for QEMU to keep its log in: it does not let that grow."""
    with file.open("wb") as log:
        log.truncate(_LARGEST)
    return file


def written(log: BinaryIO) -> Iterator[Written]:
    """All that LOG has up to its end; the number in its head is only right when QEMU has ended."""
    magic, version, _, size = _HEAD.unpack(os.pread(log.fileno(), _HEAD.size, 0))
    assert (magic, version, size) == (_MAGIC, _VERSION, SECTOR)
    at = SECTOR
    while True:
        sector, sectors, flags, _ = _ENTRY.unpack(os.pread(log.fileno(), _ENTRY.size, at))
        if not (sectors or flags):
            return
        yield Written(sector, sectors, flags, at + SECTOR)
        at += SECTOR + (0 if flags & (DISCARD | MARK) else sectors * SECTOR)


def length(file: Path) -> int:
    """How many entries the log FILE has by now."""
    with file.open("rb") as log:
        return sum(1 for _ in written(log))


def cut_out(file: Path, partition: Partition, before: Path, target: Path, marks: Sequence[tuple[int, str]]) -> None:
    """Make of the log FILE of a disk one of a PARTITION alone, as if that were a disk: what `powercut replay` reads.

    BEFORE is the partition as it was; the new log starts by writing that. Flushes between which nothing was written to
    the partition are one. MARKS are (number of entries, name), the first of them is where cuts begin. TARGET gets
    log.img, cuts.json, and as disk.img what the partition came to.
    """
    first, last = partition.start // SECTOR, (partition.start + partition.size) // SECTOR
    due, moved = dict(marks), list[tuple[int, str]]()
    with (target / "log.img").open("wb") as out, file.open("rb") as log:
        out.seek(SECTOR)
        count = _write_state(out, before)
        flushed = True
        for number, entry in enumerate(written(log)):
            if number in due:
                moved.append((count, due.pop(number)))
            low, high = max(entry.sector, first), min(entry.sector + entry.sectors, last)
            if low < high:
                data = b"" if entry.flags & DISCARD else _data(log, entry, low, high)
                out.write(_entry(low - first, high - low, entry.flags & ~FLUSH, data))
                count, flushed = count + 1, False
            if entry.flags & FLUSH and not flushed:
                out.write(_entry(0, 0, FLUSH))
                count, flushed = count + 1, True
        moved += [(count, name) for name in due.values()]
        out.write(bytes(SECTOR))
        out.seek(0)
        out.write(_HEAD.pack(_MAGIC, _VERSION, count, SECTOR))
    partition.extract(target / "disk.img")
    start, *others = moved
    (target / "cuts.json").write_text(json.dumps({"fs": "none", "start": start[0], "end": count, "marks": others}))


def states(directory: Path, before: Path) -> Iterator[tuple[str, Path]]:
    """The partition as it was at the beginning of the cuts ("") and at each mark, by its name, without any loss."""
    cuts = json.loads((directory / "cuts.json").read_text())
    due = [(cuts["start"], ""), *map(tuple, cuts["marks"])]
    image = directory / "state.img"
    with (directory / "log.img").open("rb") as log, image.open("w+b") as out:
        out.truncate(before.stat().st_size)
        number = 0
        entries = written(log)
        for until, name in due:
            while number < until:
                entry = next(entries)
                number += 1
                if entry.sectors:
                    out.seek(entry.sector * SECTOR)
                    out.write(_data(log, entry, entry.sector, entry.sector + entry.sectors))
            out.flush()
            yield name, image
    image.unlink()


def _write_state(out: BinaryIO, before: Path) -> int:
    """Write what is not zero in BEFORE, and a flush; returns how many entries that took."""
    count = 1
    with before.open("rb") as state:
        for at in range(0, before.stat().st_size, _PIECE):
            data = state.read(_PIECE)
            if data.strip(b"\0"):
                out.write(_entry(at // SECTOR, len(data) // SECTOR, 0, data))
                count += 1
    out.write(_entry(0, 0, FLUSH))
    return count


def _entry(sector: int, sectors: int, flags: int, data: bytes = b"") -> bytes:
    return _ENTRY.pack(sector, sectors, flags, 0).ljust(SECTOR, b"\0") + data


def _data(log: BinaryIO, entry: Written, low: int, high: int) -> bytes:
    """What ENTRY has for the sectors from LOW to HIGH."""
    if entry.flags & DISCARD:
        return bytes((high - low) * SECTOR)
    return os.pread(log.fileno(), (high - low) * SECTOR, entry.data + (low - entry.sector) * SECTOR)
