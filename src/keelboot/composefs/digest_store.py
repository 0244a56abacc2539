"""Where the contents of files go that an image only points to: a directory of objects, or nowhere.

DIR/ab/cdef...      one file per content, named by its fs-verity digest
DIR/.draft-...      an object that is being written; what a cut leaves of it may be deleted
"""

import errno
import fcntl
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from keelboot.composefs.verity import Hasher, measure
from keelboot.failure import InvalidImage
from keelboot.image.tree import ObjectId

_PIECE: Final = 1 << 20
_FICLONE: Final = 0x40049409  # linux/fs.h
_ENABLE_VERITY: Final = 0x40806685  # linux/fsverity.h, FS_IOC_ENABLE_VERITY
# struct fsverity_enable_arg: version, hash_algorithm (SHA-256), block_size, and no salt or signature
_ENABLE_ARGUMENT: Final = struct.pack("<3I116x", 1, 1, 4096)


def read_pieces(file: int, size: int) -> Iterator[bytes]:
    """The content of the open FILE from its start. Raises InvalidImage where that is not SIZE bytes."""
    at = 0
    while piece := os.pread(file, min(_PIECE, max(size - at, 0) + 1), at):
        at += len(piece)
        yield piece
    if at != size:
        raise _changed(f"it had {size} bytes, and then {at}")


def measured(file: int, size: int) -> ObjectId:
    """The name of the content of FILE, which is SIZE bytes long; nothing is kept. Raises InvalidImage, OSError."""
    return measure(read_pieces(file, size)).object


class DigestStore:
    """Objects in a directory, each complete and on the disk before it has its name."""

    def __init__(self, path: Path) -> None:
        """Open the store at PATH; it is made if it is not there. Raises OSError."""
        path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._touched: set[str] = set()

    def add(self, file: int, size: int) -> ObjectId:
        """Keep the content of FILE, SIZE bytes, and return its name. One that is there already is not written again.

        Raises InvalidImage if the content changes meanwhile, OSError if it cannot be read or kept.
        """
        name = measured(file, size)
        with self._naming(name.path):
            if not self._has(name, size):
                self._put(file, size, name)
        return name

    def close(self) -> None:
        """Make the names of the objects durable, and release the store. Raises OSError."""
        try:
            for folder in (*sorted(self._touched), "."):
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        finally:
            os.close(self._directory)

    def _has(self, name: ObjectId, size: int) -> bool:
        try:
            found = os.stat(name.path, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        # Shorter ones are what a power cut leaves of an object whose writer did not wait for the disk.
        return stat.S_ISREG(found.st_mode) and found.st_size == size

    def _put(self, file: int, size: int, name: ObjectId) -> None:
        folder = name.hex[:2]
        with suppress(FileExistsError):
            os.mkdir(folder, 0o755, dir_fd=self._directory)
        draft = f".draft-{secrets.token_hex(8)}"
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=self._directory)
        try:
            try:
                written = _clone(file, fd, size) or _copy(file, fd, size)
                if written != name:
                    raise _changed("its content is no longer what was measured")
                os.fsync(fd)
            finally:
                os.close(fd)
            self._seal(draft)
            os.rename(draft, name.path, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft, dir_fd=self._directory)
            raise
        self._touched.add(folder)

    def _seal(self, draft: str) -> None:
        """Let the kernel check the object on each read, where the filesystem can. It may not be open for writing."""
        fd = os.open(draft, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            with suppress(OSError):
                fcntl.ioctl(fd, _ENABLE_VERITY, _ENABLE_ARGUMENT)
        finally:
            os.close(fd)

    @contextmanager
    def _naming(self, object_path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path / object_path)) from error


def _clone(file: int, draft: int, size: int) -> ObjectId | None:
    """Share the file's blocks, and measure what is shared. None where the filesystem cannot."""
    try:
        fcntl.ioctl(draft, _FICLONE, file)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            raise
        return None
    return measured(draft, size)


def _copy(file: int, draft: int, size: int) -> ObjectId:
    hasher = Hasher()
    for piece in read_pieces(file, size):
        view = memoryview(piece)
        while view:
            view = view[os.write(draft, view) :]
        hasher.update(piece)
    return hasher.finish().object


def _changed(why: str) -> InvalidImage:
    return InvalidImage("cannot keep a file's content", why=f"the file changed: {why}", fix="Run it again.")
