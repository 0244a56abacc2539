"""The only way to write a file that matters: readers see the old one or the new one, also after a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Put new bytes at PATH; an error or an interruption leaves what was there before.

    Raises OSError where the directory cannot be written or the filesystem is full.
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    draft = f".{path.name}.{os.urandom(8).hex()}"
    try:
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=directory)
        try:
            with open(fd, "w+b") as file:
                yield file
                file.flush()
                os.fsync(fd)
            os.rename(draft, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=directory)
            raise
        # The new name is data of the directory: until that is synced, a cut can take it back.
        os.fsync(directory)
    finally:
        os.close(directory)


def sync_directory(path: Path) -> None:
    """Make the names in the directory PATH durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_filesystem(fd: int) -> None:
    """Make everything durable that was written to the filesystem of FD, a directory, so far, names included.

    The kernel tells FD of failed writes since it was opened (Linux 5.8), so it has to be open before the first of them.
    Raises OSError; what was written is then lost, and a second call would not say so.
    """
    import ctypes  # noqa: PLC0415 - a fifth of the time in which `keelboot --help` has to be done

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # syncfs(2) hands everything to the disk, but on FAT, which has no super_operations.sync_fs, nothing then tells the
    # disk to empty its cache; fsync(2) does on every filesystem.
    os.fsync(fd)
