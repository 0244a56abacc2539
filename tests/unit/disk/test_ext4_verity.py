import struct

import pytest

from keelboot.composefs.verity import Algorithm, measure
from keelboot.disk import ext4_verity

SIZES = [0, 1, 4095, 4096, 4097, 65536, 65537, 128 * 4096, 128 * 4096 + 1, 5_000_001]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_room_for_the_tree_is_what_the_tree_takes(size: int, algorithm: Algorithm) -> None:
    measured = measure([bytes(size)], algorithm)
    digest_size = len(measured.object.hex) // 2
    assert ext4_verity.tree_blocks(size, digest_size) * 4096 == len(measured.merkle_tree)
    data = -(-size // 4096)
    tail = len(ext4_verity.tail(measured.merkle_tree, measured.descriptor)) // 4096
    assert ext4_verity.blocks(size, digest_size) == data + tail


@pytest.mark.parametrize(("size", "position"), [(0, 0), (1, 65536), (65536, 65536), (65537, 131072)])
def test_metadata_begins_at_64_kib(size: int, position: int) -> None:
    assert ext4_verity.tail_position(size) == position


def test_the_last_bytes_are_the_descriptors_length() -> None:
    tail = ext4_verity.tail(b"t" * 8192, b"d" * 256)
    assert tail[:8192] == b"t" * 8192
    assert tail[8192:8448] == b"d" * 256
    assert struct.unpack("<I", tail[-4:]) == (256,)
    assert len(tail) == 3 * 4096


def test_a_tree_is_whole_blocks() -> None:
    with pytest.raises(ValueError, match="whole blocks"):
        ext4_verity.tail(b"short", b"d" * 256)
