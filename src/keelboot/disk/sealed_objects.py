"""File contents, each staged once as a sparse file in exactly the shape in which ext4 keeps a sealed file.

Staged under the object's name, `ab/cdef...`; the writer of the filesystem copies it as it is and sets the file's
length and the verity flag. So a disk has nothing left to hash on its first boot, and nothing here needs a privilege.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from keelboot.composefs.verity import Algorithm, Hasher, Measurement
from keelboot.disk import drafts, ext4_verity
from keelboot.image.tree import ObjectId

_AT_ONCE = 1 << 20  # bytes: contents up to this are hashed before a file is made, and duplicates never make one
_INCOMING = "incoming"


class SealedObjects:
    """A ContentSink: contents go in, and lie in `directory` under their fs-verity digests."""

    def __init__(self, directory: Path, *, algorithm: Algorithm = "sha256") -> None:
        self.directory = directory
        self._algorithm = algorithm
        self._sizes: dict[ObjectId, int] = {}
        with drafts.explained(directory):
            for number in range(256):
                (directory / f"{number:02x}").mkdir()

    def add(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:
        """Take content of SIZE bytes, in CHUNKS, and return its name. What is there already is not written again.

        Raises ValueError where CHUNKS are not SIZE bytes, OutOfSpace where the filesystem is full.
        """
        try:
            return self._add_small(size, chunks) if size <= _AT_ONCE else self._add_large(size, chunks)
        except OSError as error:
            failure = drafts.explain(error, self.directory)
            if failure is None:
                raise
            raise failure from error

    def objects(self) -> Mapping[ObjectId, int]:
        """Everything that was taken, with its size in bytes."""
        return MappingProxyType(self._sizes)

    def _add_small(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:
        content = b"".join(chunks)
        hasher = Hasher(self._algorithm)
        hasher.update(content)
        measured = _finished(hasher, size)
        if measured.object not in self._sizes:
            path = self.directory / measured.object.path
            fd = _create(path)
            try:
                _write(fd, content, 0)
                _seal(fd, measured)
            finally:
                os.close(fd)
            self._sizes[measured.object] = size
        return measured.object

    def _add_large(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:
        incoming = self.directory / _INCOMING
        hasher = Hasher(self._algorithm)
        at = 0
        fd = _create(incoming)
        try:
            for chunk in chunks:
                hasher.update(chunk)
                _write(fd, chunk, at)
                at += len(chunk)
            measured = _finished(hasher, size)
            if measured.object in self._sizes:
                incoming.unlink()
            else:
                _seal(fd, measured)
                incoming.rename(self.directory / measured.object.path)
                self._sizes[measured.object] = size
        except BaseException:
            incoming.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        return measured.object


@contextmanager
def staging(beside: Path, *, algorithm: Algorithm = "sha256") -> Iterator[SealedObjects]:
    """An empty `SealedObjects` on the filesystem of BESIDE, the output to come; what it staged is gone afterwards.

    Raises NotWritable, OutOfSpace.
    """
    with drafts.drafting(drafts.writable(beside).parent) as draft:
        yield SealedObjects(draft, algorithm=algorithm)


def _finished(hasher: Hasher, size: int) -> Measurement:
    measured = hasher.finish()
    if measured.size != size:
        raise ValueError(f"{size} bytes were announced, {measured.size} came")
    return measured


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _seal(fd: int, measured: Measurement) -> None:
    _write(fd, ext4_verity.tail(measured.merkle_tree, measured.descriptor), ext4_verity.tail_position(measured.size))


def _write(fd: int, data: bytes | memoryview, at: int) -> None:
    # A nearly full filesystem takes a part of it; only the next call fails.
    written = os.pwrite(fd, data, at)
    rest = memoryview(data).cast("B")[written:]
    while rest:
        at += written
        written = os.pwrite(fd, rest, at)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rest = rest[written:]
