import random
from pathlib import Path

import pytest

from keelboot.composefs.verity import measure
from keelboot.disk import ext4_verity
from keelboot.disk.sealed_objects import SealedObjects, staging
from keelboot.failure import NotWritable

SIZES = [0, 1, 4096, 4097, 65536, 65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_001]


def pieces(data: bytes, length: int) -> list[bytes | memoryview]:
    return [memoryview(data)[at : at + length] for at in range(0, len(data), length)]


def staged(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("size", SIZES)
def test_a_staged_file_is_data_hole_tree_descriptor(size: int, tmp_path: Path) -> None:
    data = random.Random(size).randbytes(size)
    sealed = SealedObjects(tmp_path)
    name = sealed.add(size, pieces(data, 100_000))
    measured = measure([data])
    assert name == measured.object
    assert sealed.objects() == {name: size}
    tail = ext4_verity.tail(measured.merkle_tree, measured.descriptor)
    hole = bytes(ext4_verity.tail_position(size) - size)
    assert staged(tmp_path) == {name.path: data + hole + tail}


def test_a_staged_file_is_sparse(tmp_path: Path) -> None:
    name = SealedObjects(tmp_path).add(1, [b"x"])
    state = (tmp_path / name.path).stat()
    assert state.st_size == 65536 + 4096
    assert state.st_blocks * 512 < 65536


@pytest.mark.parametrize("size", [100, 2 << 20])
def test_the_same_content_is_kept_once(size: int, tmp_path: Path) -> None:
    sealed = SealedObjects(tmp_path)
    data = random.Random(1).randbytes(size)
    assert sealed.add(size, [data]) == sealed.add(size, pieces(data, 7000))
    assert len(staged(tmp_path)) == len(sealed.objects()) == 1


@pytest.mark.parametrize("size", [100, 2 << 20])
@pytest.mark.parametrize("announced", [-1, 1])
def test_a_wrong_size_keeps_nothing(size: int, announced: int, tmp_path: Path) -> None:
    sealed = SealedObjects(tmp_path)
    with pytest.raises(ValueError, match="announced"):
        sealed.add(size + announced, [bytes(size)])
    assert not staged(tmp_path)
    assert not sealed.objects()


def test_a_reader_that_breaks_keeps_nothing(tmp_path: Path) -> None:
    def broken() -> object:
        yield bytes(2 << 20)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        SealedObjects(tmp_path).add(4 << 20, broken())  # type: ignore[arg-type]
    assert not staged(tmp_path)


def test_sha512(tmp_path: Path) -> None:
    name = SealedObjects(tmp_path, algorithm="sha512").add(5000, [bytes(5000)])
    assert name == measure([bytes(5000)], "sha512").object


def test_staging_is_beside_the_output_and_gone_afterwards(tmp_path: Path) -> None:
    with staging(tmp_path / "disk.raw") as sealed:
        sealed.add(1, [b"x"])
        assert sealed.directory.parent == tmp_path
        assert sealed.directory.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.iterdir())


def test_staging_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(NotWritable), staging(tmp_path / "missing" / "disk.raw"):
        pass
