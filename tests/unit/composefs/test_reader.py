"""Images back to trees: the identity for sound ones, refusal in words for damaged ones."""

import hashlib
import stat
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keelboot.composefs import dump, erofs, overlay, reader
from keelboot.composefs.inodes import Inode, walk_inodes
from keelboot.composefs.trees import to_tree
from keelboot.failure import InvalidImage
from keelboot.image.tree import Directory, External, Node, ObjectId, Regular, Special, Symlink, walk

TEXT = rb"""/ 0 40755 3 0 0 0 100.0 - - - user.mark=1 trusted.overlay.opaque=y security.selinux=label\x00
/00 0 10644 1 0 0 0 7.0 - - -
/dir 0 40755 2 0 0 0 100.0 - - - user.mark=1
/dir/gone 0 20600 1 1 2 0 100.0 - - - user.mark=1
/empty 0 100644 1 0 0 0 100.0 - - - trusted.overlay.whiteout= user.overlay.whiteout=
/external 70000 100755 2 70000 0 0 100.0 ab/cd - ab00000000000000000000000000000000000000000000000000000000000000
/external2 0 @120000 - - - - - /external - -
/inline 5 100644 1 0 0 0 100.0 - hello -
/link 7 120777 1 0 0 0 100.0 /target - -
/null 0 20666 1 0 0 259 -5.9 - - -
"""
IMAGE = erofs.image_bytes(dump.parse(TEXT), 1)

METADATA = {
    "permissions": st.integers(0, 0o7777),
    "uid": st.sampled_from([0, 65535, 65536, 2**32 - 1]),
    "mtime": st.sampled_from([0, 1, -1, 2**40]),
    "mtime_nsec": st.sampled_from([0, 999_999_999]),
    "xattrs": st.dictionaries(
        st.sampled_from(
            [b"user.a", b"user.overlay.origin", b"trusted.overlay.whiteout", b"security.capability", b"odd",
             b"system.posix_acl_access", b"trusted.overlay.metacopy", b"trusted.overlay.overlay.opaque"]
        ),
        st.sampled_from([b"", b"x", b"y" * 300]),
        max_size=4,
    ),
}  # fmt: skip
FILES: st.SearchStrategy[Node] = st.one_of(
    st.builds(Directory, **METADATA),
    st.builds(Regular, content=st.sampled_from([b"", b"x", bytes(2048), bytes(2049), bytes(5000)]), **METADATA),
    st.builds(
        Regular,
        content=st.builds(
            External, st.sampled_from([ObjectId("ab" * 32), ObjectId("cd" * 64)]), st.sampled_from([1, 4097, 2**53])
        ),
        **METADATA,
    ),
    st.builds(Symlink, target=st.sampled_from([b"t", b"t" * 2000, b"t" * 4095]), **METADATA),
    st.builds(Special, kind=st.sampled_from([stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK]), **METADATA),
    st.builds(Special, kind=st.just(stat.S_IFCHR), rdev=st.integers(1, 2**32 - 1), **METADATA),
    # Attributes of a whiteout that are named like its marks are lost.
    st.builds(Special, kind=st.just(stat.S_IFCHR), **METADATA | {"xattrs": st.just({b"user.a": b"x"})}),
)
NAMES = st.one_of(
    st.sampled_from([b"00", b"ff", b"!", b"-", b"...", b"n" * 255]),
    st.binary(min_size=1, max_size=6).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b"..")),
)


@st.composite
def trees(draw: st.DrawFn) -> Directory:
    """Any tree: each file is put under one of the directories so far, and some under a second name."""
    root = draw(st.builds(Directory, **METADATA))
    directories = [root]
    for node in draw(st.lists(FILES, max_size=12)):
        draw(st.sampled_from(directories)).children.setdefault(draw(NAMES), node)
        if isinstance(node, Directory):
            directories.append(node)
        elif not (isinstance(node, Special) and node.rdev == 0) and draw(st.booleans()):
            draw(st.sampled_from(directories)).children.setdefault(draw(NAMES), node)
    return root


