"""A directory on disk, read as mkcomposefs reads it.

Every file is named by its digest, two names of one file are two files, and the files that are small enough lie in the
image itself. Nothing is followed: a name is opened once, and everything about it is asked of what was opened.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from keelboot.composefs.inodes import Inode, fault
from keelboot.composefs.verity import measure
from keelboot.failure import Failure, InvalidImage
from keelboot.image.tree import ObjectId

INLINE_MAX: Final = 64  # bytes; part of what a digest depends on
_PIECE: Final = 1 << 20
Keep = Callable[[int, int], ObjectId]  # an open file, its size


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What is taken of a directory."""

    devices: bool = True
    xattrs: Literal["all", "user", "none"] = "all"
    times: bool = True  # else every one is the epoch


@dataclass(slots=True)
class _Level:
    """A directory whose names are being read."""

    directory: int
    path: bytes
    inode: Inode
    names: list[bytes]


def read_pieces(file: int, size: int) -> Iterator[bytes]:
    """The content of the open FILE from its start. Raises InvalidImage where that is not SIZE bytes, and OSError."""
    at = 0
    while piece := os.pread(file, min(_PIECE, max(size - at, 0) + 1), at):
        at += len(piece)
        yield piece
    if at != size:
        raise changed(f"it had {size} bytes, and then {at}")


def measured(file: int, size: int) -> ObjectId:
    """The name of the content of FILE, which is SIZE bytes long; nothing is kept. Raises InvalidImage, OSError."""
    return measure(read_pieces(file, size)).object


def changed(why: str) -> InvalidImage:
    """What to raise when a file is not what it was a moment before."""
    return InvalidImage("cannot read a file", why=f"it changed while it was read: {why}", fix="Run it again.")


def read(source: Path, taken: Taken, keep: Keep = measured) -> Inode:
    """The inodes of the directory SOURCE and of what is in it. KEEP gets the contents that the image points to.

    Raises OSError that names the file, InvalidImage if an image cannot hold one, and what KEEP raises.
    """
    top = os.fsencode(source)
    levels: list[_Level] = []
    try:
        with _named(top):
            handle = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            with _closing(handle):
                root = _inode(handle, top, taken, keep)
                levels.append(_level(handle, top, root))
        while levels:
            level = levels[-1]
            if not level.names:
                os.close(levels.pop().directory)
                continue
            name = level.names.pop()
            path = os.path.join(level.path, name)  # noqa: PTH118 - of bytes, and only for messages
            with _named(path):
                handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=level.directory)
            with _closing(handle):
                if not taken.devices and _is_device(handle):
                    continue
                inode = level.inode.children[name] = _inode(handle, path, taken, keep)
                if inode.is_directory:
                    with _named(path):
                        levels.append(_level(handle, path, inode))
    finally:
        for level in levels:
            os.close(level.directory)
    return root


def _level(handle: int, path: bytes, inode: Inode) -> _Level:
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
    try:
        names = os.listdir(directory)  # noqa: PTH208 - a descriptor has no Path form
        return _Level(directory, path, inode, [os.fsencode(name) for name in names])
    except BaseException:
        os.close(directory)
        raise


def _inode(handle: int, path: bytes, taken: Taken, keep: Keep) -> Inode:
    with _named(path):
        found = os.fstat(handle)
        inode = Inode(mode=found.st_mode, uid=found.st_uid, gid=found.st_gid)
        if taken.times:
            inode.mtime, inode.mtime_nsec = divmod(found.st_mtime_ns, 1_000_000_000)
        if taken.xattrs != "none":
            inode.xattrs = _xattrs(handle, b"user." if taken.xattrs == "user" else b"")
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFLNK:
            inode.payload = os.fsencode(os.readlink("", dir_fd=handle))
            inode.size = len(inode.payload)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            inode.rdev = found.st_rdev
        elif kind == stat.S_IFREG:
            inode.size = found.st_size
    if kind == stat.S_IFREG and inode.size:
        _read_content(inode, handle, path, keep)
    if why := fault(inode):
        raise InvalidImage(
            f"cannot put {os.fsdecode(path)} into an image", why=why, fix="Remove or change that file, and try again."
        )
    return inode


def _read_content(inode: Inode, handle: int, path: bytes, keep: Keep) -> None:
    with _named(path):
        file = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC)
    with _closing(file):
        try:
            if inode.size <= INLINE_MAX:
                inode.content = b"".join(read_pieces(file, inode.size))
                return
            name = keep(file, inode.size)
        except OSError as error:  # the store says which object it is about
            if error.filename is None:
                error.filename = os.fsdecode(path)
            raise
        except Failure as failure:
            raise InvalidImage(f"cannot read {os.fsdecode(path)}", why=failure.why, fix=failure.fix) from failure
    inode.payload = name.path.encode()
    inode.digest = bytes.fromhex(name.hex)


def _xattrs(handle: int, prefix: bytes) -> dict[bytes, bytes]:
    place = f"/proc/self/fd/{handle}"  # what was opened by its path alone has no attributes under its number
    try:
        names = [os.fsencode(name) for name in os.listxattr(place)]
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    found = {}
    for name in names:
        if name.startswith(prefix):
            found[name] = os.getxattr(place, name)
    return found


def _is_device(handle: int) -> bool:
    return stat.S_IFMT(os.fstat(handle).st_mode) in (stat.S_IFCHR, stat.S_IFBLK)


@contextmanager
def _closing(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def _named(path: bytes) -> Iterator[None]:
    """Let an error of the operating system tell of PATH: it knows names below a directory only, or numbers."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fsdecode(path)) from error
