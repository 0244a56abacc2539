"""Blobs that are on their way into a store, kept as they come: what is cut goes on where it was.

A blob from a registry is written to a draft of its own while its layer is read. Whoever needs the blob next, in this
process or after a power cut, reads the draft first and asks the registry for the rest. The draft goes when the record
of its layer has a durable name. Nothing in it is believed: its bytes are hashed with all others of the blob.
"""

import fcntl
import io
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Final

from keelboot.image.documents import Descriptor
from keelboot.image.opened import Blobs, Image, Resumable
from keelboot.store.draft import draft_file
from keelboot.store.repository import Repository

if TYPE_CHECKING:
    from keelboot.image.digest import Digest

_LEAST: Final = 1 << 20  # bytes of a blob; less is soon fetched again
_ROOM: Final = 4  # times what is fetched: blobs, and their contents, which have two to three times their size
_SYNCED_EACH: Final = 5.0  # seconds of a download that a power cut takes away


def keeping(repository: Repository, image: Image, wanted: Iterable[Descriptor]) -> Image:
    """IMAGE, which keeps in REPOSITORY what it reads of the blobs WANTED.

    Only if it has them from a place that can go on anywhere, and if the store has room for them beside their contents.
    """
    if not isinstance(image.blobs, Resumable):
        return image
    state = os.fstatvfs(repository.root)
    if state.f_bavail * state.f_frsize < _ROOM * sum(blob.size for blob in wanted):
        return image
    return replace(image, blobs=Partials(repository.root, image.blobs))


def forget(repository: Repository, blobs: Iterable[Descriptor]) -> None:
    """Remove what was kept of BLOBS, whose contents have durable names by now."""
    for blob in blobs:
        with suppress(OSError):  # gc takes what is left
            os.unlink(_file(blob), dir_fd=repository.root)


class Partials(Blobs):
    """The blobs of BEHIND, with drafts in the directory ROOT."""

    def __init__(self, root: int, behind: Resumable, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._behind, self._clock = root, behind, clock
        self._used: set[Digest] = set()

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """As keelboot.image.opened.Blobs has it. A draft that another process writes, or that cannot be, is none."""
        fd = self._draft(descriptor) if descriptor.size >= _LEAST else None
        if fd is None:
            return self._behind.open_blob(descriptor)
        try:
            there = min(os.fstat(fd).st_size, descriptor.size)
            rest = self._behind.resume_blob(descriptor, there) if there < descriptor.size else None
        except BaseException:
            os.close(fd)
            raise
        if there:
            self._used.add(descriptor.digest)
        return _Kept(fd, there, rest, self._clock)

    def distrust(self, descriptor: Descriptor) -> bool:
        """Let go of what is kept of the blob, since the whole is wrong; tell whether something kept was part of it."""
        with suppress(OSError):
            os.unlink(_file(descriptor), dir_fd=self._root)
        used = descriptor.digest in self._used
        self._used.discard(descriptor.digest)
        return used

    def _draft(self, descriptor: Descriptor) -> int | None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(_file(descriptor), flags, 0o600, dir_fd=self._root)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd


class _Kept(io.RawIOBase, BinaryIO):
    """The bytes of a blob: the first THERE from its draft, then those of REST, which are added to the draft."""

    def __init__(self, draft: int, there: int, rest: BinaryIO | None, clock: Callable[[], float]) -> None:
        super().__init__()
        self._draft, self._there, self._rest, self._clock = draft, there, rest, clock
        self._at = 0
        self._keeps = True
        self._synced = clock()

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """SIZE bytes, fewer at the end only. Raises what reading REST raises, OSError."""
        first = b""
        if self._at < self._there:
            wanted = self._there - self._at
            first = os.pread(self._draft, wanted if size is None or size < 0 else min(size, wanted), self._at)
            self._at += len(first)
            if self._at < self._there and first:
                return first
            if size is not None and size >= 0:
                size -= len(first)
        if self._rest is None or size == 0:
            return first
        data = self._rest.read(-1 if size is None else size)
        self._keep(data)
        return first + data if first else data

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._draft)
            if self._rest is not None:
                self._rest.close()
        super().close()

    def _keep(self, data: bytes) -> None:
        if not self._keeps:
            return
        try:
            left = memoryview(data)
            while left:
                written = os.pwrite(self._draft, left, self._at)
                self._at += written
                left = left[written:]
            if self._clock() - self._synced >= _SYNCED_EACH:
                os.fdatasync(self._draft)
                self._synced = self._clock()
        except OSError:  # no room, most likely, and the contents need what there is
            self._keeps = False
            with suppress(OSError):
                os.ftruncate(self._draft, 0)


def _file(blob: Descriptor) -> str:
    return draft_file(f"blob-{blob.digest}")
