"""What a composefs image says, inode by inode: the value that dump text, folders and images are all turned into.

It can say a little more than a tree: link counts that are not the number of names, devices with a size, object paths
that are not the object's digest, external files without a digest. The rules of what an image can hold are here, once;
whoever makes an inode from outside data asks `fault` before anyone else sees it.
"""

import gc
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

NAME_MAX: Final = 255
TARGET_MAX: Final = 4095
INLINE_MAX: Final = 5000
_NAME: Final = re.compile(rb"(?!\.\.?\Z)[^/\0]{1,%d}" % NAME_MAX)
SIZE_MAX: Final = 1 << 53  # 1024 chunks of 2**43 bytes
_XATTRS_MAX: Final = 32767
_TYPES: Final = frozenset(
    {stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK}
)


@dataclass(slots=True, eq=False)
class Inode:
    """One inode. It is under exactly one name in `children` of a directory; its further names are there as `Link`.

    `payload` is a symlink's target or where the store has the content (`ab/cdef...`). A regular file of a size above 0
    has `content`, the bytes, or is external. `digest` is the external content's fs-verity digest, 32 or 64 bytes.
    Inodes may share the value that `xattrs` is: it is replaced, never changed.
    """

    mode: int  # type and permissions, 16 bits
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    mtime: int = 0  # seconds since the epoch
    mtime_nsec: int = 0
    size: int = 0  # bytes of content; of devices, fifos and sockets only whether it fits 32 bits matters
    payload: bytes | None = None
    content: bytes | None = None
    digest: bytes | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    children: "dict[bytes, Inode | Link]" = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        return self.mode & 0o170000 == stat.S_IFDIR

    @property
    def is_whiteout(self) -> bool:
        """Whether overlayfs would take it for a mark that hides a name: a character device 0:0."""
        return self.mode & 0o170000 == stat.S_IFCHR and self.rdev == 0

    @property
    def is_external(self) -> bool:
        return self.mode & 0o170000 == stat.S_IFREG and self.size > 0 and self.content is None


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """A further name of an inode: a hard link."""

    inode: Inode


def name_fault(name: bytes) -> str | None:
    """Why NAME cannot be a directory entry, or None."""
    if _NAME.fullmatch(name):
        return None
    if not name:
        return "a name is empty"
    if name in (b".", b".."):
        return "a name is `.` or `..`"
    if len(name) > NAME_MAX:
        return f"a name has {len(name)} bytes, more than {NAME_MAX}"
    return "a name has a slash or a zero byte"


def fault(inode: Inode) -> str | None:
    """Why an image cannot hold INODE, or None. What lies below a directory is not looked at."""
    kind = inode.mode & 0o170000
    if kind not in _TYPES or inode.mode >> 16:
        return f"mode {inode.mode:o} has no file type, or more than 16 bits"
    if (inode.uid | inode.gid | inode.nlink | inode.rdev) >> 32:  # something is left of a negative number too
        return "owner, link count or device number is not a 32-bit number"
    if not (-(1 << 63) <= inode.mtime < 1 << 63 and 0 <= inode.mtime_nsec < 1_000_000_000):
        return "the modification time is out of range"
    if inode.size >> 63:
        return "the size is out of range"
    if inode.xattrs and (why := _xattrs_fault(inode.xattrs)):
        return why
    if kind == stat.S_IFREG:
        return _content_fault(inode) if inode.size or inode.content is not None else None
    if inode.content is not None:
        return "only a regular file can have content"
    if kind == stat.S_IFLNK:
        return _path_fault(inode.payload, "symlink target")
    if kind == stat.S_IFCHR and inode.rdev == 0 and inode.nlink > 1:
        return "a whiteout (character device 0:0) has more than one name; other readers refuse that"
    return None


def _content_fault(inode: Inode) -> str | None:
    if inode.content is None:
        if inode.size > SIZE_MAX:
            return f"a file of {inode.size} bytes needs more than 1024 chunks"
        if inode.digest is not None and len(inode.digest) not in (32, 64):
            return "the digest has neither 32 nor 64 bytes"
        return None if inode.payload is None else _path_fault(inode.payload, "object path")
    if len(inode.content) != inode.size:
        return f"the content has {len(inode.content)} bytes, the size says {inode.size}"
    if inode.size > INLINE_MAX:
        return f"content of {inode.size} bytes is too long to be stored in the image itself"
    return None


def _path_fault(path: bytes | None, title: str) -> str | None:
    if not path:
        return f"the {title} is missing"
    if len(path) > TARGET_MAX or b"\0" in path:
        return f"the {title} is longer than {TARGET_MAX} bytes or has a zero byte"
    return None


def _xattrs_fault(xattrs: dict[bytes, bytes]) -> str | None:
    total = 12
    for name, value in xattrs.items():
        if not name or len(name) > NAME_MAX or b"\0" in name:
            return f"an extended attribute's name is empty, over {NAME_MAX} bytes, or has a zero byte"
        total += 7 + len(name) + len(value)
    return f"extended attributes take {total} bytes, more than {_XATTRS_MAX}" if total > _XATTRS_MAX else None


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's cycle collector from walking a growing tree again and again: half the time for 100,000 inodes."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def walk_inodes(root: Inode) -> Iterator[tuple[bytes, "Inode | Link"]]:
    """Every (path, inode or link) below ROOT, depth first, names in byte order; the root comes first as b"/"."""
    pending: list[tuple[bytes, Inode | Link]] = [(b"/", root)]
    while pending:
        path, item = pending.pop()
        yield path, item
        if isinstance(item, Inode) and item.children:
            above = b"" if path == b"/" else path
            below = sorted(item.children.items(), key=lambda entry: entry[0], reverse=True)
            pending.extend((above + b"/" + name, child) for name, child in below)


class InodeSource:
    """Inodes that are all there already, as `table.build` asks for them."""

    by_digest = False

    def __init__(self, root: Inode) -> None:
        self.root = root
        self.inodes = 1  # or more: further names count too
        self.linked: set[object] = set()
        pending = [root]
        for directory in pending:  # grows while it is walked
            self.inodes += len(directory.children)
            for child in directory.children.values():
                if isinstance(child, Link):
                    self.linked.add(child.inode)
                elif child.children:
                    pending.append(child)

    def names(self, directory: Inode) -> Collection[bytes]:
        """Of what is in DIRECTORY."""
        return directory.children

    def inode(self, directory: Inode, name: bytes) -> Inode | None:
        """The inode that NAME in DIRECTORY defines, None if it is a further name of one."""
        child = directory.children[name]
        return None if isinstance(child, Link) else child

    def identity(self, directory: Inode, name: bytes) -> object:
        """What all names of one inode have in common."""
        child = directory.children[name]
        return child.inode if isinstance(child, Link) else child

    def directory(self, directory: Inode, name: bytes) -> Inode:
        """The directory NAME in DIRECTORY."""
        child = directory.children[name]
        assert isinstance(child, Inode)
        return child
