"""The reader: a composefs image back to inodes.

An image may come from a stranger. Every offset is checked before it is followed, and the parts that are read may not
add up to more than the image, so that no part of a small image is read many times. A structure that the writer never
makes is refused.
"""

import stat
from dataclasses import dataclass
from typing import Final

from keelboot.composefs import directories, ondisk, overlay, xattrs
from keelboot.composefs.inodes import INLINE_MAX, TARGET_MAX, Inode, Link, collector_paused, fault, name_fault
from keelboot.composefs.ondisk import (
    BLOCK,
    CHUNKS,
    COMPACT,
    EXTENDED,
    FILE_TYPES,
    INLINE,
    NULL_CHUNK,
    PLAIN,
    SLOT,
    VERSIONS,
)
from keelboot.failure import InvalidImage

SIZE_MAX: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Contents:
    """What an image holds: its version, 0 or 1, and the inodes, stubs and overlayfs's attributes taken off."""

    version: int
    root: Inode


@collector_paused()
def read(image: bytes | bytearray | memoryview) -> Contents:
    """Read a whole image. What `erofs.image` makes of the result is the image again, if a composefs writer made it.

    Raises InvalidImage for anything else than a sound image of version 0 or 1, and for images over 1 GiB.
    """
    try:
        return _Reader(memoryview(image).cast("B").toreadonly()).contents()
    except ValueError as error:
        raise InvalidImage(
            "cannot read the composefs image",
            why=str(error),
            fix="Make the image again from its source; the file is damaged or of another format.",
        ) from error


@dataclass(frozen=True, slots=True)
class _Head:
    """The fields of an inode of either form."""

    layout: int
    xattr_count: int
    mode: int
    size: int
    union: int
    number: int
    uid: int
    gid: int
    mtime: int
    mtime_nsec: int
    nlink: int


