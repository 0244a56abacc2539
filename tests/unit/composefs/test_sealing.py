"""The tree that is deployed: what the image's tree loses, and that it is left alone."""

import pytest

from keelboot.composefs.erofs import image_bytes
from keelboot.composefs.sealing import deployment_digest, seal
from keelboot.composefs.verity import measure
from keelboot.failure import CannotFinish
from keelboot.image.tree import Directory, Node, Regular, Symlink, walk


def bootable() -> Directory:
    linked = Regular(content=b"x", xattrs={b"user.note": b"1", b"security.capability": b"\1"})
    usr = Directory(
        permissions=0o750,
        uid=1,
        gid=2,
        mtime=1000,
        mtime_nsec=5,
        xattrs={b"security.selinux": b"label"},
        children={b"a": linked, b"b": linked, b"plain": Regular(content=b"y", mtime=7)},
    )
    return Directory(
        permissions=0o700,
        mtime=9,
        xattrs={b"user.root": b"1"},
        children={
            b"usr": usr,
            b"bin": Symlink(target=b"usr/bin", xattrs={b"user.note": b"2"}),
            b"boot": Directory(mtime=8, mtime_nsec=3, children={b"vmlinuz": linked}),
            b"run": Directory(mtime=8, mtime_nsec=4, children={b"lock": Regular()}),
            b"sysroot": Directory(permissions=0o755, mtime=8, mtime_nsec=6, children={b"x": Directory()}),
        },
    )


def metadata(node: Node) -> tuple[int, int, int, int, int, dict[bytes, bytes]]:
    return node.permissions, node.uid, node.gid, node.mtime, node.mtime_nsec, node.xattrs


def test_root_takes_metadata_of_usr() -> None:
    assert metadata(seal(bootable())) == (0o750, 1, 2, 1000, 5, {})


def test_mount_points_are_emptied() -> None:
    children = seal(bootable()).children
    times = {}
    for name in (b"boot", b"run", b"sysroot"):
        directory = children[name]
        assert isinstance(directory, Directory)
        assert directory.children == {}
        times[name] = (directory.mtime, directory.mtime_nsec)
    assert times == {b"boot": (1000, 3), b"run": (1000, 5), b"sysroot": (1000, 6)}


def test_only_capabilities_are_kept() -> None:
    found = {path: node.xattrs for path, node in walk(seal(bootable())) if node.xattrs}
    assert found == {path: {b"security.capability": b"\1"} for path in (b"/usr/a", b"/usr/b")}


def test_links_stay_links_and_untouched_files_are_shared() -> None:
    root = bootable()
    before, after = root.children[b"usr"], seal(root).children[b"usr"]
    assert isinstance(before, Directory)
    assert isinstance(after, Directory)
    assert after.children[b"a"] is after.children[b"b"]
    assert after.children[b"a"] is not before.children[b"a"]
    assert after.children[b"plain"] is before.children[b"plain"]


def test_input_is_not_changed() -> None:
    root = bootable()
    before = image_bytes(root)
    seal(root)
    assert image_bytes(root) == before


def test_sealing_twice_is_sealing_once() -> None:
    once = seal(bootable())
    assert image_bytes(seal(once)) == image_bytes(once)


def test_run_may_be_missing() -> None:
    root = bootable()
    del root.children[b"run"]
    assert b"run" not in seal(root).children


@pytest.mark.parametrize("name", [b"usr", b"boot", b"sysroot"])
def test_needs(name: bytes) -> None:
    root = bootable()
    del root.children[name]
    with pytest.raises(CannotFinish, match=f"/{name.decode()} is missing"):
        seal(root)


@pytest.mark.parametrize("name", [b"usr", b"boot", b"sysroot", b"run"])
def test_needs_directories(name: bytes) -> None:
    root = bootable()
    root.children[name] = Symlink(target=b"elsewhere")
    with pytest.raises(CannotFinish, match=f"/{name.decode()} is not a directory"):
        seal(root)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_digest_is_of_the_sealed_trees_image(algorithm: str) -> None:
    root = bootable()
    expected = measure([image_bytes(seal(root), 1)], algorithm).object  # type: ignore[arg-type]
    assert deployment_digest(root, algorithm) == expected  # type: ignore[arg-type]
