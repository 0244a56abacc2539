"""The writer's own promises; that its bytes are right is for tests/golden and tests/against to say."""

import hashlib
import stat
import struct
import tracemalloc

import pytest

from keelboot.composefs import erofs, xattrs
from keelboot.composefs.inodes import Inode
from keelboot.image.tree import Directory, External, ObjectId, Regular, Symlink


def large_tree(files: int) -> Directory:
    """Files in the store, some of them alike and some with attributes, 100 in a directory, with links between them."""
    root = Directory()
    for number in range(files // 100):
        directory = root.children[b"d%d" % number] = Directory(mtime=number)
        for name in range(100 * number, 100 * number + 100):
            digest = hashlib.sha256(b"%d" % (name - name % 10 // 9)).digest()
            content = External(ObjectId.of(digest), 65 + name)
            xattrs = {b"security.capability": b"\1"} if name % 50 == 0 else {}
            directory.children[b"file-%d" % name] = Regular(content=content, mtime=name, xattrs=xattrs)
        directory.children[b"l"] = directory.children[b"file-%d" % name]
        directory.children[b"m"] = Symlink(target=b"t" * (1 + 40 * number % 4095))
    return root


@pytest.mark.parametrize("version", [0, 1])
def test_chunks_are_the_image(version: int) -> None:
    tree = large_tree(3000)
    size, chunks = erofs.image_chunks(tree, version)
    pieces = list(chunks)
    assert b"".join(pieces) == erofs.image_bytes(tree, version)
    assert size == sum(map(len, pieces))
    assert size % 4096 == 0
    assert len(pieces) > 3
    assert max(map(len, pieces)) < 1 << 20


def test_memory_for_a_large_tree() -> None:
    """Neither a second tree is made, of some 400 bytes for each inode, nor the whole image at once."""
    tree = large_tree(20_000)
    tracemalloc.start()
    try:
        size, chunks = erofs.image_chunks(tree)
        for _ in chunks:
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 20_000 * 200
    assert peak < 20_000 * 350


@pytest.mark.parametrize("version", [-1, 2])
def test_other_versions_are_a_callers_mistake(version: int) -> None:
    with pytest.raises(ValueError, match=f"version {version}"):
        erofs.image_bytes(Directory(), version)


@pytest.mark.parametrize(
    ("rdev", "minimum", "maximum", "version"),
    [(0, 0, 1, 1), (0, 0, 0, 0), (0, 1, 1, 1), (259, 0, 1, 0), (259, 1, 1, 1)],
)
def test_a_whiteout_needs_version_1(rdev: int, minimum: int, maximum: int, version: int) -> None:
    device = Inode(mode=stat.S_IFCHR | 0o644, rdev=rdev)
    root = Inode(mode=stat.S_IFDIR | 0o755, children={b"d": Inode(mode=stat.S_IFDIR | 0o755, children={b"c": device})})
    assert erofs.needed_version(root, minimum, maximum) == version


def test_order_of_insertion_does_not_matter() -> None:
    children = {b"b": Regular(content=b"1"), b"a": Symlink(target=b"b"), b"c": Directory()}
    attributes = {b"user.b": b"1", b"user.a": b"2"}
    one = Directory(children=dict(children), xattrs=dict(attributes))
    other = Directory(
        children=dict(reversed(list(children.items()))), xattrs=dict(reversed(list(attributes.items())))
    )  # fmt: skip
    assert erofs.image_bytes(one) == erofs.image_bytes(other)


@pytest.mark.parametrize(
    ("file", "long"),
    [
        (Regular(uid=65535, gid=65535), False),
        (Regular(uid=65536), True),
        (Regular(gid=65536), True),
        (Regular(mtime=1), True),
        (Regular(mtime_nsec=1), True),
    ],
)
def test_form_of_inodes(file: Regular, long: bool) -> None:
    """A file named `A` comes after the root and the stubs `00` to `9f`, which have 32 bytes each: it has number 161."""
    image = erofs.image_bytes(Directory(children={b"A": file}))
    at = 1216 + 32 * 160
    form, count, mode = struct.unpack_from("<HHH", image, at)
    assert (form, count, mode) == (int(long), 0, 0o100644)
    assert struct.unpack_from("<I", image, at + 20) == (161,)


@pytest.mark.parametrize(
    ("name", "acl"),
    [
        (b"system.posix_acl_access", True),
        (b"system.posix_acl_default", True),
        (b"system.posix_acl_accessX", False),
        (b"user.acl", False),
    ],
)
def test_acls_are_announced(name: bytes, acl: bool) -> None:
    image = erofs.image_bytes(Directory(children={b"f": Regular(xattrs={name: b"x"})}))
    assert struct.unpack_from("<I", image, 8) == (int(acl),)


@pytest.mark.parametrize(
    ("data", "hashed"),
    [(b"", 0x02CC5D05), (b"a", 0x550D7456), (b"Nobody inspects the spammish repetition", 0xE2293B2F)],
)
def test_hash_of_the_attribute_filter(data: bytes, hashed: int) -> None:
    """Known answers of XXH32 without a seed."""
    assert xattrs._xxh32(data, 0) == hashed


@pytest.mark.parametrize(
    ("name", "index", "suffix"),
    [
        (b"user.a", 1, b"a"),
        (b"trusted.overlay.opaque", 4, b"overlay.opaque"),
        (b"security.selinux", 6, b"selinux"),
        (b"system.posix_acl_access", 2, b""),
        (b"system.posix_acl_accessX", 2, b"X"),
        (b"lustre.lov", 0, b"lustre.lov"),
        (b"users.a", 0, b"users.a"),
    ],
)
def test_prefixes(name: bytes, index: int, suffix: bytes) -> None:
    assert xattrs.split(name)[:2] == (index, suffix)
