"""Trees to inodes and back, and what an image cannot hold."""

import stat
from collections.abc import Callable

import pytest

from keelboot.composefs import reader
from keelboot.composefs.erofs import image_bytes
from keelboot.composefs.inodes import Inode, Link
from keelboot.composefs.trees import to_tree
from keelboot.failure import InvalidImage
from keelboot.image.tree import Directory, External, ObjectId, Regular, Special, Symlink


def inodes(root: Directory) -> Inode:
    return reader.read(image_bytes(root)).root


def test_first_name_in_depth_first_order_defines() -> None:
    shared = Regular(content=b"x")
    root = inodes(Directory(children={b"b": shared, b"a": Directory(children={b"z": shared}), b"a0": shared}))
    below = root.children[b"a"]
    assert isinstance(below, Inode)
    first = below.children[b"z"]
    assert isinstance(first, Inode)
    assert first.nlink == 3
    for name in (b"b", b"a0"):
        link = root.children[name]
        assert isinstance(link, Link)
        assert link.inode is first


def test_first_of_two_names_in_one_directory_defines() -> None:
    shared = Regular()
    root = inodes(Directory(children={b"b": shared, b"a": shared}))
    assert isinstance(root.children[b"a"], Inode)
    assert isinstance(root.children[b"b"], Link)


def test_external_file_points_to_its_object() -> None:
    object_id = ObjectId("ab" * 32)
    file = inodes(Directory(children={b"f": Regular(content=External(object_id, 5000))})).children[b"f"]
    assert isinstance(file, Inode)
    assert (file.payload, file.digest, file.size) == (b"ab/" + b"ab" * 31, b"\xab" * 32, 5000)


def test_tree_is_not_changed() -> None:
    file = Regular(xattrs={b"user.a": b"1"})
    root = Directory(children={b"a": file, b"b": file})
    image_bytes(root)
    assert root.children == {b"a": file, b"b": file}
    assert file.xattrs == {b"user.a": b"1"}


def directory_twice() -> Directory:
    inner = Directory()
    return Directory(children={b"a": inner, b"b": inner})


def directory_in_itself() -> Directory:
    root = Directory()
    root.children[b"a"] = root
    return root


def linked_whiteout() -> Directory:
    whiteout = Special(kind=stat.S_IFCHR)
    return Directory(children={b"a": whiteout, b"b": whiteout})


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        (directory_twice, "/a .*a directory has two names"),
        (directory_in_itself, "a directory has two names"),
        (linked_whiteout, "whiteout"),
        (lambda: Directory(uid=-1), "cannot write / into"),
        (lambda: Directory(children={b"": Regular()}), "empty"),
        (lambda: Directory(children={b"..": Regular()}), "is `.` or `..`"),
        (lambda: Directory(children={b"a/b": Regular()}), "slash"),
        (lambda: Directory(children={b"d": Directory(children={b"n" * 256: Regular()})}), "/d/nn.*256 bytes"),
        (lambda: Directory(children={b"l": Symlink(target=b"")}), "symlink target is missing"),
        (lambda: Directory(children={b"l": Symlink(target=b"t" * 4096)}), "longer than 4095"),
        (lambda: Directory(children={b"f": Regular(content=bytes(5001))}), "too long"),
        (lambda: Directory(children={b"f": Regular(content=External(ObjectId("0" * 64), 2**53 + 1))}), "1024 chunks"),
        (lambda: Directory(children={b"f": Regular(uid=-1)}), "32-bit"),
        (lambda: Directory(children={b"f": Regular(mtime_nsec=10**9)}), "modification time"),
        (lambda: Directory(children={b"f": Regular(xattrs={b"": b"x"})}), "name is empty"),
        (lambda: Directory(children={b"f": Regular(xattrs={b"user.x": bytes(32750)})}), "more than 32767"),
    ],
)
def test_refuses(tree: Callable[[], Directory], why: str) -> None:
    with pytest.raises(InvalidImage, match=why):
        image_bytes(tree())


@pytest.mark.parametrize(
    "file",
    [
        Inode(mode=0o100644, size=1),
        Inode(mode=0o100644, size=1, digest=b"\xab" * 32),
        Inode(mode=0o100644, size=1, digest=b"\xab" * 32, payload=b"elsewhere"),
    ],
)
def test_tree_cannot_say(file: Inode) -> None:
    with pytest.raises(InvalidImage, match="object path"):
        to_tree(Inode(mode=0o40755, children={b"f": file}))
