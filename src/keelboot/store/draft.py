"""A file that is being made in a store: without a name, or with one that says so, until all of it is there."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from keelboot.composefs.verity import Algorithm
from keelboot.failure import Failure
from keelboot.image.tree import ObjectId
from keelboot.store import kernel_verity, names

MODE: Final = 0o644
READ: Final = 1 << 20  # bytes that are read at once
_WITHOUT_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)
_CLONE = 0x40049409  # FICLONE, ioctl_ficlonerange(2)


class Ground:
    """The directory FD that objects are made in, and what is learnt of its filesystem while making them.

    `sealed` tells whether it has fs-verity: None before anything was made.
    """

    def __init__(self, fd: int, algorithm: Algorithm) -> None:
        self.fd, self.algorithm = fd, algorithm
        self.sealed: bool | None = None
        self.unnamed = os.access("/proc/self/fd", os.X_OK)  # what links a file without a name needs
        self.wrong_mode: bool | None = None


class Draft:
    """A file that has no name yet, or one that says so; it is gone if it was not linked. Methods raise OSError."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._name = ""
        self._fd = self._make()
        try:
            if ground.wrong_mode is None:
                ground.wrong_mode = os.fstat(self._fd).st_mode & 0o7777 != MODE  # the process's umask takes bits off
            if ground.wrong_mode:
                os.fchmod(self._fd, MODE)
        except BaseException:
            self.close()
            raise

    def _make(self) -> int:
        fd = self._ground.fd
        if self._ground.unnamed:
            try:
                return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, MODE, dir_fd=fd)
            except OSError as error:
                if error.errno not in _WITHOUT_TMPFILE:
                    raise
                self._ground.unnamed = False
        self._name = draft_name()
        return os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE, dir_fd=fd)

    def write(self, data: bytes | memoryview) -> None:
        # A nearly full filesystem takes a part of it; only the next call fails.
        written = os.write(self._fd, data)
        while written < len(data):
            data = memoryview(data)[written:]
            written = os.write(self._fd, data)
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def copy(self, source: int) -> bool:
        """Take all of the file SOURCE; true where the two share their blocks from now on."""
        try:
            fcntl.ioctl(self._fd, _CLONE, source)
        except OSError:  # another filesystem, or one whose files share no blocks
            while block := os.read(source, READ):
                self.write(block)
            return False
        return True

    def chunks(self) -> Iterator[bytes]:
        at = 0
        while block := os.pread(self._fd, READ, at):
            at += len(block)
            yield block

    def seal(self, name: ObjectId) -> None:
        """Have the kernel check every read from now on, where it can. NAME is what it must measure."""
        ground = self._ground
        if ground.sealed is False or not ground.unnamed:
            return
        reader = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(self._fd)  # fs-verity refuses a file that is open for writing
        self._fd = reader
        try:
            kernel_verity.enable(reader, ground.algorithm)
            measured = kernel_verity.measured(reader)
        except kernel_verity.Unsupported:
            ground.sealed = False
            return
        ground.sealed = True
        if measured != name:
            raise Failure(
                "cannot seal an object",
                why=f"{name.hex} was written, and the kernel measures {measured.hex if measured else 'nothing'}",
                fix="The memory or the disk of this machine is faulty; test both.",
            )

    def link(self, path: str) -> None:
        try:
            self._link(path)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(path[:2], dir_fd=self._ground.fd)
            self._link(path)

    def _link(self, path: str) -> None:
        fd = self._ground.fd
        if self._name:
            os.link(self._name, path, src_dir_fd=fd, dst_dir_fd=fd)
        else:
            source = f"/proc/self/fd/{self._fd}"
            os.link(source, path, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=True)

    def replace(self, path: str) -> None:
        """Take PATH from what has it now."""
        fd = self._ground.fd
        if not self._name:
            name = draft_name()
            self._link(name)
            self._name = name
        os.rename(self._name, path, src_dir_fd=fd, dst_dir_fd=fd)
        self._name = ""

    def close(self) -> None:
        os.close(self._fd)
        if self._name:
            with suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=self._ground.fd)


def draft_name() -> str:
    """A name for what is being made; it is no other's."""
    return draft_file(os.urandom(8).hex())


def draft_file(of: str) -> str:
    """What the draft OF something is called, for who finds it again."""
    return f"{names.DRAFT}draft-{of}"
