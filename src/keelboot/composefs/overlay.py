"""What is added to a tree so that overlayfs, mounted over the image, shows the tree as it was given.

Names that overlayfs would act on are escaped, contents in the store are pointed to, whiteouts become files that
overlayfs turns back, and 256 stubs hide the store's own directories (`00` to `ff`) where it is a layer whose names show
(Linux, filesystems/overlayfs.rst, "Metadata only copy up", "Nesting overlayfs mounts").
"""

import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Final

from keelboot.composefs.inodes import Inode, Link, walk_inodes
from keelboot.composefs.ondisk import NULL_CHUNK, chunk_bits
from keelboot.composefs.xattrs import Pair

RESERVED: Final = b"trusted.overlay."
ESCAPED: Final = b"trusted.overlay.overlay."
METACOPY: Final = b"trusted.overlay.metacopy"
REDIRECT: Final = b"trusted.overlay.redirect"
OPAQUE: Final = b"trusted.overlay.opaque"
SELINUX: Final = b"security.selinux"
DIGEST_KINDS: Final = {32: 1, 64: 2}  # bytes of a digest: fs-verity's number of the algorithm

WHITEOUT_MARKS: Final = {b"trusted.overlay.overlay.whiteout": b"", b"user.overlay.whiteout": b""}
_PARENT_MARKS: Final = {b"trusted.overlay.overlay.whiteouts": b"", b"user.overlay.whiteouts": b""}
_OPAQUE_MARKS: Final = {b"trusted.overlay.overlay.opaque": b"x", b"user.overlay.opaque": b"x"}
STUB_NAMES: Final = tuple(b"%02x" % number for number in range(256))


@dataclass(slots=True, eq=False)
class Stored:
    """An inode as the image has it. `position` and `blocks` are set when it is placed."""

    mode: int
    nlink: int
    uid: int
    gid: int
    mtime: tuple[int, int]  # seconds, nanoseconds
    size: int = 0  # what decides on the long form
    rdev: int = 0
    data: bytes = b""  # a symlink's target, content, or a table of chunks
    chunk_bits: int = 0  # of an external file
    pairs: Sequence[Pair] = ()
    entries: "Sequence[tuple[bytes, Stored]]" = ()
    position: int = 0
    blocks: int = 0


_METACOPY_HEADS: Final = {length: bytes((0, 4 + length, 0, kind)) for length, kind in DIGEST_KINDS.items()}


def parent_marks(version: int) -> dict[bytes, bytes]:
    """What a directory with a whiteout in it is marked with."""
    return _PARENT_MARKS | _OPAQUE_MARKS if version else _PARENT_MARKS


def rewrite(root: Inode, version: int) -> list[Stored]:
    """The stored inodes, breadth first in name order, the root first, stubs among them."""
    top = _stored(root)
    order = [top]
    known = {root: top}
    pending = [(root, top, top)]
    for directory, node, parent in pending:  # grows while it is walked
        entries = [(b".", node), (b"..", parent)]
        children = directory.children
        hides = False
        for name in sorted(children if directory is not root else {*children, *STUB_NAMES}):
            child = children.get(name)
            if child is None:
                order.append(stored := _stub(top))
            elif isinstance(child, Link):
                # The link may come before the name that defines the inode, and gives it no place in the order.
                stored = known.get(child.inode) or known.setdefault(child.inode, _stored(child.inode))
            else:
                order.append(stored := known.get(child) or known.setdefault(child, _stored(child)))
                kind = child.mode & 0o170000
                if kind == stat.S_IFDIR:
                    pending.append((child, stored, node))
                    node.nlink += 1
                elif kind == stat.S_IFCHR and child.rdev == 0:
                    hides = True
            entries.append((name, stored))
        entries.sort(key=itemgetter(0))
        node.entries = entries
        if hides:
            node.pairs = _with(node.pairs, parent_marks(version))
    top.pairs = _with(top.pairs, {OPAQUE: b"y"})
    return order


def _with(pairs: Sequence[Pair], added: dict[bytes, bytes]) -> Sequence[Pair]:
    return sorted({**dict(pairs), **added}.items())


