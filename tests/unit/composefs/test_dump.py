"""The text form: what is read, what is refused, and that writing and reading are inverse."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelboot.composefs import dump
from keelboot.composefs.inodes import Inode, Link
from keelboot.failure import InvalidImage

ROOT = b"/ 0 40755 2 0 0 0 0.0 - - -\n"
DIGEST = b"ab" * 32


def file_of(line: bytes) -> Inode:
    (child,) = dump.parse(ROOT + line).children.values()
    assert isinstance(child, Inode)
    return child


def test_fields() -> None:
    file = file_of(b"/f 7 104755 2 3 4 5 -6.7 ab/cd - " + DIGEST + b" user.a=1 user.b= user.a=2\n")
    assert (file.size, file.mode, file.nlink, file.uid, file.gid) == (7, 0o104755, 2, 3, 4)
    assert (file.mtime, file.mtime_nsec) == (-6, 7)
    assert (file.payload, file.content, file.digest) == (b"ab/cd", None, b"\xab" * 32)
    assert file.xattrs == {b"user.a": b"2", b"user.b": b""}


def test_escapes() -> None:
    file = file_of(rb"/a\x20\\\n\r\t\x3D 1 100644 1 0 0 0 0.0 - \x2d -" + b"\n")
    assert file.content == b"-"
    assert list(dump.parse(ROOT + rb"/a\x20\\\n\r\t\x3D 0 10644 1 0 0 0 0.0 - - -").children) == [b"a \\\n\r\t="]


def test_hard_link_before_its_target_and_through_another() -> None:
    root = dump.parse(
        ROOT
        + b"/a 0 @120000 - - - - - /b - -\n/b 0 @120000 - - - - - /c - -\n/c 0 100644 3 0 0 0 0.0 - - -\n"
    )  # fmt: skip
    assert isinstance(root.children[b"c"], Inode)
    for name in (b"a", b"b"):
        link = root.children[name]
        assert isinstance(link, Link)
        assert link.inode is root.children[b"c"]


def test_what_an_image_has_no_place_for_is_dropped() -> None:
    empty = file_of(b"/f 0 100644 1 0 0 0 0.0 ab/cd - " + DIGEST)
    assert (empty.payload, empty.digest) == (None, None)


FIFO = b"/f 0 10644 1 0 0 0 0.0 - - -"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no root"),
        (ROOT + ROOT, "line 2: .*second root"),
        (b"/ 0 100644 1 0 0 0 0.0 - - -\n", "not a directory"),
        (FIFO + b"\n" + ROOT, "line 1: no directory"),
        (ROOT + b"\n" + FIFO, "line 2: fields are missing"),
        (ROOT + b"/f 0 10644 1 0 0 0", "fields are missing"),
        (ROOT + FIFO + b"\0", "zero byte"),
        (ROOT + FIFO + b"\n/f/g" + FIFO[2:], "line 3: no directory"),
        (ROOT + FIFO + b"\n" + FIFO, "twice"),
        (ROOT + FIFO[1:], "no directory"),
        (ROOT + b"/" + FIFO, "no directory"),
        (ROOT + b"/d" + ROOT[1:] + b"/d/" + FIFO[2:], "empty"),
        (ROOT + b"/." + FIFO[2:], "is `.` or `..`"),
        (ROOT + b"/" + b"n" * 256 + FIFO[2:], "256 bytes"),
        (ROOT + rb"/n\x00" + FIFO[2:], "zero byte"),
        (ROOT + rb"/n\q" + FIFO[2:], "not an escape"),
        (ROOT + rb"/n\x4" + FIFO[2:], "not an escape"),
        (ROOT + b"/n\\" + FIFO[2:], "not an escape"),
        (ROOT + b"/f 0 644 1 0 0 0 0.0 - - -", "no file type"),
        (ROOT + b"/f 0 10648 1 0 0 0 0.0 - - -", "octal"),
        (ROOT + b"/f x 10644 1 0 0 0 0.0 - - -", "`x` is not a number"),
        (ROOT + b"/f 0 10644 1 -1 0 0 0.0 - - -", "`-1` is not a number"),
        (ROOT + b"/f 0 10644 1 1 x 0 0.0 - - -", "`x` is not a number"),
        (ROOT + b"/f 0 10644 1 4294967296 0 0 0.0 - - -", "32-bit"),
        (ROOT + b"/f 0 10644 1 0 0 0 1 - - -", "SECONDS.NANOSECONDS"),
        (ROOT + b"/f 0 10644 1 0 0 0 0.1000000000 - - -", "out of range"),
        (ROOT + b"/f 3 120777 1 0 0 0 0.0 - - -", "target is missing"),
        (ROOT + rb"/f 3 120777 1 0 0 0 0.0 a\x00b - -", "zero byte"),
        (ROOT + b"/f 3 120777 1 0 0 0 0.0 abc abc -", "only a regular file"),
        (ROOT + b"/f 4 100644 1 0 0 0 0.0 - abc -", "3 bytes, the size says 4"),
        (ROOT + b"/f 5001 100644 1 0 0 0 0.0 - " + b"a" * 5001 + b" -", "too long"),
        (ROOT + b"/f 9500000000000000 100644 1 0 0 0 0.0 - - -", "1024 chunks"),
        (ROOT + b"/f 1 100644 1 0 0 0 0.0 - - abcd", "64 or 128"),
        (ROOT + b"/f 1 100644 1 0 0 0 0.0 - - " + b"xy" * 32, "64 or 128"),
        (ROOT + b"/f 1 100644 1 0 0 0 0.0 " + b"p" * 4096 + b" - -", "longer than 4095"),
        (ROOT + FIFO + b" user.a", "no `=`"),
        (ROOT + FIFO + b" =a", "name is empty"),
        (ROOT + FIFO + rb" user.\x00=a", "zero byte"),
        (ROOT + FIFO + b" " + b"n" * 256 + b"=", "over 255"),
        (ROOT + FIFO + b" user.a=" + b"v" * 32743, "more than 32767"),
        (ROOT + FIFO + b" user.a=" + rb"\x20" * 16400, "65535"),
        (ROOT + b"/c 0 20644 2 0 0 0 0.0 - - -", "whiteout"),
        (ROOT + b"/f 0 @120000 - - - - - - - -", "no target"),
        (ROOT + b"/f 0 @120000 - - - - - /g - -", "line 2: .*not in the dump"),
        (ROOT + b"/f 0 @120000 - - - - - /f - -", "back to itself"),
        (ROOT + b"/f 0 @120000 - - - - - /g - -\n/g 0 @120000 - - - - - /f - -", "back to itself"),
        (ROOT + b"/f 0 @40755 - - - - - /g - -", "not a directory's"),
        (ROOT + b"/f 0 @120000 - - - - - / - -", "target is a directory"),
        (ROOT + b"/c 0 20644 1 0 0 0 0.0 - - -\n/f 0 @120000 - - - - - /c - -", "line 3: .*whiteout"),
    ],
)
def test_refuses(text: bytes, why: str) -> None:
    with pytest.raises(InvalidImage, match=why):
        dump.parse(text)


@given(
    st.binary(min_size=1, max_size=20).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b"..")),
    st.binary(max_size=20),
    st.dictionaries(st.binary(min_size=1, max_size=9).filter(lambda name: 0 not in name), st.binary(max_size=9)),
)
def test_reads_what_it_wrote(name: bytes, content: bytes, xattrs: dict[bytes, bytes]) -> None:
    root = Inode(mode=0o40755, nlink=2)
    root.children[name] = Inode(mode=0o100644, size=len(content), content=content or None, xattrs=xattrs)
    text = dump.format_dump(root)
    again = dump.parse(text)
    (file,) = again.children.values()
    assert isinstance(file, Inode)
    assert list(again.children) == [name]
    assert (file.content, file.xattrs) == (content or None, xattrs)
    assert dump.format_dump(again) == text


@given(st.binary(max_size=200))
def test_noise_is_refused_in_words(noise: bytes) -> None:
    with pytest.raises(InvalidImage, match="line "):
        dump.parse(ROOT + noise + b"?")


STRICT = b"/l 3 120777 1 0 0 0 0.0 abc - -\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (ROOT + FIFO, "no newline"),
        (ROOT + FIFO.replace(b" 0 0.0", b" 7 0.0") + b"\n", "line 2: .*no device"),
        (ROOT + STRICT.replace(b" 3 ", b" 4 "), "line 2: .*symlink's target"),
        (ROOT + STRICT.replace(b"abc -", b"abc abc"), "line 2: only a regular file can have content"),
    ],
)
def test_strict(text: bytes, why: str) -> None:
    dump.parse(ROOT + FIFO + b"\n" + STRICT + b"/c 0 20644 1 0 0 7 0.0 - - -\n", strict=True)
    with pytest.raises(InvalidImage) as refusal:
        dump.parse(text, strict=True)
    assert re.search(why, refusal.value.why)


def test_a_long_chain_of_hard_links_is_walked_once() -> None:
    """Link by link it would be five thousand million steps."""
    links = [b"/%06d 0 @100644 - - - - - /%06d - -\n" % (number, number + 1) for number in range(100_000)]
    root = dump.parse(ROOT + b"".join(links) + b"/100000 0 100644 1 0 0 0 0.0 - - -\n")
    first = root.children[b"000000"]
    assert isinstance(first, Link)
    assert first.inode is root.children[b"100000"]


def test_a_refused_line_is_refused_again() -> None:
    """What is remembered of fields that come often is not that they were wrong."""
    for _ in range(2):
        with pytest.raises(InvalidImage, match="is not a number"):
            dump.parse(ROOT + FIFO.replace(b" 1 0 ", b" x 0 "))
