import hashlib
import io
import json
import random
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keelboot.image.archive import Archive, Kind, Limits
from keelboot.image.refusal import Refused

GNU = b"ustar  \0"
V7 = bytes(8)

REFUSED = {
    "L19 PAX size larger than the archive": lambda t: t.pax((b"size", b"2048")) + t.file(b"a", b"x" * 512),
    "L20 length too long": lambda t: t.raw_pax(b"99 path=a\n") + t.file(b"a"),
    "L20 length too short": lambda t: t.raw_pax(b"5 path=a\n") + t.file(b"a"),
    "L20 length 0": lambda t: t.raw_pax(b"0 path=a\n") + t.file(b"a"),
    "L20 length huge": lambda t: t.raw_pax(b"99999999999999999999 path=a\n") + t.file(b"a"),
    "L20 length negative": lambda t: t.raw_pax(b"-1 path=a\n") + t.file(b"a"),
    "L20 length in hex": lambda t: t.raw_pax(b"0xa path=a\n") + t.file(b"a"),
    "L20 no equals sign": lambda t: t.raw_pax(b"8 patha\n") + t.file(b"a"),
    "L20 no newline": lambda t: t.raw_pax(b"10 path=aa") + t.file(b"a"),
    "L20 no keyword": lambda t: t.raw_pax(b"6 =ab\n") + t.file(b"a"),
    "L20 only the length": lambda t: t.raw_pax(b"3 \n") + t.file(b"a"),
    "L20 no length": lambda t: t.raw_pax(b"path=a\n") + t.file(b"a"),
    "L20 empty header": lambda t: t.raw_pax(b"") + t.file(b"a"),
    "L21 keyword twice": lambda t: t.pax((b"path", b"a"), (b"path", b"b")) + t.file(b"c"),
    "L21 two PAX headers": lambda t: t.pax((b"path", b"a")) + t.pax((b"path", b"b")) + t.file(b"c"),
    "L21 PAX and GNU name": lambda t: t.pax((b"path", b"a")) + t.gnu(b"L", b"b\0") + t.file(b"c"),
    "L21 GNU name and PAX": lambda t: t.gnu(b"L", b"b\0") + t.pax((b"path", b"a")) + t.file(b"c"),
    "L21 two GNU names": lambda t: t.gnu(b"L", b"a\0") + t.gnu(b"L", b"b\0") + t.file(b"c"),
    "L21 headers for nothing": lambda t: t.pax((b"path", b"a")),
    "L22 NUL in keyword": lambda t: t.pax((b"pa\0th", b"a")) + t.file(b"a"),
    "L22 NUL in path": lambda t: t.pax((b"path", b"a\0b")) + t.file(b"a"),
    "L22 NUL in linkpath": lambda t: t.pax((b"linkpath", b"a\0b")) + t.symlink(b"a", b"x"),
    "L22 NUL in uname": lambda t: t.pax((b"uname", b"a\0b")) + t.file(b"a"),
    "L22 NUL in GNU name": lambda t: t.gnu(b"L", b"a\0b\0") + t.file(b"a"),
    "L22 empty path": lambda t: t.pax((b"path", b"")) + t.file(b"a"),
    "L23 global path": lambda t: t.pax((b"path", b"a"), kind=b"g") + t.file(b"b"),
    "L23 global size": lambda t: t.pax((b"size", b"0"), kind=b"g") + t.file(b"b", b"x"),
    "L23 global linkpath": lambda t: t.pax((b"linkpath", b"a"), kind=b"g") + t.symlink(b"b", b"c"),
    "L24 negative size": lambda t: t.header(b"a", size=b"\xff" * 12),
    "L24 huge base-256 size": lambda t: t.header(b"a", size=b"\x80\0\0\0" + b"\xff" * 8),
    "L24 negative PAX size": lambda t: t.pax((b"size", b"-1")) + t.file(b"a"),
    "L24 PAX size over 63 bits": lambda t: t.pax((b"size", b"9223372036854775808")) + t.file(b"a"),
    "L24 minus sign in size": lambda t: t.header(b"a", size=b"-0000000001"),
    "L24 underscore in size": lambda t: t.header(b"a", size=b"0000_000001"),
    "L24 prefix in size": lambda t: t.header(b"a", size=b"0o000000001"),
    "L24 nine in size": lambda t: t.header(b"a", size=b"00000000009"),
    "L24 number after NUL": lambda t: t.header(b"a", size=b"0000\0000001"),
    "L24 negative mode": lambda t: t.file(b"a", mode=b"\xff" * 8),
    "L24 huge mode": lambda t: t.file(b"a", mode=b"7777777"),
    "L25 GNU sparse": lambda t: t.header(b"a", b"S", magic=GNU),
    "L25 PAX sparse 0.0": lambda t: t.pax((b"GNU.sparse.size", b"60000000000")) + t.file(b"a"),
    "L25 PAX sparse 1.0": lambda t: t.pax((b"GNU.sparse.major", b"1")) + t.file(b"a"),
    "L25 star sparse": lambda t: t.pax((b"SCHILY.realsize", b"60000000000")) + t.file(b"a"),
    "L26 PAX header of 1 MB": lambda t: t.header(b"x", b"x", 1 << 20) + bytes(1 << 20),
    "L26 PAX header announced": lambda t: t.header(b"x", b"x", 1 << 33),
    "L26 long name of 1 MB": lambda t: t.gnu(b"L", b"a" * (1 << 20)) + t.file(b"a"),
    "L26 long link over PATH_MAX": lambda t: t.gnu(b"K", b"a" * 4097) + t.symlink(b"a", b"b"),
    "L26 PAX path over PATH_MAX": lambda t: t.pax((b"path", b"a/" * 2048)) + t.dir(b"a"),
    "L27 size larger than the rest": lambda t: t.header(b"a", size=1 << 34),
    "L28 directory with content": lambda t: t.header(b"a", b"5", 5) + t.padded(b"hello"),
    "L28 hard link with content": lambda t: t.file(b"a") + t.header(b"b", b"1", 5, link=b"a") + t.padded(b"hello"),
    "L28 symlink with content": lambda t: t.header(b"a", b"2", 5, link=b"b") + t.padded(b"hello"),
    "L28 device with content": lambda t: t.header(b"a", b"3", 5, major=1, minor=3) + t.padded(b"hello"),
    "L28 fifo with content": lambda t: t.header(b"a", b"6", 5) + t.padded(b"hello"),
    "L29 wrong checksum": lambda t: t.header(b"a", checksum=b"000000\0 "),
    "L29 no checksum": lambda t: t.header(b"a", checksum=b" " * 8),
    "L29 garbage between headers": lambda t: t.file(b"a") + b"garbage!" * 64 + t.file(b"b"),
    "L29 data after the end": lambda t: t.end(t.file(b"a")) + t.file(b"b"),
    "L29 data after one zero block": lambda t: t.file(b"a") + bytes(512) + t.file(b"b"),
    "L29 a byte after the end": lambda t: t.end(t.file(b"a")) + bytes(100_000) + b"!",
    "L30 unknown magic": lambda t: t.file(b"a", magic=b"ustar\x0001"),
    "L30 half a magic": lambda t: t.file(b"a", magic=b"ustar\0  "),
    "L30 v7 device": lambda t: t.header(b"a", b"3", magic=V7, major=1, minor=3),
    "L30 PAX under GNU magic": lambda t: t.header(b"x", b"x", 10, magic=GNU) + t.padded(b"10 path=a\n") + t.file(b"a"),
    "L30 directory's name, file's type": lambda t: t.header(b"a/"),
    "L31 unknown type": lambda t: t.header(b"a", b"Z"),
    "L31 GNU dump directory": lambda t: t.header(b"a", b"D", magic=GNU),
    "L31 GNU volume header": lambda t: t.header(b"a", b"V", magic=GNU),
    "L31 GNU multi-volume": lambda t: t.header(b"a", b"M", magic=GNU),
    "L31 Solaris extended header": lambda t: t.header(b"a", b"X"),
    "L32 uid -1": lambda t: t.file(b"a", uid=b"\xff" * 8),
    "L32 uid 2**32-1": lambda t: t.file(b"a", uid=b"\x80\0\0\0\xff\xff\xff\xff"),
    "L32 uid 2**32": lambda t: t.file(b"a", uid=b"\x80\0\0\x01\0\0\0\0"),
    "L32 gid 2**32": lambda t: t.file(b"a", gid=b"\x80\0\0\x01\0\0\0\0"),
    "L32 PAX uid -1": lambda t: t.pax((b"uid", b"-1")) + t.file(b"a"),
    "L32 PAX uid 2**32-1": lambda t: t.pax((b"uid", b"4294967295")) + t.file(b"a"),
    "L32 PAX gid 2**32": lambda t: t.pax((b"gid", b"4294967296")) + t.file(b"a"),
    "L34 no namespace": lambda t: t.pax((b"SCHILY.xattr.foo", b"1")) + t.file(b"a"),
    "L34 namespace only": lambda t: t.pax((b"SCHILY.xattr.user.", b"1")) + t.file(b"a"),
    "L34 no name": lambda t: t.pax((b"SCHILY.xattr.", b"1")) + t.file(b"a"),
    "L34 long name": lambda t: t.pax((b"SCHILY.xattr.user." + b"x" * 251, b"1")) + t.file(b"a"),
    "L34 long value": lambda t: t.pax((b"SCHILY.xattr.user.x", b"1" * 65537)) + t.file(b"a"),
    "L34 too many": lambda t: t.pax(*((b"SCHILY.xattr.user.%0200d" % n, b"") for n in range(400))) + t.file(b"a"),
    "L34 twice": lambda t: t.pax((b"SCHILY.xattr.user.x", b"1"), (b"SCHILY.xattr.user.x", b"2")) + t.file(b"a"),
    "L45 mtime in the year 9999": lambda t: t.file(b"a", mtime=253402300799),
    "L45 PAX mtime in the year 9999": lambda t: t.pax((b"mtime", b"253402300799")) + t.file(b"a"),
    "L45 PAX mtime before 1901": lambda t: t.pax((b"mtime", b"-2147483649")) + t.file(b"a"),
    "L45 no number": lambda t: t.pax((b"mtime", b"1e9")) + t.file(b"a"),
    "L45 two points": lambda t: t.pax((b"mtime", b"1.2.3")) + t.file(b"a"),
    "L45 no seconds": lambda t: t.pax((b"mtime", b".5")) + t.file(b"a"),
    "L46 device number over 12 bits": lambda t: t.header(b"a", b"3", major=4096, minor=0),
    "L46 device number over 20 bits": lambda t: t.header(b"a", b"4", major=1, minor=1 << 20),
    "L46 device number in PAX": lambda t: t.pax((b"SCHILY.devmajor", b"1")) + t.header(b"a", b"3"),
    "no name": lambda t: t.header(b""),
    "no target": lambda t: t.symlink(b"a", b""),
    "names in another character set": lambda t: t.pax((b"hdrcharset", b"ISO-IR 8859 1 1998")) + t.file(b"a"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case, tar):
    with pytest.raises(Refused) as refusal:
        tar.read(tar.end(REFUSED[case](tar)))
    assert str(refusal.value).isprintable()


ACCEPTED = {
    "L19 PAX size wins": (
        lambda t: t.pax((b"size", b"600")) + t.header(b"a", size=3) + t.padded(b"x" * 600) + t.file(b"b"),
        lambda e: ([one.size for one in e], [one.name for one in e]) == ([600, 0], [b"a", b"b"]),
    ),
    "L21 GNU name and link": (
        lambda t: t.gnu(b"K", b"k" * 200 + b"\0") + t.gnu(b"L", b"l" * 200 + b"\0") + t.symlink(b"x", b"y", magic=GNU),
        lambda e: (e[0].name, e[0].link) == (b"l" * 200, b"k" * 200),
    ),
    "L23 global comment": (
        lambda t: t.pax((b"comment", b"0123abc"), kind=b"g") + t.file(b"a"),
        lambda e: [one.name for one in e] == [b"a"],
    ),
    "L24 base-256 size": (
        lambda t: t.file(b"a", b"hello", size=b"\x80" + bytes(10) + b"\x05"),
        lambda e: e[0].size == 5,
    ),
    "L24 file type in mode": (lambda t: t.file(b"a", mode=0o100755), lambda e: e[0].permissions == 0o755),
    "L29 zeros after the end": (lambda t: t.end(t.file(b"a")) + bytes(100_000), lambda e: len(e) == 1),
    "L30 ustar prefix": (lambda t: t.file(b"b", prefix=b"a"), lambda e: e[0].name == b"a/b"),
    "L30 GNU has no prefix": (lambda t: t.file(b"b", prefix=b"a", magic=GNU), lambda e: e[0].name == b"b"),
    "L30 v7 has no prefix": (lambda t: t.file(b"b", prefix=b"a", magic=V7), lambda e: e[0].name == b"b"),
    "L30 v7 directory": (lambda t: t.header(b"a/", b"\0", magic=V7), lambda e: e[0].kind is Kind.DIRECTORY),
    "L30 star's prefix is shorter": (
        lambda t: t.file(b"b", prefix=b"a".ljust(131, b"\0") + b"00000000000 ", tail=b"tar\0"),
        lambda e: e[0].name == b"a/b",
    ),
    "L31 contiguous file": (lambda t: t.file(b"a", b"x", kind=b"7"), lambda e: e[0].kind is Kind.FILE),
    "L32 uid 2**31": (lambda t: t.file(b"a", uid=b"\x80\0\0\0\x80\0\0\0"), lambda e: e[0].uid == 2**31),
    "L32 largest PAX uid": (
        lambda t: t.pax((b"uid", b"4294967294"), (b"gid", b"7")) + t.file(b"a"),
        lambda e: (e[0].uid, e[0].gid) == (2**32 - 2, 7),
    ),
    "L34 largest value": (
        lambda t: t.pax((b"SCHILY.xattr.user.x", b"\0" * 65536)) + t.file(b"a"),
        lambda e: e[0].xattrs == {b"user.x": b"\0" * 65536},
    ),
    "L34 xattrs of one entry are not the next one's": (
        lambda t: t.pax((b"SCHILY.xattr.user.x", b"=\n=")) + t.file(b"a") + t.file(b"b"),
        lambda e: [one.xattrs for one in e] == [{b"user.x": b"=\n="}, {}],
    ),
    "L45 negative": (lambda t: t.pax((b"mtime", b"-1")) + t.file(b"a"), lambda e: e[0][6:8] == (-1, 0)),
    "L45 negative with fraction": (
        lambda t: t.pax((b"mtime", b"-1.25")) + t.file(b"a"),
        lambda e: e[0][6:8] == (-2, 750_000_000),
    ),
    "L45 long fraction": (
        lambda t: t.pax((b"mtime", b"1.0000000019")) + t.file(b"a"),
        lambda e: e[0][6:8] == (1, 1),
    ),
    "L45 base-256": (lambda t: t.file(b"a", mtime=b"\xff" * 12), lambda e: e[0].mtime == -1),
    "L46 devices": (
        lambda t: t.header(b"a", b"3", major=1, minor=1) + t.header(b"b", b"4", major=8, minor=1 << 19),
        lambda e: [(one.kind, one.rdev) for one in e] == [(Kind.CHARACTER, 0x101), (Kind.BLOCK, 0x80000800)],
    ),
    "vendor records": (lambda t: t.pax((b"LIBARCHIVE.xattr.x", b"AA")) + t.file(b"a"), lambda e: not e[0].xattrs),
    "empty": (lambda _: b"", lambda e: e == []),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_reads(case, tar):
    make, holds = ACCEPTED[case]
    data = tar.end(make(tar))
    for block in (1 << 20, 512, 700, 37):
        entries = [entry for entry, _ in tar.read(data, block=block)]
        assert holds(entries), entries


def test_vectors(vectors, tar):
    """Every archive is decided as its expectation says."""
    for case in json.loads((vectors / "expected.json").read_text()):
        data = (vectors / "go" / case["file"]).read_bytes()
        try:
            found = [_described(entry, content) for entry, content in tar.read(data, block=4096)]
        except Refused:
            assert "refuse" in case["expect"], case["file"]
            continue
        assert case["expect"] != "refuse", case["file"]
        for seen, wanted in zip(found, case["entries"], strict=True):
            assert {key: seen[key] for key in wanted} == wanted, case["file"]


_WORDS = {
    Kind.FILE: "file", Kind.DIRECTORY: "dir", Kind.HARD_LINK: "hardlink", Kind.SYMLINK: "symlink",
    Kind.CHARACTER: "char", Kind.BLOCK: "block", Kind.FIFO: "fifo",
}  # fmt: skip


def _described(entry, content):
    text = str(entry.mtime)
    return {
        "name": entry.name.decode("utf-8", "backslashreplace"),
        "type": _WORDS[entry.kind],
        "mode": f"{entry.permissions:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": entry.mtime if not entry.mtime_nsec else f"{text}.{entry.mtime_nsec:09d}".rstrip("0"),
        "link": entry.link.decode(),
        "device": [entry.rdev >> 8, entry.rdev & 0xFF],
        "xattrs": {key.decode(): value.decode() for key, value in entry.xattrs.items()},
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_l27_truncated_anywhere_inside_an_entry(tar):
    data = tar.pax((b"path", b"a")) + tar.file(b"x", b"y" * 1000) + tar.gnu(b"L", b"b\0") + tar.file(b"x", magic=GNU)
    whole = [0, 1024 + 512 + 1024, len(data)]  # between entries nothing is missing that the archive itself could know
    for cut in range(0, len(data), 128):
        if cut not in whole:
            with pytest.raises(Refused):
                tar.read(data[:cut])


def test_l29_every_changed_byte_of_a_header_is_noticed(tar):
    header = tar.file(b"name", uid=1000, mtime=1_700_000_000)
    for at in [*range(148), *range(156, 512)]:
        changed = header[:at] + bytes([header[at] ^ 1]) + header[at + 1 :]
        with pytest.raises(Refused, match="checksum"):
            tar.read(changed)


def test_checksum_of_the_largest_headers(tar):
    """The sum of bytes is exact where two adler32 of half a header are taken for it."""
    name = b"\xff" * 100
    assert tar.read(tar.file(name, prefix=b"\xff" * 155))[0][0].name == b"\xff" * 155 + b"/" + name


def test_l35_many_entries_are_refused_in_bounded_memory(tar):
    one = tar.file(b"a")
    with pytest.raises(Refused, match="more than 1000 entries"):
        tar.read(one * 1001, Limits(entries=1000))
    tar.read(one * 1000, Limits(entries=1000))


def test_l35_many_extended_headers_are_refused(tar):
    one = tar.pax((b"comment", b"x" * 1000)) + tar.file(b"a")
    with pytest.raises(Refused, match="altogether"):
        tar.read(one * 20, Limits(headers=10_000))


def test_unread_content_is_passed_over(tar):
    data = tar.end(tar.file(b"a", b"x" * 5000), tar.file(b"b", b"y"))
    entries = Archive([data[at : at + 700] for at in range(0, len(data), 700)])
    names = []
    for entry, content in entries:
        names.append(entry.name)
        if entry.name == b"a":
            assert next(content)
    assert names == [b"a", b"b"]


def test_skips_where_the_source_can_seek(tar):
    file = io.BytesIO(tar.end(tar.file(b"a", b"x" * 100_000), tar.file(b"b", b"y" * 700)))
    archive = Archive(iter(lambda: file.read(512), b""), skip=lambda size: file.seek(size, io.SEEK_CUR))
    found = [(entry.name, archive.position) for entry, _ in archive]
    assert found == [(b"a", 512), (b"b", 512 + 100_352 + 512)]


_NAMES = st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_reads_what_python_writes(data):
    """Entries written by the standard library, in its three formats, come back as they were."""
    kind = data.draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    limit = 0o7777777 if kind == tarfile.USTAR_FORMAT else 2**32 - 2
    wanted = []
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for _ in range(data.draw(st.integers(0, 6))):
            depth = data.draw(st.integers(1, 2 if kind == tarfile.USTAR_FORMAT else 9))
            parts = [data.draw(_NAMES) for _ in range(depth)]
            if kind == tarfile.USTAR_FORMAT:
                parts = [part.encode()[:12].decode("utf-8", "ignore") or "x" for part in parts]
            info = tarfile.TarInfo("/".join(parts))
            info.mode = data.draw(st.integers(0, 0o7777))
            info.uid, info.gid = data.draw(st.integers(0, limit)), data.draw(st.integers(0, limit))
            info.mtime = data.draw(st.integers(0, 2**33 - 1))
            content = data.draw(st.binary(max_size=2000))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            wanted.append((info.name.encode(), info.mode, info.uid, info.gid, info.mtime, content))
    text = file.getvalue()
    size = data.draw(st.integers(100, 20_000))
    blocks = [text[at : at + size] for at in range(0, len(text), size)]
    found = [
        (entry.name, entry.permissions, entry.uid, entry.gid, entry.mtime, b"".join(content))
        for entry, content in Archive(blocks)
    ]
    assert found == wanted


def test_random_damage_is_read_or_refused(tar):
    """No other exception escapes, whatever the bytes are."""
    chance = random.Random(1)
    data = tar.end(
        tar.pax((b"path", b"long"), (b"SCHILY.xattr.user.x", b"v"), (b"mtime", b"1.5")), tar.file(b"x", b"abc"),
        tar.gnu(b"L", b"name\0"), tar.symlink(b"x", b"t", magic=GNU), tar.header(b"d", b"3", major=1, minor=3),
    )  # fmt: skip
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        for at in (0, 1024, 2048, 3072, 3584):  # most damage is to have a checksum that holds
            block = changed[at : at + 512]
            if len(block) == 512:
                block[148:156] = b" " * 8
                changed[at + 148 : at + 156] = b"%06o\0 " % sum(block)
        try:
            tar.read(bytes(changed))
        except Refused:
            continue
