"""A directory on disk as inodes."""

import os
from pathlib import Path

import pytest

from keelboot.composefs.folder import Taken, measured, read
from keelboot.composefs.inodes import Inode
from keelboot.composefs.verity import measure
from keelboot.failure import InvalidImage
from keelboot.image.tree import ObjectId

ALL = Taken()


def child(root: Inode, name: bytes) -> Inode:
    found = root.children[name]
    assert isinstance(found, Inode)
    return found


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_names_need_not_be_text(tmp_path: Path) -> None:
    name = b"\xff\n "
    (tmp_path / os.fsdecode(name)).symlink_to(os.fsdecode(b"\xfe"))
    root = read(tmp_path, ALL)
    assert child(root, name).payload == b"\xfe"


@pytest.mark.parametrize(("size", "inline"), [(0, False), (1, True), (64, True), (65, False), (5000, False)])
def test_small_files_are_inline(size: int, inline: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    file = child(read(tmp_path, ALL), b"file")
    assert file.size == size
    assert file.content == (b"x" * size if inline else None)
    assert file.digest == (bytes.fromhex(measure([b"x" * size]).object.hex) if size > 64 else None)


def test_contents_are_kept_elsewhere(tmp_path: Path) -> None:
    contents = {b"%d" % size: b"y" * size for size in (10, 100, 1000)}
    for name, content in contents.items():
        (tmp_path / name.decode()).write_bytes(content)
    kept = []

    def keep(file: int, size: int) -> ObjectId:
        kept.append(os.pread(file, size, 0))
        return measure(kept[-1:]).object

    root = read(tmp_path, ALL, keep)
    assert sorted(kept, key=len) == [contents[b"100"], contents[b"1000"]]
    assert child(root, b"100").payload == measure([contents[b"100"]]).object.path.encode()


@pytest.mark.parametrize("times", [-1_500_000_000, -1, 0, 1, 10**18 + 7])
def test_times(times: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.utime(tmp_path / "file", ns=(0, times))
    file = child(read(tmp_path, ALL), b"file")
    assert 0 <= file.mtime_nsec < 1_000_000_000
    assert file.mtime * 1_000_000_000 + file.mtime_nsec == times
    assert child(read(tmp_path, Taken(times=False)), b"file").mtime == 0


def test_a_deep_tree_needs_no_deep_stack(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    before = open_files()
    inode, depth = read(tmp_path, ALL), 0
    while inode.children:
        inode, depth = child(inode, b"d"), depth + 1
    assert depth == 300
    assert open_files() == before


def test_an_error_names_the_file_and_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_bytes(bytes(100))

    def keep(_: int, __: int) -> ObjectId:
        raise OSError(5, "Input/output error")

    before = open_files()
    with pytest.raises(OSError, match="Input/output") as error:
        read(tmp_path, ALL, keep)
    assert error.value.filename == str(tmp_path / "dir/file")
    with pytest.raises(NotADirectoryError) as wrong:
        read(tmp_path / "dir/file", ALL)
    assert wrong.value.filename == str(tmp_path / "dir/file")
    assert open_files() == before


@pytest.mark.parametrize("size", [0, 99, 101])
def test_content_of_another_size_is_refused(size: int, tmp_path: Path) -> None:
    """As when something writes to the file meanwhile: an image with the old size would not match its content."""
    (tmp_path / "file").write_bytes(bytes(100))
    with (tmp_path / "file").open("rb") as file:
        assert measured(file.fileno(), 100) == measure([bytes(100)]).object
        with pytest.raises(InvalidImage, match="file") as refusal:
            measured(file.fileno(), size)
    assert f"it had {size} bytes" in refusal.value.why


def test_a_refusal_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))

    def keep(file: int, size: int) -> ObjectId:
        return measured(file, size + 1)

    with pytest.raises(InvalidImage) as refusal:
        read(tmp_path, ALL, keep)
    assert refusal.value.what == f"cannot read {tmp_path / 'file'}"
