"""Extended attributes as EROFS stores them: an index for a known prefix, a filter by hash, values shared by inodes."""

import struct
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from typing import Final

Pair = tuple[bytes, bytes]  # full name, value

# In the order in which they are tried. 5 would be `lustre.`, which no writer of versions 0 and 1 uses.
PREFIXES: Final = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
)
NAMES: Final = {index: prefix for prefix, index in PREFIXES} | {0: b""}
ACL_NAMES: Final = frozenset({b"system.posix_acl_access", b"system.posix_acl_default"})

BODY: Final = struct.Struct("<IB7x")  # name_filter, shared_count
ID: Final = struct.Struct("<I")
ENTRY: Final = struct.Struct("<BBH")  # name_len, index, value_size
SHARED_MAX: Final = 128
_FILTER_SEED: Final = 0x25BBE08F


class Shared:
    """The pairs that two or more inodes have: each is stored once, and inodes hold its id."""

    def __init__(self, inodes: Iterable[Iterable[Pair]]) -> None:
        """Each member of INODES is the pairs of one inode."""
        counts = Counter(chain.from_iterable(inodes))
        several = [pair for pair, count in counts.items() if count > 1]
        several.sort(key=lambda pair: (pair[0], len(pair[1]), pair[1]), reverse=True)
        area = bytearray()
        self._offsets: dict[Pair, int] = {}
        for pair in several:
            self._offsets[pair] = len(area) // 4
            area += _entry(pair)
        self.area = bytes(area)

    def body(self, pairs: Iterable[Pair]) -> bytes:
        """What an inode that has PAIRS, sorted by name, is followed by; ids count from the start of the shared area."""
        name_filter = 0xFFFFFFFF
        ids: list[int] = []
        local = b""
        offset_of = self._offsets.get
        for pair in pairs:
            name, value = pair
            name_filter &= split(name)[2]
            offset = offset_of(pair)
            if offset is not None and len(ids) < SHARED_MAX:
                ids.append(offset)
            else:
                head, padding = _around(name, len(value))
                local += head + value + padding
        return _head(name_filter, *ids) + local


@lru_cache(maxsize=4096)
def _head(name_filter: int, *ids: int) -> bytes:
    return BODY.pack(name_filter, len(ids)) + struct.pack(f"<{len(ids)}I", *ids)


def with_area_at(body: bytes, first: int) -> bytes:
    """The body with its shared ids, which counted from the start of the area, moved by FIRST, the area's first id."""
    count = body[4]
    if not count:
        return body
    end = BODY.size + 4 * count
    return _moved(body[:end], first) + body[end:]


@lru_cache(maxsize=4096)
def _moved(head: bytes, first: int) -> bytes:
    ids = [first + number for (number,) in ID.iter_unpack(head[BODY.size :])]
    return head[: BODY.size] + struct.pack(f"<{len(ids)}I", *ids)


def _entry(pair: Pair) -> bytes:
    name, value = pair
    head, padding = _around(name, len(value))
    return head + value + padding


@lru_cache(maxsize=4096)
def _around(name: bytes, length: int) -> tuple[bytes, bytes]:
    """What stands in an entry before a value of LENGTH bytes, and what after it."""
    index, suffix, _ = split(name)
    head = ENTRY.pack(len(suffix), index, length) + suffix
    return head, bytes(-(len(head) + length) % 4)


@lru_cache(maxsize=4096)
def split(name: bytes) -> tuple[int, bytes, int]:
    """The index of a full name's prefix, the rest of it, and the filter word with only the name's bit cleared."""
    prefix, index = next((known for known in PREFIXES if name.startswith(known[0])), (b"", 0))
    suffix = name[len(prefix) :]
    return index, suffix, 0xFFFFFFFF ^ (1 << (_xxh32(suffix, _FILTER_SEED + index) & 31))


_P1: Final = 0x9E3779B1
_P2: Final = 0x85EBCA77
_P3: Final = 0xC2B2AE3D
_P4: Final = 0x27D4EB2F
_P5: Final = 0x165667B1
_MASK: Final = 0xFFFFFFFF


def _rotated(value: int, bits: int) -> int:
    value &= _MASK
    return (value << bits | value >> (32 - bits)) & _MASK


def _xxh32(data: bytes, seed: int) -> int:
    """XXH32 (xxHash specification, section "XXH32 algorithm description")."""
    at = 0
    if len(data) >= 16:  # a stripe
        lanes = [seed + _P1 + _P2, seed + _P2, seed, seed - _P1]
        while at + 16 <= len(data):
            words = struct.unpack_from("<4I", data, at)
            lanes = [_rotated(lane + word * _P2, 13) * _P1 for lane, word in zip(lanes, words, strict=True)]
            at += 16
        result = sum(_rotated(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True))
    else:
        result = seed + _P5
    result += len(data)
    while at + 4 <= len(data):
        (word,) = struct.unpack_from("<I", data, at)
        result = _rotated(result + word * _P3, 17) * _P4
        at += 4
    for byte in data[at:]:
        result = _rotated(result + byte * _P5, 11) * _P1
    result &= _MASK
    result = (result ^ result >> 15) * _P2 & _MASK
    result = (result ^ result >> 13) * _P3 & _MASK
    return result ^ result >> 16
