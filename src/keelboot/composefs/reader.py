"""The reader: a composefs image back to inodes.

An image may come from a stranger. Every offset is checked before it is followed, and the parts that are read may not
add up to more than the image, so that no part of a small image is read many times. A structure that the writer never
makes is refused.

Directories are walked twice: which names are further ones must be known before the inodes are read, one directory
after the other. So a large image can be checked without having all of it as inodes.
"""

import stat
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
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
_LAYOUTS: Final = (PLAIN, INLINE, CHUNKS)
_DEVICES: Final = (stat.S_IFCHR, stat.S_IFBLK)
_NUMBERED: Final = Struct("<4xH14xI")  # i_mode, i_ino: in both forms
_DIRECTORY: Final = FILE_TYPES[stat.S_IFDIR]
# What is known of the inode in a slot.
_DEFINED: Final = 1
_LINKED: Final = 2


@dataclass(frozen=True, slots=True)
class Contents:
    """What an image holds: its version, 0 or 1, and the inodes, stubs and overlayfs's attributes taken off."""

    version: int
    root: Inode


@collector_paused()
def read(image: bytes | bytearray | memoryview) -> Contents:
    """Read a whole image. What the writer makes of the result is the image again, if a composefs writer made it.

    Raises InvalidImage for anything else than a sound image of version 0 or 1, and for images over 1 GiB.
    """
    try:
        reader = _Reader(memoryview(image).cast("B").toreadonly())
        root, *_ = list(reader.restored())
        reader.tie()
    except ValueError as error:
        raise _invalid(error) from error
    return Contents(reader.version, root)


def objects(image: bytes | bytearray | memoryview) -> Iterator[tuple[bytes, int]]:
    """The digest and size of each file whose content the image says is in the store, in no order, some repeatedly.

    They are what the image says only once all are taken: it raises what `read` raises when that is found, and has not
    the whole image as inodes meanwhile.
    """
    try:
        reader = _Reader(memoryview(image).cast("B").toreadonly())
        for directory in reader.restored():
            for child in directory.children.values():
                if isinstance(child, Inode) and child.is_external and child.digest:
                    yield child.digest, child.size
            directory.children = {}
            reader.links.clear()
            reader.linked.clear()
    except ValueError as error:
        raise _invalid(error) from error


def _invalid(error: ValueError) -> InvalidImage:
    return InvalidImage(
        "cannot read the composefs image",
        why=str(error),
        fix="Make the image again from its source; the file is damaged or of another format.",
    )


