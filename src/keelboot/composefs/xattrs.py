"""Extended attributes as EROFS stores them: an index for a known prefix, a filter by hash, values shared by inodes."""

import struct
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
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
    """The attributes that two or more inodes have: each is stored once, and inodes hold its id.

    An attribute is a name and a key: the value itself, or what a value is made of. Keys sort as their values do.
    """

    def __init__(
        self, several: Mapping[bytes, Iterable[bytes]], values: Mapping[bytes, Callable[[bytes], bytes]]
    ) -> None:
        """SEVERAL are their keys, by name. For names in VALUES a key is no value, and is given to what is there."""
        self.first = 0  # the id of what is first in the area
        self._values = values
        self.offsets: dict[bytes, dict[bytes, int]] = {}  # in the area, divided by 4
        area = bytearray()
        for name in sorted(several, reverse=True):
            offsets = self.offsets[name] = {}
            for key in sorted(several[name], key=lambda key: (len(key), key), reverse=True):
                offsets[key] = len(area) // 4
                area += b"".join(self._entry(name, key))
        self.area = bytes(area)

    def body(self, attributes: Iterable[Pair]) -> tuple[bytes, dict[bytes, int]]:
        """What follows an inode with ATTRIBUTES, sorted by name, and where in it the value or id of each ends."""
        name_filter = 0xFFFFFFFF
        ids: list[int] = []
        local = bytearray()
        ends: dict[bytes, int] = {}
        local_ends: dict[bytes, int] = {}
        for name, key in attributes:
            name_filter &= split(name)[2]
            offset = self.offsets.get(name, {}).get(key)
            if offset is not None and len(ids) < SHARED_MAX:
                ids.append(self.first + offset)
                ends[name] = BODY.size + ID.size * len(ids)
            else:
                head, value, padding = self._entry(name, key)
                local += head + value
                local_ends[name] = len(local)
                local += padding
        start = BODY.size + ID.size * len(ids)
        body = BODY.pack(name_filter, len(ids)) + struct.pack(f"<{len(ids)}I", *ids) + local
        return body, ends | {name: start + end for name, end in local_ends.items()}

    def _entry(self, name: bytes, key: bytes) -> tuple[bytes, bytes, bytes]:
        """What stands before the value, the value, and what is behind it."""
        index, suffix, _ = split(name)
        value = self._values[name](key) if name in self._values else key
        head = ENTRY.pack(len(suffix), index, len(value)) + suffix
        return head, value, bytes(-(len(head) + len(value)) % 4)


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