def described(root: Directory) -> list[tuple[object, ...]]:
    """What a tree says, with hard links as the first path of their node."""
    first: dict[Node, bytes] = {}
    return [
        (
            path, first.setdefault(node, path), type(node), node.permissions, node.uid, node.gid, node.mtime,
            node.mtime_nsec, node.xattrs, getattr(node, "content", None), getattr(node, "target", None),
            getattr(node, "kind", None), getattr(node, "rdev", None),
        )
        for path, node in walk(root)
    ]  # fmt: skip


@settings(deadline=None)
@given(trees(), st.sampled_from([0, 1]))
def test_tree_comes_back(root: Directory, version: int) -> None:
    image = erofs.image_bytes(root, version)
    contents = reader.read(image)
    assert contents.version == version
    assert described(to_tree(contents.root)) == described(root)
    assert erofs.image_bytes(contents.root, version) == image


def stored(root: Inode) -> list[tuple[bytes, int]]:
    """The digests and sizes of the files in the store below ROOT."""
    inodes = (item for _, item in walk_inodes(root) if isinstance(item, Inode))
    return sorted((inode.digest, inode.size) for inode in inodes if inode.is_external and inode.digest)


@settings(deadline=None)
@given(trees(), st.sampled_from([0, 1]))
def test_objects_are_those_of_the_files(root: Directory, version: int) -> None:
    image = erofs.image_bytes(root, version)
    assert sorted(reader.objects(image)) == stored(reader.read(image).root)


def test_memory_for_a_large_image() -> None:
    """That objects are listed does not take the memory of inodes, some 600 bytes for each."""
    root = Directory()
    for number in range(20_000):
        if number % 100 == 0:
            directory = root.children[b"%d" % number] = Directory()
        content = External(ObjectId.of(hashlib.sha256(b"%d" % number).digest()), 100)
        directory.children[b"%d" % number] = Regular(content=content, mtime=number)
    image = erofs.image_bytes(root)
    del root, directory
    tracemalloc.start()
    try:
        assert sum(size for _, size in reader.objects(image)) == 2_000_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000 * 120


def test_text_comes_back() -> None:
    again = dump.format_dump(reader.read(IMAGE).root)
    assert dump.format_dump(reader.read(erofs.image_bytes(dump.parse(again), 1)).root) == again
    assert erofs.image_bytes(dump.parse(again), 1) == IMAGE
    lines = [line.split(b" ") for line in again.splitlines()]
    expected = [line.split(b" ") for line in TEXT.splitlines()]
    assert [line[0] for line in lines] == [line[0] for line in expected]
    for line, wanted in zip(lines, expected, strict=True):
        assert sorted(line[11:]) == sorted(wanted[11:])


def test_definition_may_come_after_a_link() -> None:
    """Which name defines an inode decides on its number: the reader finds the same one."""
    text = b"/ 0 40755 3 0 0 0 0.0 - - -\n/a 0 @120000 - - - - - /d/f - -\n/d 0 40755 2 0 0 0 0.0 - - -\n"
    text += b"/d/e 0 10644 1 0 0 0 0.0 - - -\n/d/f 0 10644 2 0 0 0 0.0 - - -\n/z 0 10644 1 0 0 0 0.0 - - -\n"
    image = erofs.image_bytes(dump.parse(text), 1)
    assert erofs.image_bytes(reader.read(image).root, 1) == image


def at_inode(nid: int, offset: int) -> int:
    return 32 * nid + offset


ROOT_NID = 36
ROOT_BLOCK = struct.unpack_from("<I", IMAGE, at_inode(ROOT_NID, 16))[0]


