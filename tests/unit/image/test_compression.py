import gzip
import io
import os
import zlib

import pytest
import zstandard

from keelboot.image import compression
from keelboot.image.compression import BLOCK, Compression, decompress, detect
from keelboot.image.refusal import Refused


@pytest.fixture(params=["isal", "zlib"])
def library(request, monkeypatch):
    """Both libraries for gzip do the same."""
    if request.param == "zlib":
        monkeypatch.setattr(compression, "igzip_lib", None)
    elif compression.igzip_lib is None:
        pytest.skip("isal is not installed")


class Trickle(io.BytesIO):
    """A stream that gives little at a time."""

    def read(self, size=-1):
        return super().read(min(size, 3))


CONTENT = os.urandom(100_000) + bytes(3_000_000) + b"end"


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("stream", [io.BytesIO, Trickle])
@pytest.mark.parametrize("cut", [0, 1, 100_001, len(CONTENT)])
def test_gzip(stream, cut):
    packed = gzip.compress(CONTENT[:cut], 1) + gzip.compress(CONTENT[cut:], 1)
    blocks = list(decompress(stream(packed), Compression.GZIP))
    assert b"".join(blocks) == CONTENT
    assert max(map(len, blocks)) <= BLOCK


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("stream", [io.BytesIO, Trickle])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:-8],
        lambda data: data[: len(data) // 2],
        lambda data: data[:3],
        lambda data: data[:-8] + bytes(4) + data[-4:],
        lambda data: data[:-4] + bytes(4),
        lambda data: data + b"x",
        lambda data: data + bytes(512),
        lambda data: data + data[:5],
        lambda data: data + b"\x1f\x8b\x07" + data,
        lambda data: data[:60_000] + b"\0\0\0\0" + data[60_004:],
    ],
)
def test_damaged_gzip(stream, damage):
    with pytest.raises(Refused):
        list(decompress(stream(damage(gzip.compress(CONTENT, 1))), Compression.GZIP))


@pytest.mark.usefixtures("library")
def test_every_size_around_a_block():
    """zlib may hold back bytes when a block is filled to the last."""
    for size in (BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 0):
        assert b"".join(decompress(io.BytesIO(gzip.compress(bytes(size))), Compression.GZIP)) == bytes(size)


def test_zstd_blocks_are_bounded():
    blocks = list(decompress(io.BytesIO(zstandard.compress(bytes(50_000_000))), Compression.ZSTD))
    assert max(map(len, blocks)) <= BLOCK
    assert sum(map(len, blocks)) == 50_000_000


@pytest.mark.parametrize(
    ("packed", "found"),
    [
        (gzip.compress(b"x"), Compression.GZIP),
        (zstandard.compress(b"x"), Compression.ZSTD),
        (b"\x5f\x2a\x4d\x18\0\0\0\0", Compression.ZSTD),
        (b"name" + bytes(600), Compression.NONE),
        (zlib.compress(b"x"), Compression.NONE),
        (b"", Compression.NONE),
        (b"\x1f", Compression.NONE),
    ],
    ids=["gzip", "zstd", "skippable", "tar", "zlib", "empty", "cut"],
)
def test_detects(packed, found):
    assert detect(packed) is found


@pytest.mark.parametrize("stream", [io.BytesIO, Trickle])
@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, bytes])
def test_undeclared_is_what_it_is(stream, pack):
    assert b"".join(decompress(stream(pack(CONTENT[:5000])), None)) == CONTENT[:5000]


@pytest.mark.parametrize("declared", Compression)
@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, bytes])
def test_l38_declared_and_found_must_agree(declared, pack):
    data = pack(b"x" * 600)
    if detect(data) is not declared:
        with pytest.raises(Refused, match="declared"):
            list(decompress(io.BytesIO(data), declared))
