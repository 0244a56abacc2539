import random

import pytest

from keelboot.composefs.verity import BLOCK, Algorithm, measure
from keelboot.store.naming import Naming, name_of

# Around each place where a level of the tree begins: a block, 128 (or 64) blocks, 128 * 128 blocks.
SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK]
SIZES += [factor * BLOCK + rest for factor in (63, 64, 65, 127, 128, 129, 256, 300) for rest in (-1, 0, 1)]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", SIZES)
def test_is_what_fs_verity_measures(size: int, algorithm: Algorithm) -> None:
    data = random.Random(size).randbytes(size)
    assert name_of(data, algorithm) == measure([data], algorithm).object


@pytest.mark.parametrize("blocks", [128 * 128 - 1, 128 * 128, 128 * 128 + 1, 128 * 128 + 129])
def test_four_levels(blocks: int) -> None:
    piece = bytes(BLOCK * 61) + b"\1" * BLOCK * 3
    naming = Naming("sha256")
    whole = [piece] * (blocks // 64) + [piece[: blocks % 64 * BLOCK], b"x"]
    for chunk in whole:
        naming.update(chunk)
    assert naming.finish() == measure(whole).object
    assert naming.size == blocks * BLOCK + 1


def test_pieces_of_any_size() -> None:
    rng = random.Random(3)
    data = rng.randbytes(1_500_000)
    for _ in range(5):
        naming, at = Naming("sha256"), 0
        while at < len(data):
            step = rng.choice([1, 100, 4095, 4096, 5000, 200_000])
            naming.update(memoryview(data)[at : at + step])
            at += step
        assert naming.finish() == measure([data]).object
