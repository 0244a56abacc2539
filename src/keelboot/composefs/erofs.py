"""The writer: a tree as a composefs image, byte for byte what mkcomposefs makes of it.

An image holds metadata only; `docs/formats/composefs-image.md` has the drawing. Writing takes two walks over the inodes
in the order they are stored: one gives each its place, the other writes it there.
"""

import stat
import struct
from array import array
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Final

from keelboot.composefs import directories, ondisk
from keelboot.composefs.bodies import Bodies
from keelboot.composefs.inodes import Inode, InodeSource, collector_paused
from keelboot.composefs.ondisk import (
    BLOCK,
    COMPACT,
    EXTENDED,
    FILE_TYPES,
    INLINE,
    INLINE_TAIL_MAX,
    NULL_CHUNK,
    SLOT,
    VERSIONS,
    round_up,
)
from keelboot.composefs.overlay import path_of
from keelboot.composefs.table import CHUNKED, LONG, Table, build
from keelboot.composefs.xattrs import ACL_NAMES

if TYPE_CHECKING:
    from keelboot.image.tree import Directory

_CHUNK: Final = 1 << 18
_SYMLINK: Final = FILE_TYPES[stat.S_IFLNK]
_START: Final = struct.Struct("<HH")  # i_format, i_xattr_icount
_UNION: Final = struct.Struct("<I")
_UNION_AT: Final = 16
_TIME: Final = struct.Struct("<qI")
_TIME_AT: Final = 32  # in the long form


def image_chunks(root: "Directory | Inode", version: int = 1) -> tuple[int, Iterator[bytes]]:
    """The size in bytes of the image of the tree, and the image in chunks of some 256 KiB.

    ROOT may also be an inode, in which and below which `inodes.fault` finds nothing wrong. Once this returns, it is not
    needed any more. Images that name deployments are of version 1. Raises InvalidImage if an image cannot hold ROOT.
    """
    if version not in VERSIONS:
        raise ValueError(f"version {version} of composefs images is not one of {VERSIONS}")
    with collector_paused():
        if isinstance(root, Inode):
            table = build(InodeSource(root), root, version)
        else:
            from keelboot.composefs.trees import TreeSource  # noqa: PLC0415 - text is read in less time without trees

            table = build(TreeSource(root), root, version)
        writer = _Writer(table, version)
    return writer.size, writer.chunks()


def image_bytes(root: "Directory | Inode", version: int = 1) -> bytes:
    """The image as one value. Raises InvalidImage if an image cannot hold it."""
    _, chunks = image_chunks(root, version)
    out = BytesIO()  # which gives away its bytes without a copy
    out.writelines(chunks)
    return out.getvalue()


def needed_version(root: Inode, minimum: int = 0, maximum: int = 1) -> int:
    """The version mkcomposefs would choose between the two: MINIMUM unless there is a whiteout and 1 is allowed."""
    if minimum < 1 <= maximum:
        pending = [root]
        for directory in pending:  # grows while it is walked
            inodes = [child for child in directory.children.values() if isinstance(child, Inode)]
            if any(inode.is_whiteout for inode in inodes):
                return 1
            pending += [inode for inode in inodes if inode.children]
    return minimum


