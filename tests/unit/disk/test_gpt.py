import struct
import zlib
from uuid import UUID

import pytest

from keelboot.disk import gpt
from keelboot.disk.contents import Usage
from keelboot.disk.layout import Layout, plan

SECTORS = pytest.mark.parametrize("sector", [512, 4096])


@pytest.fixture
def layout() -> Layout:
    return plan("sha256:ab", architecture="amd64", esp=0, store=Usage(1000, 100))


def header(block: bytes) -> dict[str, int | bytes]:
    """Read by the offsets of table 5-5 of the specification, not by the writer's own struct."""
    (size, checksum) = struct.unpack_from("<II", block, 12)
    assert zlib.crc32(block[:16] + bytes(4) + block[20:size]) == checksum
    names = ("at", "other", "first", "last")
    numbers = dict(zip(names, struct.unpack_from("<QQQQ", block, 24), strict=True))
    (entries, count, entry_size, entries_checksum) = struct.unpack_from("<QIII", block, 72)
    assert block[:8] == b"EFI PART"
    assert block[size:].strip(b"\0") == b""
    return numbers | {
        "disk": block[56:72],
        "entries": entries,
        "count": count,
        "entry_size": entry_size,
        "entries_checksum": entries_checksum,
    }


@SECTORS
def test_headers_name_each_other(layout: Layout, sector: int) -> None:
    head = header(gpt.primary(layout, sector=sector)[sector : 2 * sector])
    foot = header(gpt.backup(layout, sector=sector)[-sector:])
    end = layout.size // sector - 1
    assert (head["at"], head["other"]) == (1, end)
    assert (foot["at"], foot["other"]) == (end, 1)
    same = ("disk", "first", "last", "count", "entry_size", "entries_checksum")
    assert [head[name] for name in same] == [foot[name] for name in same]


@SECTORS
def test_entries_lie_where_the_headers_say(layout: Layout, sector: int) -> None:
    head, foot = gpt.primary(layout, sector=sector), gpt.backup(layout, sector=sector)
    disk_end = layout.size // sector
    for block, whole, begin in (
        (head[sector : 2 * sector], head, 0),
        (foot[-sector:], foot, disk_end - len(foot) // sector),
    ):
        said = header(block)
        at = (int(said["entries"]) - begin) * sector
        entries = whole[at : at + 128 * 128]
        assert zlib.crc32(entries) == said["entries_checksum"]
        assert UUID(bytes_le=entries[:16]) == layout.esp.type


@SECTORS
def test_entries_describe_the_partitions(layout: Layout, sector: int) -> None:
    entries = gpt.primary(layout, sector=sector)[2 * sector :]
    for number, part in enumerate(layout.partitions):
        entry = entries[number * 128 : number * 128 + 128]
        first, last, attributes = struct.unpack_from("<QQQ", entry, 32)
        assert (UUID(bytes_le=entry[:16]), UUID(bytes_le=entry[16:32])) == (part.type, part.uuid)
        assert (first * sector, (last + 1) * sector) == (part.start, part.end)
        assert entry[56:].decode("utf-16-le").rstrip("\0") == part.name
        assert attributes == (1 << 59 if part is layout.var else 0)
    assert entries[3 * 128 :].strip(b"\0") == b""


def test_old_tools_see_a_full_disk(layout: Layout) -> None:
    block = gpt.primary(layout)[:512]
    assert block[510:] == b"\x55\xaa"
    assert block[446:454] == bytes.fromhex("00000200eeffffff")
    assert struct.unpack_from("<II", block, 454) == (1, layout.size // 512 - 1)
    assert block[462:510] == bytes(48)


def test_tables_fit_before_the_first_partition(layout: Layout) -> None:
    assert len(gpt.primary(layout)) == 34 * 512
    assert len(gpt.backup(layout)) == 33 * 512


def test_refuses_what_a_sector_cannot_express(layout: Layout) -> None:
    with pytest.raises(ValueError, match="GPT"):
        gpt.primary(layout, sector=3 * 512)
