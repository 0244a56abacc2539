"""Names of objects: the fs-verity digest of content of any length, in constant memory.

`composefs.verity` measures what a filesystem stores, the Merkle tree, and keeps all of it: a hundredth of the content.
A name needs the digest alone, so each full block of hashes is hashed into the level above as soon as there is more.
"""

import hashlib
import struct

from keelboot.composefs.verity import BLOCK, Algorithm
from keelboot.image.tree import ObjectId

_DESCRIPTOR = struct.Struct("<BBBB4xQ64s176x")  # version, algorithm, log2 of the block, salt size, size, root hash
_NUMBERS = {"sha256": 1, "sha512": 2}


class Naming:
    """Names content that comes in pieces of any size."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._number = _NUMBERS[algorithm]
        self._hash = getattr(hashlib, algorithm)
        self.size = 0  # bytes taken so far
        self._begun = b""  # of a block that is not full yet
        self._levels = [bytearray()]  # hashes not yet hashed into the level above; the leaves first

    def update(self, data: bytes | memoryview) -> None:
        """Add DATA to the content."""
        view = memoryview(data)
        self.size += len(view)
        new, leaves = self._hash, self._levels[0]
        if self._begun:
            missing = BLOCK - len(self._begun)
            self._begun += view[:missing]
            if len(self._begun) < BLOCK:
                return
            leaves += new(self._begun).digest()
            view = view[missing:]
        whole = len(view) - len(view) % BLOCK
        leaves += b"".join([new(view[at : at + BLOCK]).digest() for at in range(0, whole, BLOCK)])
        self._begun = bytes(view[whole:])
        if len(leaves) > BLOCK:
            self._raise_full_blocks()

    def finish(self) -> ObjectId:
        """The name of everything added. Nothing is added after it."""
        if self._begun:
            self._levels[0] += self._hash(self._begun.ljust(BLOCK, b"\0")).digest()
        level = 0
        while level < len(self._levels) - 1 or len(self._levels[level]) > self._hash().digest_size:
            hashes = self._levels[level]
            self._raise_blocks(level, bytes(hashes).ljust(-(-len(hashes) // BLOCK) * BLOCK, b"\0"))
            level += 1
        descriptor = _DESCRIPTOR.pack(1, self._number, 12, 0, self.size, bytes(self._levels[level]))
        return ObjectId.of(self._hash(descriptor).digest())

    def _raise_full_blocks(self) -> None:
        """Hash blocks of hashes into the level above, as long as something is left behind them on their own level."""
        level = 0
        while level < len(self._levels) and len(self._levels[level]) > BLOCK:
            hashes = self._levels[level]
            full = (len(hashes) - 1) // BLOCK * BLOCK
            self._raise_blocks(level, bytes(hashes[:full]))
            del hashes[:full]
            level += 1

    def _raise_blocks(self, level: int, blocks: bytes) -> None:
        if level + 1 == len(self._levels):
            self._levels.append(bytearray())
        view = memoryview(blocks)
        for at in range(0, len(view), BLOCK):
            self._levels[level + 1] += self._hash(view[at : at + BLOCK]).digest()


def name_of(content: bytes | memoryview, algorithm: Algorithm) -> ObjectId:
    """The name of CONTENT: `Naming` for what is there at once."""
    new = getattr(hashlib, algorithm)
    size = len(content)
    if not size:
        return Naming(algorithm).finish()
    level = memoryview(content)
    while True:
        whole = len(level) - len(level) % BLOCK
        hashes = [new(level[at : at + BLOCK]).digest() for at in range(0, whole, BLOCK)]
        if whole < len(level):
            hashes.append(new(level[whole:].tobytes().ljust(BLOCK, b"\0")).digest())
        if len(hashes) == 1:
            break
        level = memoryview(b"".join(hashes))
    descriptor = _DESCRIPTOR.pack(1, _NUMBERS[algorithm], 12, 0, size, hashes[0])
    return ObjectId.of(new(descriptor).digest())
