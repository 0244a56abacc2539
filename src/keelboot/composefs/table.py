"""The inodes of an image in the order they are stored, and what overlayfs needs added to them: all but their places.

A tree, or the inodes that text or another image say, become columns: one value per inode, found by its number. So
200,000 inodes fit beside the tree they come from. Numbers are given breadth first, in name order.
"""

import stat
import struct
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, Protocol, TypeVar

from keelboot.composefs import directories
from keelboot.composefs.inodes import Inode
from keelboot.composefs.ondisk import CHUNKS, EXTENDED, FILE_TYPES, chunk_bits
from keelboot.composefs.overlay import OPAQUE, SELINUX, STUB_NAMES, WHITEOUT_MARKS, escaped, parent_marks

if TYPE_CHECKING:
    from keelboot.composefs.xattrs import Pair

D = TypeVar("D")
LONG: Final = 1  # in i_format: the inode has 64 bytes
CHUNKED: Final = CHUNKS << 1
_U16: Final = 0xFFFF
_U32: Final = 0xFFFFFFFF
_SIZE: Final = struct.Struct("<Q")
_LINKS: Final = struct.Struct("<I")
_SIZE_AT: Final = 8  # in the long form
_LINKS_AT: Final = 44
_MODE_AT: Final = 4
_TYPES: Final = bytes(FILE_TYPES.get(high << 8 & 0o170000, 0) for high in range(256))  # by the high byte of a mode


class Listing(NamedTuple):
    """A directory's names in order, `.` and `..` among them, and the number of each one's inode."""

    names: list[bytes]
    numbers: "array[int]"


class Table:
    """The columns, and what the inodes have in common."""

    def __init__(self, most: int, *, by_digest: bool) -> None:
        """There will be MOST inodes. With BY_DIGEST all contents in the store lie where their digests say."""
        # 64 bytes each, as if all were long; what depends on places is not in it yet.
        self.heads = bytearray(most * EXTENDED.size)
        self.lengths: array[int] = array("Q")  # of the data, in bytes
        self.values: list[bytes] = []  # target, content, or digest of what is in the store; else b""
        self.payloads: list[bytes] | None = None if by_digest else []  # objects' paths; None: as digests say
        self.sets: array[int] = array("I")  # which of `pairs` it has
        self.pairs: list[tuple[Pair, ...]] = [()]  # attributes, sorted, without those that point into the store
        self.listings: dict[int, Listing] = {}  # of directories, by number
        self.oldest = (1 << 63, 0)  # seconds, nanoseconds
        self._sets: dict[tuple[Pair, ...], int] = {(): 0}

    def forms(self) -> bytes:
        """The column of i_format."""
        return bytes(self.heads[: len(self.sets) * EXTENDED.size : EXTENDED.size])

    def types(self) -> bytes:
        """The column of file types, as directories have them."""
        return bytes(self.heads[_MODE_AT + 1 : len(self.sets) * EXTENDED.size : EXTENDED.size].translate(_TYPES))

    def add(self, inode: Inode, *, stub: bool = False) -> None:
        """Append INODE; if it is no STUB, a whiteout is one of the tree. Entries of a directory come later."""
        mode, size, uid, gid, links = inode.mode, inode.size, inode.uid, inode.gid, inode.nlink
        kind = mode & 0o170000
        form = length = union = 0
        value = payload = None
        marks = None
        if kind == stat.S_IFREG:
            value = inode.content
            if size and value is None:
                bits = chunk_bits(size)
                form, union, length = CHUNKED, bits - 12, 4 * -(-size >> bits)
                value, payload = inode.digest, inode.payload
            elif size:
                length = size
        elif kind == stat.S_IFLNK:
            value = inode.payload or b""
            size = length = len(value)
        elif kind == stat.S_IFDIR:
            size, links = 0, 2
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            union = inode.rdev
            if kind == stat.S_IFCHR and not union and not stub:
                mode, size, marks = stat.S_IFREG | mode & 0o7777, 0, WHITEOUT_MARKS
        if size > _U32 or uid > _U16 or gid > _U16 or links > _U16:
            form |= LONG
        if not length:
            size = 0  # of devices and the like it only decides on the form
        mtime, nsec = inode.mtime, inode.mtime_nsec
        if mtime <= self.oldest[0] and (mtime, nsec) < self.oldest:
            self.oldest = mtime, nsec
        number = len(self.sets)
        EXTENDED.pack_into(
            self.heads, number * EXTENDED.size, form, 0, mode, size, union, number, uid, gid, mtime, nsec, links
        )
        self.lengths.append(length)
        self.values.append(value or b"")
        if self.payloads is not None:
            self.payloads.append(payload or b"")
        self.sets.append(self._set(inode.xattrs, marks) if inode.xattrs or marks else 0)

    def enter(
        self, number: int, directory: Inode, listing: Listing, subdirectories: int, marks: Mapping[bytes, bytes]
    ) -> None:
        """Give DIRECTORY, which is NUMBER, its entries and what it is marked with."""
        size, links = directories.size(listing.names), 2 + subdirectories
        at = number * EXTENDED.size
        if size > _U32 or links > _U16:
            self.heads[at] |= LONG
        _SIZE.pack_into(self.heads, at + _SIZE_AT, size)
        _LINKS.pack_into(self.heads, at + _LINKS_AT, links)
        self.lengths[number] = size
        self.listings[number] = listing
        if marks:
            self.sets[number] = self._set(directory.xattrs, marks)

    def _set(self, xattrs: Mapping[bytes, bytes], marks: Mapping[bytes, bytes] | None) -> int:
        pairs = tuple(sorted({**{escaped(name): value for name, value in xattrs.items()}, **(marks or {})}.items()))
        known = self._sets.get(pairs)
        if known is None:
            known = self._sets[pairs] = len(self.pairs)
            self.pairs.append(pairs)
        return known


