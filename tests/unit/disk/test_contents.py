from pathlib import Path

import pytest

from keelboot.disk.contents import Directory, Entry, File, Sealed, Symlink, Usage, with_parents
from keelboot.image.tree import ObjectId

OBJECT = ObjectId("ab" + "0" * 62)


@pytest.mark.parametrize("path", [b"", b"a", b"a/b", b"//", b"/a/", b"/a//b", b"/./a", b"/a/..", b"/a\0b"])
def test_refuses_a_path(path: bytes) -> None:
    with pytest.raises(ValueError, match="not an absolute, normal path"):
        Entry(path=path)


def test_parents_come_first_and_once() -> None:
    entries = [Symlink(path=b"/a/b/c", target=b"x"), Directory(path=b"/a.b"), Directory(path=b"/a", mode=0o700)]
    assert with_parents(entries) == [
        Directory(path=b"/a", mode=0o700),
        Directory(path=b"/a/b"),
        Symlink(path=b"/a/b/c", target=b"x"),
        Directory(path=b"/a.b"),
    ]


def test_order_of_arrival_does_not_matter() -> None:
    entries = [Directory(path=b"/" + name) for name in (b"b", b"a", b"a/z", b"a-1", b"")]
    assert with_parents(entries) == with_parents(reversed(entries))
    assert with_parents(entries)[0].path == b"/"


def test_two_files_at_one_path() -> None:
    with pytest.raises(ValueError, match="two files"):
        with_parents([Directory(path=b"/a"), File(path=b"/a", content=b"")])


def test_a_file_of_the_host_needs_its_size() -> None:
    with pytest.raises(ValueError, match="size"):
        File(path=b"/a", content=Path("somewhere"))
    assert File(path=b"/a", content=b"123").size == 3


def test_sealed_objects_lie_by_their_name() -> None:
    (entry,) = Sealed.below(b"/composefs/objects", {OBJECT: 5})
    assert entry.path == b"/composefs/objects/ab/" + b"0" * 62
    assert (entry.object, entry.size) == (OBJECT, 5)


@pytest.mark.parametrize(
    ("entry", "blocks"),
    [
        (File(path=b"/a", content=b""), 0),
        (File(path=b"/a", content=b"1" * 4097), 2),
        (Symlink(path=b"/a", target=b"t" * 59), 0),
        (Symlink(path=b"/a", target=b"t" * 60), 1),
        (Sealed(path=b"/a", object=OBJECT, size=0), 1),
        (Sealed(path=b"/a", object=OBJECT, size=4096), 2),
        (Sealed(path=b"/a", object=OBJECT, size=4097), 4),
    ],
)
def test_usage_of_one_file(entry: Entry, blocks: int) -> None:
    assert Usage.of([entry]) == Usage(blocks + 1, 1)  # and the directory it is in


def test_usage_counts_directories_between() -> None:
    assert Usage.of([File(path=b"/a/b/c", content=b"1")]) == Usage(blocks=1 + 3, inodes=3)
    assert Usage(2, 3) * 3 == Usage(6, 9)