class _Reader:
    def __init__(self, image: memoryview) -> None:
        if not ondisk.FIRST_INODE <= len(image) <= SIZE_MAX or len(image) % BLOCK:
            raise ValueError(f"its size of {len(image)} bytes is out of range, or not whole blocks")
        self.image = image
        self.unread = len(image)
        magic, header, flags, self.version = ondisk.HEADER.unpack_from(image)
        if magic != ondisk.HEADER_MAGIC or header != ondisk.HEADER_VERSION:
            raise ValueError("it does not start with composefs's header")
        if self.version not in VERSIONS or flags & ~ondisk.HAS_ACL:
            raise ValueError(f"its version is {self.version} with flags {flags}; versions {VERSIONS} are known")
        (
            magic, _, _, block_bits, slots, self.root_nid, self.inodes, self.mtime, self.mtime_nsec, blocks,
            meta, xattr_block, _, _, incompatible,
        ) = ondisk.SUPERBLOCK.unpack_from(image, ondisk.SUPERBLOCK_AT)  # fmt: skip
        if magic != ondisk.EROFS_MAGIC or block_bits != 12 or slots or meta or blocks * BLOCK != len(image):
            raise ValueError("its superblock is not one of composefs")
        if incompatible & ~ondisk.CHUNKED_FILE:
            raise ValueError(f"it needs EROFS features that are not known: {incompatible:#x}")
        self.shared_at = xattr_block * BLOCK
        self.shared: dict[int, xattrs.Pair] = {}
        self.known: dict[int, tuple[Inode, int, bytes]] = {}

    def contents(self) -> Contents:
        root, _, _ = self.inode(self.root_nid)
        if not root.is_directory:
            raise ValueError("its root is not a directory")
        linked = self.read_directories(root)
        overlay.restore(root, linked, self.version)
        for inode, _, _ in self.known.values():
            if why := fault(inode):
                raise ValueError(why)
        return Contents(self.version, root)

    def read_directories(self, root: Inode) -> set[Inode]:
        """Read what is below ROOT; return the inodes that have more than one name.

        Inodes are numbered breadth first by the name that defines them. So an entry whose inode has the next number is
        that name, and any other is a further one.
        """
        expected = 1
        pending = [(root, self.root_nid, self.root_nid)]
        links = []
        defined = {root}
        for directory, nid, parent_nid in pending:  # grows while it is walked
            before = b""
            own = {b".": nid, b"..": parent_nid}
            for name, child_nid, kind in directories.unpack(self.known[nid][2]):
                if name <= before:
                    raise ValueError("the names in a directory are not in order")
                before = name
                if name in own:
                    if own.pop(name) != child_nid or kind != FILE_TYPES[stat.S_IFDIR]:
                        raise ValueError("`.` or `..` leads elsewhere")
                    continue
                if why := name_fault(name):
                    raise ValueError(why)
                child, number, _ = self.inode(child_nid)
                if FILE_TYPES[child.mode & 0o170000] != kind:
                    raise ValueError("a directory entry and its inode differ in type")
                if number == expected and child not in defined:
                    expected += 1
                    defined.add(child)
                    directory.children[name] = child
                    if child.is_directory:
                        pending.append((child, child_nid, nid))
                else:
                    directory.children[name] = Link(child)
                    links.append(child)
            if own:
                raise ValueError("a directory lacks `.` or `..`")
        if len(defined) != len(self.known) or self.inodes != expected:
            raise ValueError("its inodes are not numbered in the order of their names")
        if any(inode.is_directory for inode in links):
            raise ValueError("a directory has two names")
        return set(links)

    def take(self, at: int, length: int) -> memoryview:
        """LENGTH bytes from AT. What is taken in all is no more than the image: sound images have no overlaps."""
        self.unread -= length
        if length < 0 or at + length > len(self.image) or self.unread < 0:
            raise ValueError("an offset leads out of it, or parts of it overlap")
        return self.image[at : at + length]

    def inode(self, nid: int) -> tuple[Inode, int, bytes]:
        """The inode at slot NID, its number, and the bytes that its data is."""
        if nid in self.known:
            return self.known[nid]
        at = nid * SLOT
        head, length = self.head(at)
        kind = head.mode & 0o170000
        if kind not in FILE_TYPES:
            raise ValueError("an inode has no file type")
        inode = Inode(
            mode=head.mode,
            nlink=head.nlink,
            uid=head.uid,
            gid=head.gid,
            mtime=head.mtime,
            mtime_nsec=head.mtime_nsec,
            size=head.size,
            rdev=head.union if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        )
        at += length
        if head.xattr_count:
            size = xattrs.BODY.size + 4 * (head.xattr_count - 1)
            inode.xattrs = self.attributes(bytes(self.take(at, size)))
            at += size
        data = b""
        if head.layout == CHUNKS:
            self.check_chunks(head, at)
        elif head.size or head.layout != PLAIN:
            data = self.data(head, at)
            if kind == stat.S_IFREG:
                inode.content = data
            elif kind == stat.S_IFLNK:
                inode.payload = data
        made = self.known[nid] = inode, head.number, data
        return made

    def head(self, at: int) -> tuple[_Head, int]:
        compact = COMPACT.unpack(self.take(at, COMPACT.size))
        form = compact[0]
        if form >> 1 not in (PLAIN, INLINE, CHUNKS):
            raise ValueError(f"an inode has the unknown form {form:#x}")
        if form & 1:
            self.take(at + COMPACT.size, EXTENDED.size - COMPACT.size)
            _, count, mode, size, union, number, uid, gid, mtime, nsec, nlink = EXTENDED.unpack_from(self.image, at)
            return _Head(form >> 1, count, mode, size, union, number, uid, gid, mtime, nsec, nlink), EXTENDED.size
        _, count, mode, nlink, size, union, number, uid, gid = compact
        times = (self.mtime, self.mtime_nsec)
        return _Head(form >> 1, count, mode, size, union, number, uid, gid, *times, nlink), COMPACT.size

    def data(self, head: _Head, at: int) -> bytes:
        """Data that starts in blocks and ends, with the inline layout, behind the inode at AT."""
        limits = {stat.S_IFDIR: len(self.image), stat.S_IFREG: INLINE_MAX, stat.S_IFLNK: TARGET_MAX}
        if not 0 < head.size <= limits.get(head.mode & 0o170000, 0):
            raise ValueError("an inode has more data than its type can have")
        tail = head.size % BLOCK if head.layout == INLINE else 0
        if (head.layout == INLINE and not tail) or at % BLOCK + tail > BLOCK:
            raise ValueError("an inline tail is empty or crosses a block")
        whole = head.size - tail
        data = bytes(self.take(head.union * BLOCK, whole)) if whole else b""
        return data + self.take(at, tail)

    def check_chunks(self, head: _Head, at: int) -> None:
        if head.mode & 0o170000 != stat.S_IFREG or not 0 < head.size <= ondisk.CHUNKS_MAX << ondisk.CHUNK_BITS_MAX:
            raise ValueError("an inode with chunks is not a file, or of a size that is out of range")
        bits = ondisk.chunk_bits(head.size)
        length = len(NULL_CHUNK) * -(-head.size >> bits)
        if head.union & 0xFFFF != bits - 12:
            raise ValueError("a file's chunks have not the size that they must have")
        # A table that does not fit behind its inode is in a block whose number the image does not tell.
        if length <= BLOCK - at % BLOCK and self.take(at, length).tobytes().strip(b"\xff"):
            raise ValueError("a file's chunks point into the image")

    def attributes(self, body: bytes) -> dict[bytes, bytes]:
        """What an inode's BODY names: the local attributes, then the shared ones."""
        _, count = xattrs.BODY.unpack_from(body)
        at = xattrs.BODY.size + 4 * count
        if at > len(body):
            raise ValueError("an inode has more shared attributes than room")
        found = []
        while at < len(body):
            pair, length = _entry(body[at : at + 4], body[at + 4 :])
            found.append(pair)
            at += length
        for (number,) in xattrs.ID.iter_unpack(body[xattrs.BODY.size : xattrs.BODY.size + 4 * count]):
            if number not in self.shared:
                self.shared[number] = self.shared_pair(self.shared_at + 4 * number)
            found.append(self.shared[number])
        result = dict(found)
        if len(result) != len(found):
            raise ValueError("an inode has an attribute twice")
        return result

    def shared_pair(self, at: int) -> xattrs.Pair:
        head = bytes(self.take(at, xattrs.ENTRY.size))
        name, _, value = xattrs.ENTRY.unpack(head)
        return _entry(head, bytes(self.take(at + xattrs.ENTRY.size, name + value)))[0]


def _entry(head: bytes, rest: bytes) -> tuple[xattrs.Pair, int]:
    """The pair whose first 4 bytes are HEAD, and the room it takes."""
    if len(head) < xattrs.ENTRY.size:
        raise ValueError("an attribute is cut off")
    name_length, index, value_length = xattrs.ENTRY.unpack(head)
    end = name_length + value_length
    if index not in xattrs.NAMES or end > len(rest):
        raise ValueError("an attribute is cut off, or its name's prefix is not known")
    pair = (xattrs.NAMES[index] + rest[:name_length], rest[name_length:end])
    return pair, ondisk.round_up(xattrs.ENTRY.size + end, 4)
