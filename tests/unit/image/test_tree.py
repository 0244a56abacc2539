import stat

import pytest

from keelboot.image.tree import Directory, External, ObjectId, Regular, Special, Symlink, file_type, resolve, walk


def _tree():
    leaf = Regular(content=b"x")
    return leaf, Directory(
        children={
            b"b": Directory(children={b"f": leaf, b"up": Symlink(target=b"../a"), b"abs": Symlink(target=b"/b/f")}),
            b"a": Symlink(target=b"b"),
            b"loop": Symlink(target=b"loop"),
            b"out": Symlink(target=b"../../../b/f"),
            b"c": leaf,
        }
    )


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/", True), ("/b/f", True), ("b/f", True), ("/a/f", True), ("/b/up/f", True), ("/b/abs", True), ("/out", True),
        ("/../../b/./f", True), ("/a/up/abs", True), ("/none", False), ("/b/f/x", False), ("/loop", False),
        ("/loop/x", False), (b"/b/f", True),
    ],
)  # fmt: skip
def test_resolves(path, found):
    leaf, root = _tree()
    node = resolve(root, path)
    assert node is (None if not found else root if path == "/" else leaf)


def test_the_last_link_may_be_meant_itself():
    _, root = _tree()
    assert resolve(root, "/a", follow=False) is root.children[b"a"]
    assert resolve(root, "/loop", follow=False) is root.children[b"loop"]
    assert resolve(root, "/a/up", follow=False) is root.children[b"b"].children[b"up"]


def test_walks_in_byte_order():
    _, root = _tree()
    assert [path for path, _ in walk(root)] == [
        b"/", b"/a", b"/b", b"/b/abs", b"/b/f", b"/b/up", b"/c", b"/loop", b"/out",
    ]  # fmt: skip


def test_types_and_sizes():
    assert file_type(Directory()) == stat.S_IFDIR
    assert file_type(Regular()) == stat.S_IFREG
    assert file_type(Symlink(target=b"x")) == stat.S_IFLNK
    assert file_type(Special(kind=stat.S_IFIFO)) == stat.S_IFIFO
    assert Regular(content=b"abc").size == 3
    assert Regular(content=External(ObjectId("ab" * 32), 70)).size == 70


@pytest.mark.parametrize("text", ["", "ab", "AB" * 32, "../" * 21 + "a", "ab" * 33])
def test_object_ids_are_checked(text):
    with pytest.raises(ValueError, match="not an fs-verity digest"):
        ObjectId(text)
    assert ObjectId("ab" + "0" * 62).path == "ab/" + "0" * 62