@pytest.mark.parametrize(
    ("offset", "form", "value", "why"),
    [
        (0, "<I", 0, "composefs's header"),
        (4, "<I", 2, "composefs's header"),
        (8, "<I", 2, "flags 2"),
        (12, "<I", 2, "version is 2"),
        (1024, "<I", 0, "superblock"),
        (1036, "<B", 13, "superblock"),
        (1038, "<H", 0xFFFF, "leads out"),
        (1040, "<Q", 5, "not numbered"),
        (1060, "<I", 1, "superblock"),
        (1064, "<I", 1, "superblock"),
        (1068, "<I", 0xFFFFFFFF, "leads out"),
        (1104, "<I", 8, "not known: 0x8"),
        (at_inode(ROOT_NID, 0), "<H", 2, "unknown form"),
        (at_inode(ROOT_NID, 0), "<H", 16, "unknown form"),
        (at_inode(ROOT_NID, 2), "<H", 0xFFFF, "leads out"),
        (at_inode(ROOT_NID, 4), "<H", 0o644, "no file type"),
        (at_inode(ROOT_NID, 4), "<H", 0o100644, "not a directory"),
        (at_inode(ROOT_NID, 4), "<H", 0o10644, "more data than its type"),
        (ROOT_BLOCK * 4096, "<Q", 2**60, "leads elsewhere|leads out"),
        (ROOT_BLOCK * 4096 + 8, "<H", 13, "out of place"),
        (ROOT_BLOCK * 4096 + 8, "<H", 0, "out of place"),
        (ROOT_BLOCK * 4096 + 10, "<B", 1, "leads elsewhere"),
        (ROOT_BLOCK * 4096 + 24, "<Q", 2**60, "leads out"),
        (ROOT_BLOCK * 4096 + 24, "<Q", ROOT_NID, "type|two names|numbered"),
    ],
)
def test_refuses(offset: int, form: str, value: int, why: str) -> None:
    bad = bytearray(IMAGE)
    struct.pack_into(form, bad, offset, value)
    with pytest.raises(InvalidImage, match=why):
        reader.read(bad)


@pytest.mark.parametrize("size", [0, 1, 1151, 4095, 4096, len(IMAGE) - 4096, len(IMAGE) - 1])
def test_cut_short(size: int) -> None:
    with pytest.raises(InvalidImage):
        reader.read(IMAGE[:size])


def test_parts_may_not_be_read_twice() -> None:
    """Inodes of 32 bytes that all have the same block as data would make a small image a large tree."""
    links: dict[bytes, Node] = {b"l%d" % number: Symlink(target=b"t") for number in range(20)}
    image = erofs.image_bytes(Directory(children=links))
    short = struct.pack("<HHHHIII", 4, 0, 0o120644, 1, 1, 0, 0)
    assert image.count(short) == 20
    (block,) = struct.unpack_from("<I", image, at_inode(ROOT_NID, 16))
    bad = image.replace(short, struct.pack("<HHHHIII", 0, 0, 0o120644, 1, 4095, 0, block))
    with pytest.raises(InvalidImage, match="overlap"):
        reader.read(bad)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(IMAGE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_is_refused_or_harmless(changes: list[tuple[int, int]]) -> None:
    """Whatever is overwritten: either InvalidImage, or inodes that can be written again."""
    bad = bytearray(IMAGE)
    for offset, value in changes:
        bad[offset % 1500 if offset % 2 else offset] = value
    try:
        contents = reader.read(bad)
    except InvalidImage:
        with pytest.raises(InvalidImage):
            list(reader.objects(bad))
        return
    erofs.image_bytes(contents.root, contents.version)
    assert sorted(reader.objects(bad)) == stored(contents.root)


def test_stub_that_is_not_one() -> None:
    stub = IMAGE.index(struct.pack("<HHHH", 1, 2, 0o20644, 0), 1152)
    bad = bytearray(IMAGE)
    struct.pack_into("<H", bad, stub + 4, 0o20600)
    with pytest.raises(InvalidImage, match="neither a file nor the mark"):
        reader.read(bad)


def test_marks_without_a_whiteout_are_kept() -> None:
    """A user's own attributes that look like the marks come back as they were."""
    marks = {b"trusted.overlay.whiteouts": b"", b"user.overlay.whiteouts": b""}
    assert overlay.parent_marks(0).keys() == {b"trusted.overlay.overlay.whiteouts", b"user.overlay.whiteouts"}
    root = Directory(children={b"d": Directory(xattrs=marks, children={b"f": Regular()})})
    below = to_tree(reader.read(erofs.image_bytes(root, 0)).root).children[b"d"]
    assert below.xattrs == marks
