"""Files of a stored image by name: in a directory, or in a tar archive without unpacking it.

Names come from documents, but only as validated digests or as members that the archive itself lists, and a directory
is read through its descriptor, never through a final symbolic link, and never from anything but an ordinary file.
"""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from keelboot.failure import ImageNotFound
from keelboot.image.archive import Archive, Kind
from keelboot.image.compression import Compression, detect
from keelboot.image.refusal import Refused

_SCAN_BLOCK = 64 << 10
_LINKS_MAX = 8


class Folder(Protocol):
    """Names to bytes."""

    def open(self, name: str) -> BinaryIO | None:
        """The file NAME (parts joined by `/`), from its start; None where there is none. Raises Refused."""


class DirectoryFolder:
    """A directory of the host."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def open(self, name: str) -> BinaryIO | None:
        try:
            # Not blocking: the open of a fifo would wait for a writer for ever.
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Refused(f"{name} cannot be read ({error.strerror})") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise Refused(f"{name} is not an ordinary file")
        return open(fd, "rb", buffering=0)


class ArchiveFolder:
    """The members of an uncompressed tar archive, found by one scan of its headers."""

    def __init__(self, fd: int) -> None:
        """FD stays the caller's and has to stay open. Raises Refused."""
        self._fd = fd
        self._members: dict[str, tuple[int, int]] = {}  # offset and length
        self._links: dict[str, str] = {}
        self._size = os.fstat(fd).st_size
        file = _Range(fd, 0, self._size)
        start = file.read(512)
        if detect(start) is not Compression.NONE:
            raise Refused("it is compressed as a whole; decompress it first")
        file.seek(0)
        archive = Archive(iter(lambda: file.read(_SCAN_BLOCK), b""), skip=lambda size: file.seek(size, os.SEEK_CUR))
        for entry, _ in archive:
            name = _normal(os.fsdecode(entry.name))
            if name in self._members or name in self._links:
                raise Refused(f"it has two members named {name!a}")
            match entry.kind:
                case Kind.FILE:
                    self._members[name] = (archive.position, entry.size)
                case Kind.SYMLINK:
                    self._links[name] = _normal(str(PurePosixPath(name).parent / os.fsdecode(entry.link)))
                case Kind.HARD_LINK:
                    self._links[name] = _normal(os.fsdecode(entry.link))

    def open(self, name: str) -> BinaryIO | None:
        """As Folder says; links inside the archive, which `docker save` writes for layers used twice, are followed."""
        name = _normal(name)
        for _ in range(_LINKS_MAX):
            if name in self._links:
                name = self._links[name]
        if name not in self._members:
            return None
        offset, size = self._members[name]
        return _Range(self._fd, offset, size)


class _Range(io.RawIOBase, BinaryIO):
    """Part of a file, read at its own position; closing it leaves the file open."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        super().__init__()
        self._fd, self._offset, self._size, self._at = fd, offset, size, 0

    def read(self, size: int | None = -1) -> bytes:
        rest = max(0, self._size - self._at)
        wanted = rest if size is None or size < 0 else min(size, rest)
        data = os.pread(self._fd, wanted, self._offset + self._at)
        self._at += len(data)
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at


def _normal(name: str) -> str:
    """NAME with `.` and `..` worked out; what would leave the archive stays at its top."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


@contextmanager
def directory(path: Path, *, shown: object) -> Iterator[Folder]:
    """The files of the directory PATH. Raises ImageNotFound; SHOWN is the reference, for messages."""
    with _opened(path, os.O_DIRECTORY, shown) as fd:
        yield DirectoryFolder(fd)


@contextmanager
def archive_file(path: Path, *, shown: object) -> Iterator[Folder]:
    """The members of the tar file PATH. Raises ImageNotFound, Refused."""
    with _opened(path, os.O_NONBLOCK, shown) as fd:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise ImageNotFound(
                f"cannot open {shown}",
                why=f"{path} is a directory",
                fix=f"If it is an image layout, write oci:{path}.",
            )
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Refused("it is not an ordinary file")
        yield ArchiveFolder(fd)


@contextmanager
def _opened(path: Path, flags: int, shown: object) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    except OSError as error:
        raise ImageNotFound(
            f"cannot open {shown}",
            why=f"{path}: {error.strerror}",
            fix="Check the path: oci: takes a directory, oci-archive: and docker-archive: take a file.",
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)