class _Writer:
    """Gives every inode of a table its place, and writes it there."""

    def __init__(self, table: Table, version: int) -> None:
        self._table, self._version = table, version
        self._bodies = Bodies(table)
        self._types = table.types()
        self._nids: array[int] = array("I")
        self._blocks: dict[int, int] = {}  # of data, of the inodes that have any
        self._end = self._place()
        self._first_block = self._next_block = round_up(self._end + len(self._bodies.area), BLOCK) // BLOCK
        self._data_blocks: list[bytes] = []
        self._bodies.settle(self._end % BLOCK // 4)
        self.size = (self._first_block + sum(self._blocks.values())) * BLOCK

    def chunks(self) -> Iterator[bytes]:
        """The image. Is to be called once."""
        yield from self._inodes()
        yield self._bodies.area.ljust(self._first_block * BLOCK - self._end, b"\0")
        for at in range(0, len(self._data_blocks), _CHUNK // BLOCK):
            yield b"".join(self._data_blocks[at : at + _CHUNK // BLOCK])

    def _place(self) -> int:
        """Find the place of each inode, and complete its head but for the block. Return where the inodes end."""
        table, heads = self._table, self._table.heads
        oldest = _TIME.pack(*table.oldest)
        position = ondisk.FIRST_INODE
        at = 0  # of the head
        columns = zip(table.forms(), self._types, table.lengths, self._bodies.column, strict=True)
        for number, (form, kind, length, body) in enumerate(columns):
            position = position + SLOT - 1 & -SLOT
            if heads[at + _TIME_AT : at + _TIME_AT + _TIME.size] != oldest:
                form |= LONG  # noqa: PLW2901 - the table could not know
            head = body.size + (EXTENDED.size if form & LONG else COMPACT.size)
            if kind == _SYMLINK:
                position, blocks, tail = _place_symlink(position, head, length)
            else:
                blocks, tail = (0, length) if form & CHUNKED or not length else _divided(length)
                if BLOCK - (position + head) % BLOCK < tail:
                    position, blocks, tail = _move_tail(position, head, blocks, tail)
            if blocks:
                self._blocks[number] = blocks
            if tail and not form & CHUNKED:
                form |= INLINE << 1  # noqa: PLW2901
            _START.pack_into(heads, at, form, body.size and (body.size - 12) // 4 + 1)
            self._nids.append(position // SLOT)
            position += head + tail
            at += EXTENDED.size
        return round_up(position, SLOT)

    def _start(self) -> bytes:
        """What is before the first inode."""
        table = self._table
        acl = any(name in ACL_NAMES for number in set(table.sets) for name, _ in table.pairs[number])
        header = ondisk.HEADER.pack(ondisk.HEADER_MAGIC, ondisk.HEADER_VERSION, ondisk.HAS_ACL * acl, self._version)
        superblock = ondisk.SUPERBLOCK.pack(
            ondisk.EROFS_MAGIC, 0, ondisk.COMPATIBLE_FEATURES, 12, 0, self._nids[0], len(self._nids), *table.oldest,
            self.size // BLOCK, 0, self._end // BLOCK, b"", b"", 0,
        )  # fmt: skip
        return header.ljust(ondisk.SUPERBLOCK_AT, b"\0") + superblock

    def _inodes(self) -> Iterator[bytes]:
        """All up to the shared area. The data blocks are put aside."""
        table = self._table
        parts: list[bytes | bytearray] = [self._start()]
        written = begun = ondisk.FIRST_INODE
        columns = zip(self._nids, table.values, table.lengths, self._bodies.column, strict=True)
        for number, (nid, value, length, body) in enumerate(columns):
            head = table.heads[number * EXTENDED.size : (number + 1) * EXTENDED.size]
            form = head[0]
            data = NULL_CHUNK * (length // len(NULL_CHUNK)) if form & CHUNKED else value or self._listed(number)
            if number in self._blocks:
                data = self._put_aside(number, head, data)
            if nid * SLOT > written:
                parts.append(bytes(nid * SLOT - written))
            parts.append(head if form & LONG else _compact(head))
            if body.between is None:
                parts += (body.before, data)
            elif body.by_id:
                digest, path = self._bodies.ids(value, table.payloads[number] if table.payloads else value)
                parts += (body.before, digest, body.between, path, body.after, data)
            else:
                path = table.payloads[number] if table.payloads else path_of(value)
                parts += (body.before, value, body.between, path, body.after, data)
            written = nid * SLOT + (EXTENDED.size if form & LONG else COMPACT.size) + body.size + len(data)
            if written - begun >= _CHUNK:
                yield b"".join(parts)
                parts.clear()
                begun = written
        yield b"".join([*parts, bytes(self._end - written)])

    def _put_aside(self, number: int, head: bytearray, data: bytes) -> bytes:
        """Move what has blocks of its own out of DATA, and say in HEAD where that is."""
        size = self._blocks[number] * BLOCK
        block = self._next_block
        if head[0] & CHUNKED:
            # With the table in a block, the block's number stays visible in the upper half: an accident made format.
            block = _UNION.unpack_from(head, _UNION_AT)[0] | block & 0xFFFF0000
        _UNION.pack_into(head, _UNION_AT, block)
        self._next_block += self._blocks[number]
        self._data_blocks.append(data[:size].ljust(size, b"\0"))
        return data[size:]

    def _listed(self, number: int) -> bytes:
        """The data of the inode NUMBER if it is a directory."""
        listing = self._table.listings.get(number)
        if listing is None:
            return b""
        nids, types, numbers = self._nids, self._types, listing.numbers
        return directories.pack(listing.names, [nids[one] for one in numbers], [types[one] for one in numbers])


def _divided(length: int) -> tuple[int, int]:
    """The data blocks and inline bytes of directories and contents."""
    blocks, tail = divmod(length, BLOCK)
    return (blocks, tail) if tail <= INLINE_TAIL_MAX else (blocks + 1, 0)


def _place_symlink(position: int, head: int, target: int) -> tuple[int, int, int]:
    """The position, data blocks and inline bytes of a symlink.

    Kernels before 6.12 cannot read one whose inode and target cross a block.
    """
    if position // BLOCK != (position + head + target - 1) // BLOCK:
        position = round_up(position, BLOCK)
    return (position, 1, 0) if head + target >= BLOCK else (position, 0, target)


def _move_tail(position: int, head: int, blocks: int, tail: int) -> tuple[int, int, int]:
    """The same for anything else whose tail does not fit: EROFS wants it in one block, its inode's or another."""
    skipped = round_up(BLOCK - (position + head) % BLOCK, SLOT)
    if tail <= BLOCK - (position + head + skipped) % BLOCK:
        return position + skipped, blocks, tail
    return round_up(position, BLOCK), blocks + 1, 0


def _compact(head: bytearray) -> bytes:
    """The form of 32 bytes of a HEAD of 64."""
    form, count, mode, size, union, number, uid, gid, _, _, links = EXTENDED.unpack(head)
    return COMPACT.pack(form, count, mode, links, size, union, number, uid, gid)