@dataclass(slots=True)
class _Directory:
    """A directory whose number is known: its inode as it is stored, its entries, its slot and its parent's."""

    inode: Inode
    data: bytes
    nid: int
    parent: int


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
        self.slots = bytearray(len(image) // SLOT)
        self.order: array[int] = array("I")  # slots of inodes, by number
        self.links: list[tuple[Inode, bytes, int]] = []  # directory, name, slot of what it is a further name of
        self.linked: dict[int, Inode] = {}  # inodes with further names, by slot

    def restored(self) -> Iterator[Inode]:
        """The directories, breadth first; what is in each, and itself, is as it was before it was written.

        Directories in it are not that yet, and further names are links that lead nowhere.
        """
        listed = self.number()
        below = iter(listed[1:])
        number = 1
        for directory in listed:
            inode = directory.inode
            linked: set[Inode] = set()
            for name, nid, kind in directories.unpack(directory.data):
                if name in (b".", b".."):
                    continue
                if number == len(self.order) or nid != self.order[number]:
                    inode.children[name] = Link(inode)
                    self.links.append((inode, name, nid))
                    continue
                number += 1
                child = next(below).inode if kind == _DIRECTORY else self.inode(nid)[0]
                inode.children[name] = child
                if self.slots[nid] & _LINKED:
                    linked.add(child)
                    self.linked[nid] = child
            directory.data = b""
            overlay.restore(inode, linked, self.version, is_root=inode is listed[0].inode)
            for item in (inode, *inode.children.values()):
                if isinstance(item, Inode) and (item is inode or not item.is_directory) and (why := fault(item)):
                    raise ValueError(why)
            yield inode

    def tie(self) -> None:
        """Let the links in all directories lead where they should."""
        for directory, name, nid in self.links:
            directory.children[name] = Link(self.linked[nid])

    def number(self) -> list[_Directory]:
        """Walk the directories, and find which name defines each inode.

        Inodes are numbered breadth first by the name that defines them. So an entry whose inode has the next number is
        that name, and any other is a further one.
        """
        root, data = self.inode(self.root_nid)
        if not root.is_directory:
            raise ValueError("its root is not a directory")
        self.define(self.root_nid)
        listed = [_Directory(root, data, self.root_nid, self.root_nid)]
        for directory in listed:  # grows while it is walked
            for _, nid, kind in self.entries(directory):
                mode, number = _NUMBERED.unpack_from(self.image, self.place(nid))
                if FILE_TYPES.get(mode & 0o170000) != kind:
                    raise ValueError("a directory entry and its inode differ in type")
                if number == len(self.order) and not self.slots[nid] & _DEFINED:
                    self.define(nid)
                    if kind == _DIRECTORY:
                        listed.append(_Directory(*self.inode(nid), nid, directory.nid))
                elif kind == _DIRECTORY:
                    raise ValueError("a directory has two names")
                else:
                    self.slots[nid] |= _LINKED
        if self.slots.count(_LINKED) or self.inodes != len(self.order):  # one that is linked, and defined nowhere
            raise ValueError("its inodes are not numbered in the order of their names")
        return listed

    def define(self, nid: int) -> None:
        """Give the inode in the slot NID the next number."""
        self.slots[nid] |= _DEFINED
        self.order.append(nid)

    def entries(self, directory: _Directory) -> Iterator[directories.Entry]:
        """What is in DIRECTORY. Raises ValueError for what no directory may have."""
        before = b""
        own = {b".": directory.nid, b"..": directory.parent}
        for name, nid, kind in directories.unpack(directory.data):
            if name <= before:
                raise ValueError("the names in a directory are not in order")
            before = name
            if name in own:
                if own.pop(name) != nid or kind != _DIRECTORY:
                    raise ValueError("`.` or `..` leads elsewhere")
                continue
            if why := name_fault(name):
                raise ValueError(why)
            yield name, nid, kind
        if own:
            raise ValueError("a directory lacks `.` or `..`")

    def place(self, nid: int) -> int:
        """Where the slot NID is."""
        if nid >= len(self.slots):
            raise ValueError("an offset leads out of it, or parts of it overlap")
        return nid * SLOT

    def take(self, at: int, length: int) -> memoryview:
        """LENGTH bytes from AT. What is taken in all is no more than the image: sound images have no overlaps."""
        self.unread -= length
        if length < 0 or at + length > len(self.image) or self.unread < 0:
            raise ValueError("an offset leads out of it, or parts of it overlap")
        return self.image[at : at + length]

    def inode(self, nid: int) -> tuple[Inode, bytes]:
        """The inode in the slot NID as it is stored, and the bytes that its data is. To be asked for once."""
        at = self.place(nid)
        form, count, mode, nlink, size, union, _, uid, gid = COMPACT.unpack_from(self.image, at)
        layout, length = form >> 1, EXTENDED.size if form & 1 else COMPACT.size
        mtime, nsec = self.mtime, self.mtime_nsec
        if layout not in _LAYOUTS:
            raise ValueError(f"an inode has the unknown form {form:#x}")
        head = self.take(at, length)
        if form & 1:
            _, count, mode, size, union, _, uid, gid, mtime, nsec, nlink = EXTENDED.unpack(head)
        kind = mode & 0o170000
        if kind not in FILE_TYPES:
            raise ValueError("an inode has no file type")
        inode = Inode(mode, nlink, uid, gid, union if kind in _DEVICES else 0, mtime, nsec, size)
        at += length
        if count:
            length = xattrs.BODY.size + 4 * (count - 1)
            inode.xattrs = self.attributes(bytes(self.take(at, length)))
            at += length
        if layout == CHUNKS:
            self.check_chunks(kind, size, union, at)
        elif size or layout != PLAIN:
            data = self.data(kind, size, union, at, inline=layout == INLINE)
            if kind == stat.S_IFREG:
                inode.content = data
            elif kind == stat.S_IFLNK:
                inode.payload = data
            return inode, data
        return inode, b""

    def data(self, kind: int, size: int, block: int, at: int, *, inline: bool) -> bytes:
        """Data that starts in blocks and ends, with the inline layout, behind the inode at AT."""
        limits = {stat.S_IFDIR: len(self.image), stat.S_IFREG: INLINE_MAX, stat.S_IFLNK: TARGET_MAX}
        if not 0 < size <= limits.get(kind, 0):
            raise ValueError("an inode has more data than its type can have")
        tail = size % BLOCK if inline else 0
        if (inline and not tail) or at % BLOCK + tail > BLOCK:
            raise ValueError("an inline tail is empty or crosses a block")
        whole = size - tail
        data = bytes(self.take(block * BLOCK, whole)) if whole else b""
        return data + self.take(at, tail)

    def check_chunks(self, kind: int, size: int, union: int, at: int) -> None:
        if kind != stat.S_IFREG or not 0 < size <= ondisk.CHUNKS_MAX << ondisk.CHUNK_BITS_MAX:
            raise ValueError("an inode with chunks is not a file, or of a size that is out of range")
        bits = ondisk.chunk_bits(size)
        if union & 0xFFFF != bits - 12:
            raise ValueError("a file's chunks have not the size that they must have")
        length = len(NULL_CHUNK) * -(-size >> bits)
        # A table that does not fit behind its inode is in a block whose number the image does not tell.
        if length <= BLOCK - at % BLOCK and self.take(at, length).tobytes().strip(b"\xff"):
            raise ValueError("a file's chunks point into the image")

    def attributes(self, body: bytes) -> dict[bytes, bytes]:
        """What an inode's BODY names: the local attributes, then the shared ones."""
        count = body[4]
        at = ids_end = xattrs.BODY.size + 4 * count
        if at > len(body):
            raise ValueError("an inode has more shared attributes than room")
        found: dict[bytes, bytes] = {}
        several = count
        while at < len(body):
            name, value, at = _entry(body, at)
            found[name] = value
            several += 1
        if count:
            for (number,) in xattrs.ID.iter_unpack(body[xattrs.BODY.size : ids_end]):
                if number not in self.shared:
                    self.shared[number] = self.shared_pair(self.shared_at + 4 * number)
                name, value = self.shared[number]
                found[name] = value
        if len(found) != several:
            raise ValueError("an inode has an attribute twice")
        return found

    def shared_pair(self, at: int) -> xattrs.Pair:
        head = bytes(self.take(at, xattrs.ENTRY.size))
        length, _, size = xattrs.ENTRY.unpack(head)
        name, value, _ = _entry(head + self.take(at + len(head), length + size), 0)
        return name, value


def _entry(body: bytes, at: int) -> tuple[bytes, bytes, int]:
    """The name and value that are stored in BODY from AT, and where the next is."""
    start = at + xattrs.ENTRY.size
    if start > len(body):
        raise ValueError("an attribute is cut off")
    length, index, size = xattrs.ENTRY.unpack_from(body, at)
    prefix, middle = xattrs.NAMES.get(index), start + length
    end = middle + size
    if prefix is None or end > len(body):
        raise ValueError("an attribute is cut off, or its name's prefix is not known")
    return prefix + body[start:middle], body[middle:end], ondisk.round_up(end, 4)
