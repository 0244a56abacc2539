"""Where this user's uploads go on if the process is killed: a cache, of which nothing is missed but time.

    uploads/HEX    HEX is of the repository's name and the blob's digest; a bookmark that a process has is locked

A file for each, and not a part of transfers.json: what is known changes with each chunk of each upload, of several
processes at once, and none of these may take back what another one wrote. The lock ends with its process, however that
ends, so two processes never send to one upload, and nobody has to find out whether the owner of one still lives.

A location may be signed, and as good as a password: only the user reads it.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from keelboot.image.digest import Digest
from keelboot.registry.bookmark import Bookmark, NoBookmark
from keelboot.registry.name import Name

_VERSION: Final = 1
_FILES_MAX: Final = 100  # the oldest go
_FILE_MAX: Final = 32 << 10  # bytes
_SYNCED_EACH: Final = 2.0  # seconds of an upload that a power cut may cost
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Bookmarks:
    """The cache in DIRECTORY; None for one that nobody keeps."""

    def __init__(self, directory: Path | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory, self._clock = directory, clock

    @contextmanager
    def of(self, name: Name, blob: Digest) -> Iterator[Bookmark]:
        """The bookmark of BLOB on its way to NAME; one that keeps nothing where another process has it."""
        about = {"version": _VERSION, "repository": str(name), "digest": str(blob)}
        path = self._directory and self._directory / sha256(f"{name} {blob}".encode()).hexdigest()
        fd = self._claimed(path) if path else None
        if not path or fd is None:
            yield NoBookmark()
            return
        try:
            yield _File(fd, about, self._clock)
        finally:
            with suppress(OSError):
                if os.fstat(fd).st_size == 0:
                    path.unlink()
            os.close(fd)

    def _claimed(self, path: Path) -> int | None:
        """The file, open and locked; None where that cannot be done, as it is not worth a failure."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(OSError):  # others tidy it too
                _tidy(path.parent)
            return _locked(path, os.O_CREAT)
        except OSError:
            return None


class _File:
    """The bookmark in the locked file FD, which says what it is ABOUT."""

    def __init__(self, fd: int, about: dict[str, object], clock: Callable[[], float]) -> None:
        self._fd, self._about, self._clock = fd, about, clock
        self._synced = -_SYNCED_EACH
        self._length = os.fstat(fd).st_size
        self.location = self._read()

    def _read(self) -> str | None:
        try:
            value = json.loads(os.pread(self._fd, _FILE_MAX, 0))
        except (OSError, ValueError, RecursionError):
            return None
        location = value.pop("location", None) if isinstance(value, dict) else None
        return location if isinstance(location, str) and value == self._about else None

    def put(self, location: str) -> None:
        if location == self.location:
            return
        data = json.dumps({**self._about, "location": location}).encode()
        with suppress(OSError):
            # One write over all that was there, so that SIGKILL leaves the one or the other.
            os.pwrite(self._fd, data.ljust(self._length), 0)
            self.location, self._length = location, max(self._length, len(data))
            now = self._clock()
            if now - self._synced >= _SYNCED_EACH:
                os.fdatasync(self._fd)
                self._synced = now

    def remove(self) -> None:
        self.location, self._length = None, 0
        with suppress(OSError):
            os.ftruncate(self._fd, 0)


def _locked(path: Path, more: int = 0) -> int | None:
    """The file at PATH, open, and nobody else's; None where it is. Raises OSError."""
    fd = os.open(path, _FLAGS | more, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:  # else its owner has removed it meanwhile
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _tidy(directory: Path) -> None:
    """Remove the oldest, but for those that are somebody's, so that there is room for one more. Raises OSError."""
    found = [(entry.stat(follow_symlinks=False).st_mtime, entry.path) for entry in os.scandir(directory)]
    for _, path in sorted(found)[: max(0, len(found) + 1 - _FILES_MAX)]:
        with suppress(OSError):
            fd = _locked(Path(path))
            if fd is not None:
                Path(path).unlink()
                os.close(fd)
