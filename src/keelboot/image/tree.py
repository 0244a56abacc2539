"""A tree of files as values: what layers add up to, and what a composefs image is made from.

A hard link is the same node under several names. Contents of regular files are either the bytes themselves (small
files) or a reference to an object, named by its fs-verity digest; a tree never touches a path of the host.
"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

_HEX_DIGITS = frozenset("0123456789abcdef")
_NO_XATTRS: dict[bytes, bytes] = {}
_new, _set = object.__new__, object.__setattr__


@dataclass(frozen=True, slots=True, init=False)
class ObjectId:
    """Names file content by its fs-verity digest: 32 bytes for SHA-256, 64 for SHA-512.

    It is not a blob's digest: the two are computed differently and never compared.
    """

    digest: bytes

    def __init__(self, hex: str) -> None:  # noqa: A002 - what it is
        """The object that outside data name by HEX, lower-case digits. Raises ValueError."""
        if len(hex) not in (64, 128) or set(hex) - _HEX_DIGITS:
            raise ValueError(f"not an fs-verity digest: {hex}")
        _set(self, "digest", bytes.fromhex(hex))

    @classmethod
    def of(cls, digest: bytes) -> Self:
        """The object whose digest was made here, or was checked before."""
        made = _new(cls)
        _set(made, "digest", digest)
        return made

    @property
    def hex(self) -> str:
        """The digest in lower-case hex."""
        return self.digest.hex()

    @property
    def path(self) -> str:
        """Where the object lies in a store's objects directory: `ab/cdef...`."""
        digits = self.digest.hex()
        return f"{digits[:2]}/{digits[2:]}"


@dataclass(slots=True, eq=False, kw_only=True)
class Node:
    """What every kind of file has. Nodes are compared by identity: two names of one node are a hard link.

    Nodes may share the value that `xattrs` is: it is replaced, never changed.
    """

    permissions: int = 0o644  # the bits of 07777
    uid: int = 0
    gid: int = 0
    mtime: int = 0  # seconds since the epoch
    mtime_nsec: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=lambda: _NO_XATTRS)  # one for all: most files have none


@dataclass(slots=True, eq=False, kw_only=True)
class Directory(Node):
    """A directory and the nodes in it, by name."""

    children: dict[bytes, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, init=False)
class External:
    """Content of a regular file that lies in the store."""

    digest: bytes  # of the object; a tree of many files has no room for one ObjectId each
    size: int

    def __init__(self, object: ObjectId, size: int) -> None:  # noqa: A002 - what it is
        _set(self, "digest", object.digest)
        _set(self, "size", size)

    @property
    def object(self) -> ObjectId:
        """The object's name."""
        return ObjectId.of(self.digest)


@dataclass(slots=True, eq=False, kw_only=True)
class Regular(Node):
    """A regular file: the bytes themselves, or where the store has them."""

    content: bytes | External = b""

    @property
    def size(self) -> int:
        """Length of the content in bytes."""
        return self.content.size if isinstance(self.content, External) else len(self.content)


@dataclass(slots=True, eq=False, kw_only=True)
class Symlink(Node):
    """A symbolic link; the target is bytes and never followed on the host."""

    target: bytes


@dataclass(slots=True, eq=False, kw_only=True)
class Special(Node):
    """A device, fifo or socket. `kind` is stat's S_IFCHR, S_IFBLK, S_IFIFO or S_IFSOCK; `rdev` as glibc's makedev."""

    kind: int
    rdev: int = 0


def file_type(node: Node) -> int:
    """The node's type bits of st_mode: S_IFDIR, S_IFREG ..."""
    match node:
        case Directory():
            return stat.S_IFDIR
        case Regular():
            return stat.S_IFREG
        case Symlink():
            return stat.S_IFLNK
        case Special(kind=kind):
            return kind
    raise TypeError(f"not a file: {node!r}")


def walk(root: Directory) -> Iterator[tuple[bytes, Node]]:
    """Every (path, node) below ROOT, depth first, names in byte order; the root itself comes first as b"/"."""
    yield b"/", root
    pending: list[tuple[bytes, Node]] = [
        (b"/" + name, node) for name, node in sorted(root.children.items(), reverse=True)
    ]
    while pending:
        path, node = pending.pop()
        yield path, node
        if isinstance(node, Directory):
            pending.extend((path + b"/" + name, child) for name, child in sorted(node.children.items(), reverse=True))


def resolve(root: Directory, path: str | bytes, *, follow: bool = True, hops: int = 40) -> Node | None:
    """The node at PATH, following symbolic links inside the tree only; None where there is none.

    A link that leaves the root stays in it, as in a chroot. FOLLOW says whether a link at the end is followed too.
    HOPS bounds the links followed (the kernel's limit is 40), so that a loop ends as None.
    """
    pending = [
        part for part in (path.encode() if isinstance(path, str) else path).split(b"/") if part not in (b"", b".")
    ]
    trail: list[Directory] = [root]
    pending.reverse()
    node: Node = root
    while pending:
        name = pending.pop()
        if name == b"..":
            trail = trail[:-1] or [root]
            node = trail[-1]
            continue
        if not isinstance(node, Directory):
            return None
        child = node.children.get(name)
        if child is None:
            return None
        if isinstance(child, Symlink) and (pending or follow):
            hops -= 1
            if hops < 0:
                return None
            if child.target.startswith(b"/"):
                trail = [root]
            node = trail[-1]
            pending.extend(part for part in reversed(child.target.split(b"/")) if part not in (b"", b"."))
            continue
        node = child
        if isinstance(child, Directory):
            trail.append(child)
    return node
