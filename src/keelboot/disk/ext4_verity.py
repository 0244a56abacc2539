"""How ext4 keeps fs-verity metadata: in the file's own blocks, past its end.

From byte 0 the data; from the length rounded up to 64 KiB the Merkle tree, in blocks of 4 KiB, top level first; then
one block with the descriptor at its start and the descriptor's length in its last four bytes. See the kernel's
Documentation/filesystems/ext4/verity.rst and fs/ext4/verity.c.
"""

import struct

BLOCK = 4096
_ALIGNMENT = 65536
_LENGTH = struct.Struct("<I")


def tail_position(size: int) -> int:
    """At which byte the metadata of a file of SIZE bytes begins."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def tail(merkle_tree: bytes, descriptor: bytes) -> bytes:
    """What begins at `tail_position`. The tree is whole blocks, or empty for a file of at most one block."""
    if len(merkle_tree) % BLOCK:
        raise ValueError(f"a Merkle tree is whole blocks, not {len(merkle_tree)} bytes")
    return merkle_tree + descriptor.ljust(BLOCK - _LENGTH.size, b"\0") + _LENGTH.pack(len(descriptor))


def tree_blocks(size: int, digest_size: int) -> int:
    """How many blocks the Merkle tree of a file of SIZE bytes takes; DIGEST_SIZE is 32 or 64 bytes."""
    level, total = -(-size // BLOCK), 0
    while level > 1:
        level = -(-level * digest_size // BLOCK)
        total += level
    return total


def blocks(size: int, digest_size: int) -> int:
    """How many blocks of 4 KiB a sealed file of SIZE bytes takes: data, tree and descriptor."""
    return -(-size // BLOCK) + tree_blocks(size, digest_size) + 1