def _stored(inode: Inode) -> Stored:
    mode = inode.mode
    stored = Stored(mode, inode.nlink, inode.uid, inode.gid, (inode.mtime, inode.mtime_nsec), inode.size)
    pairs = [(_escaped(name), value) for name, value in inode.xattrs.items()] if inode.xattrs else []
    kind = mode & 0o170000
    if kind == stat.S_IFREG:
        if inode.content is not None:
            stored.data = inode.content
        elif inode.size:
            stored.chunk_bits = bits = chunk_bits(inode.size)
            stored.data = NULL_CHUNK * -(-inode.size >> bits)
            # These tell overlayfs where the content is and what digest it must have; no escaped name is one of them.
            digest, payload = inode.digest, inode.payload
            pairs.append((METACOPY, _METACOPY_HEADS[len(digest)] + digest if digest else b""))
            if payload:
                pairs.append((REDIRECT, b"/" + payload))
    elif kind == stat.S_IFDIR:
        stored.nlink = 2  # and one for each directory in it
    elif kind == stat.S_IFLNK:
        stored.data = inode.payload or b""
        stored.size = len(stored.data)
    elif inode.is_whiteout:
        stored.mode = stat.S_IFREG | mode & 0o7777
        stored.size = 0
        pairs = list({**dict(pairs), **WHITEOUT_MARKS}.items())
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        stored.rdev = inode.rdev
    if pairs:
        pairs.sort()
        stored.pairs = pairs
    return stored


@lru_cache(maxsize=4096)
def _escaped(name: bytes) -> bytes:
    return ESCAPED + name[len(RESERVED) :] if name.startswith(RESERVED) else name


def _stub(top: Stored) -> Stored:
    label = [pair for pair in top.pairs if pair[0] == SELINUX]
    return Stored(stat.S_IFCHR | 0o644, 1, top.uid, top.gid, top.mtime, pairs=label)


def restore(root: Inode, linked: Collection[Inode], version: int) -> None:
    """Undo `rewrite` on the inodes of an image, in place. LINKED are those with more than one name.

    Raises ValueError if something in the image cannot come from `rewrite`.
    """
    _take_stubs(root, linked)
    inodes = [item for _, item in walk_inodes(root) if isinstance(item, Inode)]
    if any(inode.is_whiteout for inode in inodes):
        raise ValueError("there is a whiteout that is not escaped")
    for inode in inodes:
        if inode.is_directory:
            _restore_whiteouts(inode, linked, parent_marks(version))
        if inode.xattrs:
            inode.xattrs = _unescaped(inode, OPAQUE if inode is root else b"")


def _take_stubs(root: Inode, linked: Collection[Inode]) -> None:
    label = {SELINUX: root.xattrs[SELINUX]} if SELINUX in root.xattrs else {}
    if root.xattrs.get(OPAQUE) != b"y":
        raise ValueError("the root is not marked as opaque")
    for name in STUB_NAMES:
        stub = root.children.get(name)
        if stub is None:
            raise ValueError(f"the root has no {name.decode()}")
        if isinstance(stub, Inode) and stub.is_whiteout:
            expected = (stat.S_IFCHR | 0o644, 1, root.uid, root.gid, root.mtime, root.mtime_nsec, label)
            found = (stub.mode, stub.nlink, stub.uid, stub.gid, stub.mtime, stub.mtime_nsec, stub.xattrs)
            if expected != found or stub in linked:
                raise ValueError(f"the root's {name.decode()} is neither a file nor the mark that stands for none")
            del root.children[name]


def _restore_whiteouts(directory: Inode, linked: Collection[Inode], marks: dict[bytes, bytes]) -> None:
    """Turn marked files back. A file that only looks marked stays one: both are stored alike, so no digest changes."""
    if not marks.items() <= directory.xattrs.items():
        return
    found = [
        child
        for child in directory.children.values()
        if isinstance(child, Inode)
        and child.mode & 0o170000 == stat.S_IFREG
        and child.size == 0
        and child.nlink == 1
        and child not in linked
        and WHITEOUT_MARKS.items() <= child.xattrs.items()
    ]
    for child in found:
        child.mode = stat.S_IFCHR | child.mode & 0o7777
        child.xattrs = {name: value for name, value in child.xattrs.items() if name not in WHITEOUT_MARKS}
    if found:
        directory.xattrs = {name: value for name, value in directory.xattrs.items() if name not in marks}


def _unescaped(inode: Inode, generated: bytes) -> dict[bytes, bytes]:
    """The attributes the inode was given; sets payload and digest of an external file from those it got."""
    xattrs = {}
    for name, value in inode.xattrs.items():
        if name.startswith(ESCAPED):
            xattrs[RESERVED + name[len(ESCAPED) :]] = value
        elif not name.startswith(RESERVED):
            xattrs[name] = value
        elif inode.is_external and name == METACOPY:
            inode.digest = _digest(value)
        elif inode.is_external and name == REDIRECT and value.startswith(b"/"):
            inode.payload = value[1:]
        elif name != generated:
            raise ValueError("an attribute of overlayfs is where none belongs")
    return xattrs


def _digest(metacopy: bytes) -> bytes | None:
    if not metacopy:
        return None
    digest = metacopy[4:]
    if metacopy[:4] != bytes((0, len(metacopy) & 0xFF, 0, DIGEST_KINDS.get(len(digest), 0))):
        raise ValueError("the attribute with a file's digest is damaged")
    return digest
