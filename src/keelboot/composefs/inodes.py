"""What a composefs image says, inode by inode: the value that dump text, trees and images are all turned into.

It can say a little more than a tree: link counts that are not the number of names, devices with a size, object paths
that are not the object's digest, external files without a digest. The rules of what an image can hold are here, once;
whoever makes an inode from outside data asks `fault` before anyone else sees it.
"""

import gc
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from keelboot.failure import InvalidImage
from keelboot.image.tree import Directory, External, Node, ObjectId, Regular, Special, Symlink, file_type, walk

NAME_MAX: Final = 255
TARGET_MAX: Final = 4095
INLINE_MAX: Final = 5000
_NAME: Final = re.compile(rb"(?!\.\.?\Z)[^/\0]{1,%d}" % NAME_MAX)
SIZE_MAX: Final = 1 << 53  # 1024 chunks of 2**43 bytes
_XATTRS_MAX: Final = 32767
_TYPES: Final = frozenset(
    {stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK}
)


@dataclass(slots=True, eq=False, kw_only=True)
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


@collector_paused()
def from_tree(root: Directory) -> Inode:
    """The inodes of a tree. A node with several names is under the one met first, depth first in name order.

    Link counts are the numbers of names; external files have their digest and the object's path.
    Raises InvalidImage if an image cannot hold a node, or a directory has two names.
    """
    first = _from_node(root)
    if why := fault(first):
        raise _refused(root, root, why)
    seen: dict[Node, Inode] = {root: first}
    pending = [(first, name, node) for name, node in sorted(root.children.items(), reverse=True)]
    while pending:
        parent, name, node = pending.pop()
        known = seen.get(node)
        if known is not None:
            known.nlink += 1
            parent.children[name] = Link(known)
            why = name_fault(name)
            if isinstance(node, Directory):
                why = "a directory has two names"
            elif known.is_whiteout:
                why = fault(known)
        else:
            inode = seen[node] = parent.children[name] = _from_node(node)
            why = name_fault(name) or fault(inode)
            if isinstance(node, Directory) and node.children:
                pending.extend((inode, key, node.children[key]) for key in sorted(node.children, reverse=True))
        if why:
            raise _refused(root, node, why)
    return first


def _refused(root: Directory, node: Node, why: str) -> InvalidImage:
    path = next(path for path, other in walk(root) if other is node).decode(errors="replace")
    return InvalidImage(
        f"cannot write {path} into a composefs image", why=why, fix="Remove or change that file in the image."
    )


def _from_node(node: Node) -> Inode:
    inode = Inode(
        mode=file_type(node) | node.permissions,
        uid=node.uid,
        gid=node.gid,
        mtime=node.mtime,
        mtime_nsec=node.mtime_nsec,
        xattrs=node.xattrs,
    )
    if isinstance(node, Regular):
        content = node.content
        if isinstance(content, External):
            inode.size = content.size
            inode.payload = content.object.path.encode()
            inode.digest = bytes.fromhex(content.object.hex)
        elif content:
            inode.size = len(content)
            inode.content = content
    elif isinstance(node, Symlink):
        inode.payload = node.target
        inode.size = len(node.target)
    elif isinstance(node, Special):
        inode.rdev = node.rdev
    return inode


def to_tree(root: Inode) -> Directory:
    """The tree that ROOT describes. Link counts, and sizes of anything but regular files, are not part of a tree.

    Raises InvalidImage for an external file without a digest, or with an object path that is not its digest's.
    """
    nodes: dict[Inode, Node] = {}
    directories: list[tuple[Inode, Directory]] = []

    def node_of(inode: Inode) -> Node:
        if inode not in nodes:
            nodes[inode] = made = _to_node(inode)
            if isinstance(made, Directory):
                directories.append((inode, made))
        return nodes[inode]

    top = node_of(root)
    assert isinstance(top, Directory)
    for inode, directory in directories:  # grows while it is walked
        for name, child in inode.children.items():
            directory.children[name] = node_of(child.inode if isinstance(child, Link) else child)
    return top


def _to_node(inode: Inode) -> Node:
    kind = inode.mode & 0o170000
    node: Node
    if kind == stat.S_IFDIR:
        node = Directory()
    elif kind == stat.S_IFREG:
        node = Regular(content=_external(inode) if inode.is_external else inode.content or b"")
    elif kind == stat.S_IFLNK:
        node = Symlink(target=inode.payload or b"")
    else:
        node = Special(kind=kind, rdev=inode.rdev)
    node.permissions = inode.mode & 0o7777
    node.uid, node.gid = inode.uid, inode.gid
    node.mtime, node.mtime_nsec = inode.mtime, inode.mtime_nsec
    node.xattrs = dict(inode.xattrs)
    return node


def _external(inode: Inode) -> External:
    named = ObjectId(inode.digest.hex()) if inode.digest is not None else None
    if named is None or inode.payload != named.path.encode():
        raise InvalidImage(
            "cannot read the image's files",
            why="a file has no digest, or an object path that is not its digest",
            fix="Use an image that keelboot or another composefs tool made with a digest store.",
        )
    return External(object=named, size=inode.size)
