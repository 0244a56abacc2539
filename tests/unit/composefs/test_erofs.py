"""The writer's own promises; that its bytes are right is for tests/golden and tests/against to say."""

import io
import stat
import struct

import pytest

from keelboot.composefs import erofs, xattrs
from keelboot.composefs.inodes import from_tree
from keelboot.image.tree import Directory, Regular, Special, Symlink


def test_writes_to_a_file_what_it_gives_as_bytes() -> None:
    tree = Directory(children={b"f": Regular(content=b"x")})
    out = io.BytesIO()
    erofs.write(tree, out)
    assert out.getvalue() == erofs.image_bytes(tree, 1)
    assert len(out.getvalue()) % 4096 == 0


@pytest.mark.parametrize("version", [-1, 2])
def test_other_versions_are_a_callers_mistake(version: int) -> None:
    with pytest.raises(ValueError, match=f"version {version}"):
        erofs.image_bytes(Directory(), version)


@pytest.mark.parametrize(
    ("rdev", "minimum", "maximum", "version"),
    [(0, 0, 1, 1), (0, 0, 0, 0), (0, 1, 1, 1), (259, 0, 1, 0), (259, 1, 1, 1)],
)
def test_a_whiteout_needs_version_1(rdev: int, minimum: int, maximum: int, version: int) -> None:
    tree = Directory(children={b"d": Directory(children={b"c": Special(kind=stat.S_IFCHR, rdev=rdev)})})
    assert erofs.needed_version(from_tree(tree), minimum, maximum) == version


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
