"""The data of a directory: blocks of fixed-size entries followed by their names.

    | nid, nameoff, type | nid, nameoff, type | ... | name | name | ... | zeros to 4096 |

Entries are sorted by name over the whole directory, `.` and `..` among them. The last block is cut after its last name
if that is in its first half: it is then stored behind the inode.
"""

from collections.abc import Iterator, Sequence

from keelboot.composefs.ondisk import BLOCK, DIRENT, INLINE_TAIL_MAX, round_up

Entry = tuple[bytes, int, int]  # name, nid, file type


def split(lengths: Sequence[int]) -> tuple[list[int], int]:
    """Where blocks end, as numbers of entries, and the bytes of data, for names of these LENGTHS."""
    ends: list[int] = []
    used = 0
    for number, length in enumerate(lengths):
        used += DIRENT.size + length
        if used > BLOCK:
            ends.append(number)
            used = DIRENT.size + length
    last = used if used <= INLINE_TAIL_MAX else BLOCK
    return [*ends, len(lengths)], BLOCK * len(ends) + last


def pack(entries: Sequence[Entry], ends: Sequence[int], size: int) -> bytes:
    """The SIZE bytes of a directory that `split` divided at ENDS."""
    out = bytearray()
    start = 0
    for end in ends:
        block = entries[start:end]
        offset = DIRENT.size * len(block)
        heads = []
        for name, nid, kind in block:
            heads.append(DIRENT.pack(nid, offset, kind))
            offset += len(name)
        out += b"".join(heads)
        out += b"".join([entry[0] for entry in block])
        out += bytes(min(round_up(len(out), BLOCK), size) - len(out))
        start = end
    return bytes(out)


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
