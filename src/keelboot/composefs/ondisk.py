"""The structures of a composefs image, as writer and reader share them (docs/formats/composefs-image.md).

All integers are little-endian; fields are named as in Linux, fs/erofs/erofs_fs.h.
"""

import stat
import struct
from typing import Final

BLOCK: Final = 4096
SLOT: Final = 32
FIRST_INODE: Final = 1152  # after the superblock

HEADER_MAGIC: Final = 0xD078629A
HEADER_VERSION: Final = 1
VERSIONS: Final = (0, 1)  # of composefs_version; 2 is another layout
HAS_ACL: Final = 1
HEADER: Final = struct.Struct("<4I16x")  # magic, version, flags, composefs_version

SUPERBLOCK_AT: Final = 1024
EROFS_MAGIC: Final = 0xE0F5E1E2
COMPATIBLE_FEATURES: Final = 6  # MTIME, XATTR_FILTER
CHUNKED_FILE: Final = 4  # of the incompatible features; chunked files are used without it
# magic, checksum, feature_compat, blkszbits, sb_extslots, root_nid, inos, build_time, build_time_nsec, blocks,
# meta_blkaddr, xattr_blkaddr, uuid, volume_name, feature_incompat
SUPERBLOCK: Final = struct.Struct("<IIIBBHQqIIII16s16sI44x")

# i_format, i_xattr_icount, i_mode, i_nlink, i_size, i_u, i_ino, i_uid, i_gid
COMPACT: Final = struct.Struct("<HHHHI4xIIHH4x")
# i_format, i_xattr_icount, i_mode, i_size, i_u, i_ino, i_uid, i_gid, i_mtime, i_mtime_nsec, i_nlink
EXTENDED: Final = struct.Struct("<HHH2xQIIIIqII16x")
PLAIN: Final = 0
INLINE: Final = 2
CHUNKS: Final = 4

DIRENT: Final = struct.Struct("<QHBx")  # nid, nameoff, file_type
FILE_TYPES: Final = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}

# A longer rest of a directory or of content has a block of its own.
INLINE_TAIL_MAX: Final = BLOCK // 2

NULL_CHUNK: Final = b"\xff\xff\xff\xff"
CHUNKS_MAX: Final = 1024
CHUNK_BITS_MAX: Final = 43


def round_up(position: int, unit: int) -> int:
    """The smallest multiple of UNIT, a power of two, that is not below POSITION."""
    return (position + unit - 1) & -unit


def chunk_bits(size: int) -> int:
    """The base-two logarithm of the chunk size of a file of SIZE bytes: one chunk if that can be."""
    bits = (size - 1).bit_length()
    return 12 if bits < 12 else min(bits, CHUNK_BITS_MAX)
