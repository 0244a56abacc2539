import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from keelboot.store import draft
from keelboot.store.naming import name_of
from keelboot.store.objects import Objects
from keelboot.store.repository import Repository

SIZES = [1, 65, 4096, (1 << 20), (1 << 20) + 1, 3_000_000]


def data_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def pieces(data: bytes, length: int = 300_000) -> Iterator[memoryview]:
    return (memoryview(data)[at : at + length] for at in range(0, len(data), length))


def again(repository: Repository) -> Objects:
    """Another value for the same directory, as another process has it."""
    return Objects(repository.objects.fd, "sha256")


def listing(store: Path) -> list[str]:
    return sorted(str(path.relative_to(store)) for path in (store / "objects").rglob("*") if path.is_file())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("unnamed", [True, False], ids=["tmpfile", "named"])
def test_content_is_under_its_name(unnamed: bool, size: int, repository: Repository, store: Path) -> None:
    data, objects = data_of(size), repository.objects
    objects._ground.unnamed = unnamed  # filesystems without O_TMPFILE are rare
    name = objects.add(size, pieces(data))
    assert name == name_of(data, "sha256")
    assert listing(store) == [f"objects/{name.path}"]
    file = store / "objects" / name.path
    assert file.read_bytes() == data
    assert file.stat().st_mode == 0o100644
    assert file.stat().st_nlink == 1
    assert objects.read(name) == data
    assert (objects.added, objects.added_bytes) == ([name], size)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_there_is_not_written_again(size: int, repository: Repository, store: Path) -> None:
    data = data_of(size)
    name = repository.objects.add(size, [data])
    before = (store / "objects" / name.path).stat()
    assert repository.objects.add(size, pieces(data)) == name
    other = again(repository)
    assert other.add(size, pieces(data)) == name
    assert (other.added, other.reused) == ([], 1)
    after = (store / "objects" / name.path).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "fifo", "link", "directory"])
def test_what_is_damaged_is_replaced(damage: str, size: int, repository: Repository, store: Path) -> None:
    """The replacement is a new file: who has the old one open keeps what they opened."""
    data = data_of(size)
    name = repository.objects.add(size, [data])
    file = store / "objects" / name.path
    match damage:
        case "flip":
            file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        case "cut":
            os.truncate(file, size - 1)
        case "longer":
            file.write_bytes(data + b"\0")
        case "empty":
            os.truncate(file, 0)
        case "fifo":
            file.unlink()
            os.mkfifo(file)
        case "link":
            file.rename(store / "moved")
            file.symlink_to(store / "moved")
        case "directory":
            file.unlink()
            file.mkdir()
    other = again(repository)
    if damage == "directory":  # fsck's to tell of
        with pytest.raises(IsADirectoryError):
            other.add(size, pieces(data))
    else:
        assert other.add(size, pieces(data)) == name
        assert other.healed == 1
        assert file.read_bytes() == data
        assert not file.is_symlink()
    assert [path for path in listing(store) if "draft" in path] == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("announced", [-1, 1])
def test_a_wrong_size_keeps_nothing(size: int, announced: int, repository: Repository, store: Path) -> None:
    with pytest.raises(ValueError, match="announced"):
        repository.objects.add(size + announced, [data_of(size)])
    assert listing(store) == []


@pytest.mark.parametrize("unnamed", [True, False], ids=["tmpfile", "named"])
def test_a_source_that_breaks_keeps_nothing(unnamed: bool, repository: Repository, store: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(2 << 20)
        raise ConnectionError

    repository.objects._ground.unnamed = unnamed
    with pytest.raises(ConnectionError):
        repository.objects.add(4 << 20, broken())
    assert listing(store) == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("unnamed", [True, False], ids=["tmpfile", "named"])
def test_another_one_is_quicker(
    unnamed: bool, damaged: bool, size: int, repository: Repository, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same object appears between the look and the link, whole, or as a broken machine left it."""
    data, link = data_of(size), draft.Draft.link
    repository.objects._ground.unnamed = unnamed

    def late(self: draft.Draft, path: str) -> None:
        monkeypatch.setattr(draft.Draft, "link", link)
        again(repository).add(size, [data])
        if damaged:
            os.truncate(store / "objects" / path, 0)
        link(self, path)

    monkeypatch.setattr(draft.Draft, "link", late)
    name = repository.objects.add(size, pieces(data))
    assert (store / "objects" / name.path).read_bytes() == data
    assert repository.objects.healed == damaged
    assert listing(store) == [f"objects/{name.path}"]


@pytest.mark.parametrize("umask", [0o077, 0o000, 0o777])
def test_the_umask_has_no_say(umask: int, repository: Repository, store: Path) -> None:
    (store / "objects/ab").mkdir()
    (store / "objects" / name_of(b"x", "sha256").path[:2]).mkdir()
    before = os.umask(umask)
    try:
        name = repository.objects.add(1, [b"x"])
    finally:
        os.umask(before)
    assert (store / "objects" / name.path).stat().st_mode == 0o100644


def test_reading_compares(repository: Repository, store: Path) -> None:
    name = repository.objects.add(100, [bytes(100)])
    (store / "objects" / name.path).write_bytes(bytes(99) + b"x")
    assert repository.objects.read(name) is None
    (store / "objects" / name.path).unlink()
    assert repository.objects.read(name) is None


def test_copies_from_another_store(repository: Repository, tmp_path: Path) -> None:
    data = data_of(100_000)
    (tmp_path / "source").write_bytes(data)
    with (tmp_path / "source").open("rb") as file:
        assert repository.objects.copy(name_of(data, "sha256"), file.fileno())
    with (tmp_path / "source").open("rb") as file:
        assert not repository.objects.copy(name_of(b"other", "sha256"), file.fileno())
    assert repository.objects.read(name_of(data, "sha256")) == data
    assert len(repository.objects.added) == 1


def test_sha512(repository: Repository) -> None:
    objects = Objects(repository.objects.fd, "sha512")
    assert objects.add(5000, [bytes(5000)]) == name_of(bytes(5000), "sha512")
