"""The writer: a tree as a composefs image, byte for byte what mkcomposefs makes of it.

An image holds metadata only; `docs/formats/composefs-image.md` has the drawing. Writing takes two walks over the inodes
in the order they are stored: one gives each its place, the other writes it there.
"""

import stat
from itertools import accumulate
from typing import BinaryIO, Final

from keelboot.composefs import directories, ondisk
from keelboot.composefs.inodes import Inode, collector_paused, from_tree
from keelboot.composefs.ondisk import (
    BLOCK,
    CHUNKS,
    COMPACT,
    EXTENDED,
    FILE_TYPES,
    INLINE,
    INLINE_TAIL_MAX,
    PLAIN,
    SLOT,
    VERSIONS,
    round_up,
)
from keelboot.composefs.overlay import Stored, rewrite
from keelboot.composefs.xattrs import ACL_NAMES, Shared, with_area_at
from keelboot.image.tree import Directory

_U16: Final = 0xFFFF
_U32: Final = 0xFFFFFFFF


def write(root: Directory, out: BinaryIO, *, version: int = 1) -> None:
    """Write the image of the tree to OUT. Images that name deployments are of version 1.

    Raises InvalidImage if an image cannot hold the tree.
    """
    out.write(image(from_tree(root), version))


def image_bytes(root: Directory, version: int = 1) -> bytes:
    """The image of the tree. Raises InvalidImage if an image cannot hold it."""
    return bytes(image(from_tree(root), version))


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


@collector_paused()
def image(root: Inode, version: int) -> bytearray:
    """The image of inodes in which `inodes.fault` finds nothing wrong."""
    if version not in VERSIONS:
        raise ValueError(f"version {version} of composefs images is not one of {VERSIONS}")
    nodes = rewrite(root, version)
    splits = {node: directories.split([len(name) for name, _ in node.entries]) for node in nodes if node.entries}
    for node, (_, size) in splits.items():
        node.size = size
        node.data = bytes(size)  # what it says needs the positions
    shared = Shared(node.pairs for node in nodes)
    bodies = [shared.body(node.pairs) if node.pairs else b"" for node in nodes]
    oldest = min(node.mtime for node in nodes)
    end = _place(nodes, bodies, oldest)
    first_block = round_up(end + len(shared.area), BLOCK) // BLOCK
    blocks = list(accumulate((node.blocks for node in nodes), initial=first_block))
    for node, (ends, size) in splits.items():
        entries = [(name, n.position // SLOT, FILE_TYPES[n.mode & 0o170000]) for name, n in node.entries]
        node.data = directories.pack(entries, ends, size)
        node.entries = ()  # directories hold themselves and their parents: memory would wait for the collector

    out = bytearray(ondisk.FIRST_INODE)
    for number, (node, body) in enumerate(zip(nodes, bodies, strict=True)):
        if node.position > len(out):
            out += bytes(node.position - len(out))
        out += _inode(node, number, len(body), blocks[number], oldest)
        if body:
            out += with_area_at(body, end % BLOCK // 4)
        out += node.data[node.blocks * BLOCK :]
    out += bytes(end - len(out)) + shared.area
    for node, block in zip(nodes, blocks, strict=False):
        if node.blocks:
            out += bytes(block * BLOCK - len(out)) + node.data[: node.blocks * BLOCK]
    out += bytes(blocks[-1] * BLOCK - len(out))

    acl = any(name in ACL_NAMES for node in nodes for name, _ in node.pairs)
    ondisk.HEADER.pack_into(out, 0, ondisk.HEADER_MAGIC, ondisk.HEADER_VERSION, ondisk.HAS_ACL * acl, version)
    superblock = (
        ondisk.EROFS_MAGIC, 0, ondisk.COMPATIBLE_FEATURES, 12, 0, nodes[0].position // SLOT, len(nodes), *oldest,
        blocks[-1], 0, end // BLOCK, b"", b"", 0,
    )  # fmt: skip
    ondisk.SUPERBLOCK.pack_into(out, ondisk.SUPERBLOCK_AT, *superblock)
    return out


def _is_long(node: Stored, oldest: tuple[int, int]) -> bool:
    """Whether the inode needs the form of 64 bytes."""
    return node.mtime != oldest or node.nlink > _U16 or node.uid > _U16 or node.gid > _U16 or node.size > _U32


def _place(nodes: list[Stored], bodies: list[bytes], oldest: tuple[int, int]) -> int:
    """Set each node's position and its number of data blocks; return where the inodes end."""
    position = ondisk.FIRST_INODE
    for node, body in zip(nodes, bodies, strict=True):
        position = round_up(position, SLOT)
        head = (64 if _is_long(node, oldest) else 32) + len(body)
        if node.mode & 0o170000 == stat.S_IFLNK:
            position, blocks, tail = _place_symlink(position, head, len(node.data))
        elif node.chunk_bits:
            position, blocks, tail = _place_tail(position, head, 0, len(node.data))
        else:
            blocks, tail = divmod(len(node.data), BLOCK)
            if tail > INLINE_TAIL_MAX:
                blocks, tail = blocks + 1, 0
            if tail:
                position, blocks, tail = _place_tail(position, head, blocks, tail)
        node.position, node.blocks = position, blocks
        position += head + tail
    return round_up(position, SLOT)


def _place_symlink(position: int, head: int, target: int) -> tuple[int, int, int]:
    """The position, data blocks and inline bytes of a symlink.

    Kernels before 6.12 cannot read one whose inode and target cross a block.
    """
    if position // BLOCK != (position + head + target - 1) // BLOCK:
        position = round_up(position, BLOCK)
    return (position, 1, 0) if head + target >= BLOCK else (position, 0, target)


def _place_tail(position: int, head: int, blocks: int, tail: int) -> tuple[int, int, int]:
    """The same for anything else: EROFS wants an inline tail in one block, which need not be the inode's."""
    room = BLOCK - (position + head) % BLOCK
    if room < tail:
        skipped = round_up(room, SLOT)
        if tail <= BLOCK - (position + head + skipped) % BLOCK:
            return position + skipped, blocks, tail
        return round_up(position, BLOCK), blocks + 1, 0
    return position, blocks, tail


def _inode(node: Stored, number: int, xattrs: int, block: int, oldest: tuple[int, int]) -> bytes:
    """The inode proper; XATTRS is the size of what follows it, BLOCK its first data block if it has any."""
    if node.chunk_bits:
        layout, size = CHUNKS, node.size
        # With the table in a block, the block's number stays visible in the upper half: an accident made format.
        union = node.chunk_bits - 12 | (block & 0xFFFF0000 if node.blocks else 0)
    else:
        size = len(node.data)
        layout = INLINE if size > node.blocks * BLOCK else PLAIN
        union = block if node.blocks else node.rdev
    count = (xattrs - 12) // 4 + 1 if xattrs else 0
    if _is_long(node, oldest):
        return EXTENDED.pack(
            layout << 1 | 1, count, node.mode, size, union, number, node.uid, node.gid, *node.mtime, node.nlink
        )
    return COMPACT.pack(layout << 1, count, node.mode, node.nlink, size, union, number, node.uid, node.gid)
