"""Objects: contents of files, each once, under the name that is its fs-verity digest.

A name appears by `link`, once all bytes are written and sealed, and what it names is never written again:

    open(O_TMPFILE) - write - enable fs-verity, where there is any - link to ab/cdef...

What is killed in between leaves nothing. Where O_TMPFILE is missing, a draft with a dot in front of its name is linked
instead, and gc removes what is left of it. Names are durable only after the store's barrier.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from keelboot.composefs.verity import Algorithm
from keelboot.image.tree import External, ObjectId
from keelboot.store import kernel_verity, names
from keelboot.store.draft import READ, Draft, Ground
from keelboot.store.naming import Naming, name_of

_AT_ONCE = 1 << 20  # bytes: contents up to this are named before a file is made, and those that are there make none


class Account(NamedTuple):
    """What was done with objects, in values that another process can be told."""

    added: list[bytes]  # digests
    added_bytes: int
    healed: int
    reused: int
    cloned: int
    sealed: bool | None


class Objects:
    """The objects below the directory FD, which stays the caller's; a ContentSink. For one thread.

    `healed` counts those that took the place of something damaged, `reused` those that were there, `cloned` those that
    share blocks with another store.
    """

    def __init__(self, fd: int, algorithm: Algorithm) -> None:
        self.fd, self.algorithm = fd, algorithm
        self.added_bytes = self.healed = self.reused = self.cloned = 0
        self._added: list[bytes] = []  # digests
        self._ground = Ground(fd, algorithm)
        self._good: set[bytes] = set()  # digests of what was made here, or compared with what was given
        # The first byte of digests that no object has had so far: what is not there need not be looked for.
        present = set(files(fd))
        self._empty = {number for number in range(256) if f"{number:02x}" not in present}

    @property
    def added(self) -> list[ObjectId]:
        """Those whose names appeared through this value, in order."""
        return [ObjectId.of(digest) for digest in self._added]

    @property
    def added_count(self) -> int:
        """How many those are."""
        return len(self._added)

    @property
    def sealed(self) -> bool | None:
        """Whether what is added is sealed with fs-verity; None while nothing was added."""
        return self._ground.sealed

    # -- what is there --------------------

    def size(self, name: ObjectId) -> int | None:
        """The length in bytes of the object's file, None where there is none."""
        try:
            return os.stat(name.path, dir_fd=self.fd, follow_symlinks=False).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def has(self, content: External) -> bool:
        """Whether an object of that name and size is there. Its bytes are not read."""
        return self.size(content.object) == content.size

    def read(self, name: ObjectId) -> bytes | None:
        """The content, if it is there and is what its name says. For what fits into memory."""
        try:
            content = b"".join(self.chunks(name))
        except OSError:
            return None
        return content if name_of(content, self.algorithm) == name else None

    def chunks(self, name: ObjectId) -> Iterator[bytes]:
        """The content as the file has it, not compared with its name. Raises OSError."""
        with self.opened(name) as fd:
            while block := os.read(fd, READ):
                yield block

    @contextmanager
    def opened(self, name: ObjectId) -> Iterator[int]:
        """A descriptor of the object's file, for reading. Raises OSError."""
        # Not blocking: the open of a fifo would wait for a writer for ever.
        fd = os.open(name.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            yield fd
        finally:
            os.close(fd)

    def walk(self) -> Iterator[tuple[str, str]]:
        """Directory and file of every name below objects/, in order, drafts left out; ("ab", "") for a file `ab`."""
        for directory in files(self.fd):
            if directory.startswith("."):
                continue
            try:
                inner = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
            except NotADirectoryError:
                yield directory, ""
                continue
            try:
                found = files(inner)
            finally:
                os.close(inner)
            yield from ((directory, file) for file in found)

    # -- changes --------------------

    def add(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:
        """Take content of SIZE bytes, in CHUNKS, and return its name. What is there already is compared, not trusted.

        Raises ValueError where CHUNKS are not SIZE bytes, and OSError.
        """
        return self._add_small(size, chunks) if size <= _AT_ONCE else self._add_large(size, chunks)

    def put(self, pieces: Sequence[bytes | bytearray]) -> External:
        """Take content that is in memory. Raises OSError."""
        size = sum(map(len, pieces))
        return External(self.add(size, map(memoryview, pieces)), size)

    def copy(self, name: ObjectId, source: int) -> bool:
        """Take the object from the file SOURCE, sharing its blocks where the filesystem can (reflink).

        False where SOURCE is not what NAME says. Raises OSError.
        """
        draft = Draft(self._ground)
        try:
            shared = draft.copy(source)
            naming = Naming(self.algorithm)
            for chunk in draft.chunks():
                naming.update(chunk)
            if naming.finish() != name:
                return False
            self._publish(draft, name, naming.size)
            self.cloned += shared
            return True
        finally:
            draft.close()

    def remove(self, name: ObjectId) -> None:
        """Take the name away, if it is there."""
        with suppress(FileNotFoundError):
            os.unlink(name.path, dir_fd=self.fd)

    def forget_unsynced(self) -> None:
        """After a barrier that failed: have all objects read from the disk when they are next looked at.

        Pages that could not be written are clean to the kernel, and would be taken for what the disk has.
        """
        for place in self.walk():
            if name := names.object_at(*place):
                with suppress(OSError), self.opened(name) as fd:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    # -- accounts --------------------

    def account(self) -> Account:
        """What was done through this value."""
        return Account(self._added, self.added_bytes, self.healed, self.reused, self.cloned, self.sealed)

    def include(self, other: Account) -> None:
        """Count what was done through OTHER's value as done through this one."""
        self._added += other.added
        self.added_bytes += other.added_bytes
        self.healed += other.healed
        self.reused += other.reused
        self.cloned += other.cloned
        if other.sealed is not None:
            self._ground.sealed = other.sealed

    # -- how content comes in --------------------

    def _add_small(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:
        parts = tuple(chunks)
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(content) != size:
            raise ValueError(f"{size} bytes were announced, {len(content)} came")
        name = name_of(content, self.algorithm)
        if name.digest not in self._good:
            if self._is_there(name, parts):
                self.reused += 1
            else:
                draft = Draft(self._ground)
                try:
                    draft.write(content)
                    self._publish(draft, name, size)
                finally:
                    draft.close()
            self._good.add(name.digest)
        return name

    def _add_large(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:
        naming = Naming(self.algorithm)
        draft = Draft(self._ground)
        try:
            for chunk in chunks:
                naming.update(chunk)
                draft.write(chunk)
            if naming.size != size:
                raise ValueError(f"{size} bytes were announced, {naming.size} came")
            name = naming.finish()
            if name.digest not in self._good:
                if self._is_there(name, draft.chunks()):
                    self.reused += 1
                else:
                    self._publish(draft, name, size)
                self._good.add(name.digest)
        finally:
            draft.close()
        return name

    def _is_there(self, name: ObjectId, content: Iterable[bytes | memoryview]) -> bool:
        """Whether the object is there with that CONTENT, and sealed as well as the filesystem can."""
        if name.digest[0] in self._empty:
            return False
        try:
            with self.opened(name) as fd:
                return (
                    self._is_sealed(fd, name)
                    and all(os.read(fd, len(chunk)) == chunk for chunk in content)
                    and not os.read(fd, 1)
                )
        except OSError:  # there is nothing, or no file; a bad sector, or fs-verity's own finding
            return False

    def _is_sealed(self, fd: int, name: ObjectId) -> bool:
        if self._ground.sealed is False:
            return True
        try:
            return kernel_verity.measured(fd) == name
        except kernel_verity.Unsupported:
            self._ground.sealed = False
            return True

    def _publish(self, draft: Draft, name: ObjectId, size: int) -> None:
        draft.seal(name)
        try:
            draft.link(name.path)
        except FileExistsError:
            # Another pull was quicker, or what is there is damaged; only a new file takes the name of a damaged one.
            self._empty.discard(name.digest[0])
            if self._is_there(name, draft.chunks()):
                self.reused += 1
                return
            draft.replace(name.path)
            self.healed += 1
        self._added.append(name.digest)
        self.added_bytes += size


def files(directory: int) -> list[str]:
    """The names in DIRECTORY, in order."""
    # A descriptor of its own: btrfs lists what was there when the descriptor was opened, or last read to its end.
    own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        with os.scandir(own) as entries:
            return sorted(entry.name for entry in entries)
    finally:
        os.close(own)
