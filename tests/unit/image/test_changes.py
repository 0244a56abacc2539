"""Changes as they go from one process to another; what they do is in test_layers.py."""

import pytest

from keelboot.image import changes
from keelboot.image.archive import Archive
from keelboot.image.changes import Changes
from keelboot.image.layers import collect, empty_root
from keelboot.image.tree import Directory, External, Regular, Special, Symlink, walk


def said(root):
    """All that a tree says, in values that can be compared."""
    numbers = {}
    return [
        (
            path,
            type(node),
            numbers.setdefault(node, len(numbers)),
            (node.permissions, node.uid, node.gid, node.mtime, node.mtime_nsec, dict(node.xattrs)),
            getattr(node, "content", None),
            getattr(node, "target", None),
            (getattr(node, "kind", None), getattr(node, "rdev", None)),
        )
        for path, node in walk(root)
    ]


@pytest.mark.parametrize("piece", [1, 2, 4096])
def test_packed_changes_are_the_same(piece, tar, sink, monkeypatch):
    monkeypatch.setattr(changes, "_PIECE", piece)
    lower = tar.end(
        tar.dir(b"d"), tar.file(b"d/hidden", b"x"), tar.dir(b"o"), tar.file(b"o/hidden", b"x"), tar.file(b"kept", b"y")
    )
    upper = tar.end(
        tar.dir(b"d", mode=0o4711, uid=7, gid=2**20, mtime=5),
        tar.file(b"d/.wh.hidden"),
        tar.file(b"o/.wh..wh..opq"),
        tar.pax((b"SCHILY.xattr.user.a", b"1"), (b"mtime", b"3.000000004")),
        tar.file(b"d/inline", b"i" * 64),
        tar.file(b"d/external", b"e" * 65),
        tar.link(b"d/again", b"d/external"),
        tar.file(b"d/empty"),
        tar.symlink(b"link", b"../else\xff"),
        tar.header(b"null", b"3", major=1, minor=3),
        tar.header(b"fifo", b"6"),
    )
    trees = []
    for packed in (False, True):
        root = empty_root()
        for data in (lower, upper):
            layer = collect(Archive([data]), sink)
            if packed:
                pieces = list(layer.packed())
                assert all(isinstance(one, bytes) for one in pieces)
                layer = Changes()
                for one in pieces:
                    layer.unpack(one)
            layer.apply(root)
        trees.append(said(root))
    assert trees[0] == trees[1]
    kinds = {kind for _, kind, *_ in trees[1]}
    assert kinds == {Directory, Regular, Symlink, Special}
    assert any(isinstance(content, External) for *_, content, _, _ in trees[1])
    assert b"/d/hidden" not in [path for path, *_ in trees[1]]


def test_a_layer_that_changes_nothing():
    (piece,) = Changes().packed()
    other = Changes()
    other.unpack(piece)
    root = empty_root()
    other.apply(root)
    assert root.children == {}
