"""fs-verity digests: known ones, any way of cutting the content into pieces, the stored Merkle tree."""

import hashlib
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelboot.composefs.verity import Algorithm, Hasher, measure, measure_file

KNOWN = [
    (b"", "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
    (b"hello world\n", "37061ef2ac4c21bec68489b56138c5780306a4ad7fe6676236ecdf2c9027cd92"),
    (b"foo bar baz\n", "91e7d88cb7bc9cf6d8db3b0ecf89af4abf204bef5b3ade5113d5b62ef374e70b"),
]
PATTERN = b"".join(hashlib.sha512(b"%d" % number).digest() for number in range(16384))  # 1 MiB without repetition


@pytest.mark.parametrize(("content", "digest"), KNOWN)
def test_known_digest(content: bytes, digest: str, tmp_path: Path) -> None:
    assert measure([content]).object.hex == digest
    (tmp_path / "file").write_bytes(content)
    assert measure_file(tmp_path / "file").object.hex == digest


@given(st.integers(0, 20_000), st.lists(st.integers(0, 9_000), max_size=6), st.sampled_from(get_args(Algorithm)))
def test_pieces_do_not_matter(size: int, cuts: list[int], algorithm: Algorithm) -> None:
    content = memoryview(PATTERN)[:size]
    hasher = Hasher(algorithm)
    start = 0
    for end in sorted(cuts):
        hasher.update(content[start:end])
        start = max(start, min(end, size))
    hasher.update(content[start:])
    assert hasher.finish() == measure([bytes(content)], algorithm)


def test_tree_of_one_block_is_empty() -> None:
    assert measure([PATTERN[:4096]]).merkle_tree == b""


def test_top_level_comes_first() -> None:
    """129 blocks of SHA-256 hashes are two blocks of leaves under one block with the hashes of those two."""
    tree = measure([PATTERN[: 129 * 4096]]).merkle_tree
    assert len(tree) == 3 * 4096
    top, leaves = tree[:4096], tree[4096:]
    assert leaves[:32] == hashlib.sha256(PATTERN[:4096]).digest()
    assert leaves[4096:4128] == hashlib.sha256(PATTERN[128 * 4096 : 129 * 4096]).digest()
    assert leaves[4128:] == bytes(4096 - 32)
    assert top[:64] == hashlib.sha256(leaves[:4096]).digest() + hashlib.sha256(leaves[4096:]).digest()
    assert top[64:] == bytes(4096 - 64)


def test_descriptor_is_what_is_hashed() -> None:
    measured = measure([b"hello world\n"], "sha512")
    assert len(measured.descriptor) == 256
    assert measured.descriptor[:4] == bytes((1, 2, 12, 0))
    assert measured.object.hex == hashlib.sha512(measured.descriptor).hexdigest()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        measure_file(tmp_path / "missing")