class Source(Protocol[D]):
    """Where inodes come from. They are asked for by directory, which is whatever the source has, and name."""

    root: Inode
    inodes: int  # how many there are
    by_digest: bool  # contents in the store lie where their digests say
    linked: set[object]  # the identities of inodes with several names

    def names(self, directory: D) -> Collection[bytes]:
        """Of what is in DIRECTORY."""

    def inode(self, directory: D, name: bytes) -> Inode | None:
        """The inode that NAME in DIRECTORY defines, None if it is a further name of one. Is asked in name order."""

    def identity(self, directory: D, name: bytes) -> object:
        """What all names of one inode have in common."""

    def directory(self, directory: D, name: bytes) -> D:
        """The directory NAME in DIRECTORY."""


def build(source: Source[D], root: D, version: int) -> Table:
    """The table of SOURCE, whose root directory is ROOT. Raises what SOURCE raises."""
    walk = _Walk(source, version)
    walk.table.add(source.root)
    walk.pending.append((root, 0, 0, source.root))
    while walk.pending:
        walk.enter(*walk.pending.popleft())
    return walk.finish()


class _Walk(Generic[D]):
    """The way through the directories, breadth first."""

    def __init__(self, source: Source[D], version: int) -> None:
        self.source, self.version = source, version
        self.table = Table(source.inodes + len(STUB_NAMES), by_digest=source.by_digest)
        self.stub = _stub(source.root)
        self.pending: deque[tuple[D, int, int, Inode]] = deque()  # a directory, its number, its parent's, its inode
        self.links: list[tuple[Listing, bytes, object]] = []  # which may come before what they name
        self.numbers: dict[object, int] = {}  # of inodes with several names

    def enter(self, directory: D, number: int, parent: int, inode: Inode) -> None:
        """Add what is in DIRECTORY."""
        source, table, linked = self.source, self.table, self.source.linked
        present = source.names(directory)
        stubs = () if number else {*STUB_NAMES}.difference(present)
        listing = Listing(sorted([*present, *stubs]), array("I"))
        before, hides = len(self.pending), False
        for name in listing.names:
            new = len(table.sets)
            if name in stubs:
                table.add(self.stub, stub=True)
            elif (child := source.inode(directory, name)) is None:
                self.links.append((listing, name, source.identity(directory, name)))
                new = 0
            else:
                table.add(child)
                kind = child.mode & 0o170000
                if kind == stat.S_IFDIR:
                    self.pending.append((source.directory(directory, name), new, number, child))
                elif kind == stat.S_IFCHR and not child.rdev:
                    hides = True
                if linked and (identity := source.identity(directory, name)) in linked:
                    self.numbers[identity] = new
            listing.numbers.append(new)
        for name, own in ((b".", number), (b"..", parent)):
            at = bisect_left(listing.names, name)
            listing.names.insert(at, name)
            listing.numbers.insert(at, own)
        marks = parent_marks(self.version) if hides else {}
        if not number:
            marks = {**marks, OPAQUE: b"y"}
        table.enter(number, inode, listing, len(self.pending) - before, marks)

    def finish(self) -> Table:
        """The table, links among its entries."""
        for listing, name, identity in self.links:
            listing.numbers[bisect_left(listing.names, name)] = self.numbers[identity]
        return self.table


def _stub(top: Inode) -> Inode:
    """What hides a directory of the store below the root TOP."""
    label = {SELINUX: top.xattrs[SELINUX]} if SELINUX in top.xattrs else {}
    return Inode(
        mode=stat.S_IFCHR | 0o644, uid=top.uid, gid=top.gid, mtime=top.mtime, mtime_nsec=top.mtime_nsec, xattrs=label
    )
