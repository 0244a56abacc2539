"""fs-verity: the digest by which the kernel names and checks a file's content (Linux, filesystems/fsverity.rst).

    file         4096-byte blocks, the last one padded with zeros
    leaves       their hashes, packed into 4096-byte blocks, the last one padded with zeros
    ...          the hashes of those blocks, packed likewise, until one block is left: the top
    root hash    the hash of the top; of the file's block if it has only one; zeros if it has none
    digest       the hash of a 256-byte descriptor, which holds the root hash and the file's size

Blocks are always 4096 bytes and there is never a salt: composefs knows nothing else.
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from keelboot.image.tree import ObjectId

Algorithm = Literal["sha256", "sha512"]

BLOCK = 4096
_READ = 1 << 20
_DESCRIPTOR = struct.Struct("<BBBB4xQ64s176x")  # version, algorithm, log2 of the block, salt size, size, root hash
_ALGORITHM_NUMBERS = {"sha256": 1, "sha512": 2}


@dataclass(frozen=True, slots=True)
class Measurement:
    """What fs-verity knows of a file.

    `merkle_tree` is what a filesystem stores: the top level first, the leaves last, each padded to whole blocks; empty
    for a file of at most one block. `descriptor` is what the digest is the hash of.
    """

    object: ObjectId
    size: int
    merkle_tree: bytes
    descriptor: bytes


class Hasher:
    """Measures content that comes in pieces of any size. Holds one hash per 4096 bytes until it is finished."""

    def __init__(self, algorithm: Algorithm = "sha256") -> None:
        self._number = _ALGORITHM_NUMBERS[algorithm]
        self._hash = getattr(hashlib, algorithm)
        self._size = 0
        self._leaves: list[bytes] = []
        self._begun = bytearray()  # of a block that is not full yet

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add DATA to the content."""
        view = memoryview(data).cast("B")
        self._size += len(view)
        if self._begun:
            missing = BLOCK - len(self._begun)
            self._begun += view[:missing]
            if len(self._begun) < BLOCK:
                return
            self._leaves.append(self._hash(self._begun).digest())
            self._begun = bytearray()
            view = view[missing:]
        whole = len(view) - len(view) % BLOCK
        new = self._hash
        self._leaves.append(b"".join([new(view[at : at + BLOCK]).digest() for at in range(0, whole, BLOCK)]))
        self._begun += view[whole:]

    def finish(self) -> Measurement:
        """The measurement of everything added. The hasher is not used after it."""
        if self._begun:
            self._leaves.append(self._hash(self._begun.ljust(BLOCK, b"\0")).digest())
        hashes = b"".join(self._leaves)
        length = self._hash().digest_size
        levels = []
        while len(hashes) > length:
            level = memoryview(hashes.ljust(-(-len(hashes) // BLOCK) * BLOCK, b"\0"))
            levels.append(level)
            hashes = b"".join([self._hash(level[at : at + BLOCK]).digest() for at in range(0, len(level), BLOCK)])
        descriptor = _DESCRIPTOR.pack(1, self._number, 12, 0, self._size, hashes)
        return Measurement(
            object=ObjectId(self._hash(descriptor).hexdigest()),
            size=self._size,
            merkle_tree=b"".join(reversed(levels)),
            descriptor=descriptor,
        )


def measure(chunks: Iterable[bytes | bytearray | memoryview], algorithm: Algorithm = "sha256") -> Measurement:
    """Measure the content that CHUNKS add up to."""
    hasher = Hasher(algorithm)
    for chunk in chunks:
        hasher.update(chunk)
    return hasher.finish()


def measure_file(path: Path, algorithm: Algorithm = "sha256") -> Measurement:
    """Measure the file at PATH. Raises OSError if it cannot be read."""
    hasher = Hasher(algorithm)
    buffer = memoryview(bytearray(_READ))
    with path.open("rb", buffering=0) as file:
        while length := file.readinto(buffer):
            hasher.update(buffer[:length])
    return hasher.finish()
