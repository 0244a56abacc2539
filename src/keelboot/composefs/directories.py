"""The data of a directory: blocks of fixed-size entries followed by their names.

    | nid, nameoff, type | nid, nameoff, type | ... | name | name | ... | zeros to 4096 |

Entries are sorted by name over the whole directory, `.` and `..` among them. The last block is cut after its last name
if that is in its first half: it is then stored behind the inode.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from keelboot.composefs.ondisk import BLOCK, DIRENT, INLINE_TAIL_MAX

Entry = tuple[bytes, int, int]  # name, nid, file type


def size(names: Sequence[bytes]) -> int:
    """The bytes of data of a directory of NAMES, in order."""
    ends, last = _split(names)
    return BLOCK * (len(ends) - 1) + (last if last <= INLINE_TAIL_MAX else BLOCK)


def _split(names: Sequence[bytes]) -> tuple[list[int], int]:
    """Where blocks end, as numbers of entries, and how many bytes of the last one are used."""
    used = list(accumulate([DIRENT.size + len(name) for name in names], initial=0))
    ends = [0]
    while used[-1] - used[ends[-1]] > BLOCK:
        ends.append(bisect_right(used, used[ends[-1]] + BLOCK) - 1)
    last = used[-1] - used[ends[-1]]
    return [*ends[1:], len(names)], last


def pack(names: Sequence[bytes], nids: Sequence[int], types: Sequence[int]) -> bytes:
    """The data of a directory of NAMES, in order, with the inodes NIDS of these TYPES."""
    ends, last = _split(names)
    blocks = []
    start = 0
    for end in ends:
        block = names[start:end]
        offsets = accumulate(map(len, block), initial=DIRENT.size * len(block))
        # An entry as three words: numbers of inodes have 32 bits, as no image is that large.
        words = [0] * (3 * len(block))
        words[0::3] = nids[start:end]
        words[2::3] = [offset | kind << 16 for offset, kind in zip(offsets, types[start:end], strict=False)]
        blocks.append((struct.pack(f"<{len(words)}I", *words) + b"".join(block)).ljust(BLOCK, b"\0"))
        start = end
    if last <= INLINE_TAIL_MAX:
        blocks[-1] = blocks[-1][:last]
    return b"".join(blocks)


def unpack(data: bytes) -> Iterator[Entry]:
    """The entries of a directory's DATA, in their order. Raises ValueError where it is not one."""
    for start in range(0, len(data), BLOCK):
        block = data[start : start + BLOCK]
        if len(block) < DIRENT.size:
            raise ValueError("a directory block has no entry")
        first = DIRENT.unpack_from(block)[1]
        if first < DIRENT.size or first % DIRENT.size or first > len(block):
            raise ValueError("a directory block's first name is out of place")
        heads = list(DIRENT.iter_unpack(block[:first]))
        offsets = [head[1] for head in heads] + [len(block)]
        for (nid, offset, kind), following in zip(heads, offsets[1:], strict=True):
            name = block[offset:following]
            if following == len(block):
                name = name.rstrip(b"\0")  # the last name of a block ends where the zeros start
            if not name:
                raise ValueError("a directory's names overlap or are empty")
            yield name, nid, kind
