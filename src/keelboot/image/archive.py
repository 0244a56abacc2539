"""A strict, streaming reader of tar archives, the form of an image's layers. It is the trust boundary.

Formats: POSIX.1-2017 pax (ustar headers and extended headers), the GNU format of tar(5), v7. One rule for each magic:

    magic               name                     types
    "ustar" NUL "00"    prefix / name            all below (a "tar" trailer, the mark of star, shortens the prefix)
    "ustar  " NUL       name, or long name (L)   all below
    eight NULs (v7)     name                     files, links, directories
    anything else       refused

    types: 0 NUL 7 file, 1 hard link, 2 symbolic link, 3 4 device, 5 directory, 6 fifo; x g K L headers for the next one

An archive either says one thing to every reader or is refused: sparse files, two headers of one kind for one entry,
global headers that name or size entries, negative or unprintable numbers, content where none can be, data after the
end, a missing end. Nothing of the archive is ever a path of the host; names are bytes.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from keelboot.image.extended import GLOBAL_KEYS, ID_MAX, PATH_MAX, Extended, in_time, records, shown
from keelboot.image.refusal import Refused

BLOCK = 512


class Kind(Enum):
    """What an entry makes."""

    FILE = "file"
    DIRECTORY = "directory"
    HARD_LINK = "hard link"
    SYMLINK = "symbolic link"
    CHARACTER = "character device"
    BLOCK = "block device"
    FIFO = "fifo"


class Entry(NamedTuple):
    """One file of the archive, as it says it: names and targets not yet checked for where they lead."""

    name: bytes  # never empty, never with a NUL
    kind: Kind
    permissions: int  # bits of 07777
    uid: int
    gid: int
    size: int  # of the content in bytes; 0 for all but files
    mtime: int  # seconds since the epoch
    mtime_nsec: int
    link: bytes  # the target of a hard or symbolic link, else empty
    rdev: int  # of devices, as makedev
    xattrs: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one archive may cost, in entries and bytes."""

    entries: int = 400_000  # bounds memory to some 200 MB
    header: int = 512 << 10  # one extended header; eight of the largest attribute the kernel knows
    headers: int = 64 << 20  # extended headers of all entries together


# name; mode, uid, gid; size; mtime; checksum; type; link's target; magic; device; prefix, and a tail that may end it
_FIELDS = struct.Struct("100s 24s 12s 12s 8s c 100s 8s 64x 16s 155s 12s")
_V7, _POSIX, _GNU = bytes(8), b"ustar\x0000", b"ustar  \x00"
_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
_AFTER_V7 = frozenset((Kind.CHARACTER, Kind.BLOCK, Kind.FIFO))
_ZEROS = bytes(BLOCK)
_REMEMBERED = 4096  # owners and times


class Archive:
    """The entries of one archive, read once from first to last.

    Iterating gives (entry, content); the content is in views that are good until the next entry is asked for, to be
    taken once or left unread. Every block of BLOCKS is consumed, so that what hashes them has seen all. SKIP, where
    the source can seek, passes over that many bytes of it. Raises Refused.
    """

    def __init__(
        self, blocks: Iterable[bytes], limits: Limits | None = None, *, skip: Callable[[int], object] | None = None
    ) -> None:
        self._blocks = iter(blocks)
        self._limits = limits or Limits()
        self._skip = skip
        self._view = memoryview(b"")
        self._at = self._end = 0
        self._before = 0  # bytes of the archive before the current block
        self._left = 0  # bytes of the current entry's content not yet handed on
        self._padding = 0
        self._count = 0
        self._headers = 0
        self._owners: dict[bytes, tuple[int, int, int]] = {}
        self._times: dict[bytes, int] = {}

    @property
    def position(self) -> int:
        """How many bytes of the archive were passed: after an entry was given, where its content starts."""
        return self._before + self._at

    @property
    def remaining(self) -> Limits:
        """What is left of the limits for another archive of the same image."""
        spent = self._limits
        return replace(spent, entries=spent.entries - self._count, headers=spent.headers - self._headers)

    def __iter__(self) -> Iterator[tuple[Entry, Iterable[memoryview]]]:
        extended = Extended()
        while True:
            self._finish_content()
            at = self._before + self._at
            # Readers do without the zeros POSIX wants at the end; a layer's own digest tells if it was cut.
            if self._at == self._end and not self._refill():
                break
            header = self._take(BLOCK)
            if header == _ZEROS:
                self._end_of_archive()
                break
            try:
                fields = self._counted(header)
                if fields[5] in b"xgLK":
                    self._read_extension(fields, extended)
                    continue
                entry = self._entry(fields, extended)
            except Refused as error:
                raise Refused(f"at byte {at}: {error}") from error
            if not extended.empty:
                extended = Extended()
            size = entry.size
            self._left, self._padding = size, -size % BLOCK
            start, stop = self._at, self._at + size
            yield entry, (self._view[start:stop],) if stop <= self._end else self._content()
        if not extended.empty:
            raise Refused(f"at byte {at}: the archive ends after a header that describes the next entry")

    # -- bytes --------------------

    def _refill(self) -> bool:
        """Go to the next block; false at the end of the source."""
        self._before += self._end
        self._at = self._end = 0
        for block in self._blocks:
            if block:
                self._view = memoryview(block)
                self._end = len(block)
                return True
        return False

    def _take(self, size: int) -> bytes:
        """The next SIZE bytes, across blocks."""
        stop = self._at + size
        if stop <= self._end:
            taken = bytes(self._view[self._at : stop])
            self._at = stop
            return taken
        parts = []
        while size:
            if self._at == self._end and not self._refill():
                raise Refused("it is cut short")
            stop = min(self._end, self._at + size)
            parts.append(self._view[self._at : stop])
            size -= stop - self._at
            self._at = stop
        return b"".join(parts)

    def _content(self) -> Iterator[memoryview]:
        while self._left:
            if self._at == self._end and not self._refill():
                raise Refused(f"at byte {self.position}: it is cut short inside a file")
            start, stop = self._at, min(self._end, self._at + self._left)
            self._left -= stop - start
            self._at = stop
            yield self._view[start:stop]

    def _finish_content(self) -> None:
        """Pass over what was not read of the content, and its padding."""
        rest = self._left + self._padding
        self._left = self._padding = 0
        if self._at + rest <= self._end:
            self._at += rest
            return
        while rest:
            if self._at == self._end:
                if self._skip and rest > BLOCK:
                    self._skip(rest - BLOCK)  # the last bytes are read, which shows that they are there
                    self._before += rest - BLOCK
                    rest = BLOCK
                if not self._refill():
                    raise Refused(f"at byte {self.position}: it is cut short inside a file")
            stop = min(self._end, self._at + rest)
            rest -= stop - self._at
            self._at = stop

    def _end_of_archive(self) -> None:
        """Read on to the end of the source, which is nothing but zeros."""
        while self._at < self._end or self._refill():
            if bytes(self._view[self._at : self._end]).strip(b"\0"):
                raise Refused(f"after byte {self.position}: there is data after the archive's end")
            self._at = self._end

    # -- headers --------------------

    def _counted(self, header: bytes) -> tuple[bytes, ...]:
        """The fields of a header whose checksum holds."""
        self._count += 1
        if self._count > self._limits.entries:
            raise Refused(f"it has more than {self._limits.entries} entries")
        # The sum of up to 256 bytes is below adler32's modulus of 65521, so its low half is that sum plus one, exactly.
        total = (zlib.adler32(header[:256]) & 0xFFFF) + (zlib.adler32(header[256:]) & 0xFFFF) - 2
        fields = _FIELDS.unpack(header)
        stored = fields[4]
        if _octal(stored) != total - sum(stored) + 8 * 0x20:
            raise Refused("this is no header: its checksum does not hold")
        return fields

    def _entry(self, fields: tuple[bytes, ...], extended: Extended) -> Entry:
        short_name, owner, length, time, _, flag, target, magic, device, prefix, tail = fields
        if magic not in (_POSIX, _GNU, _V7):
            raise Refused(f"it has an unknown magic, {magic!r}")
        kind = _KINDS.get(flag)
        if kind is None or (magic == _V7 and kind in _AFTER_V7):
            raise Refused(f"it has an entry of the unsupported type {flag!r}")
        name = extended.path or _name(short_name, magic, prefix, tail)
        if name[-1:] == b"/" and kind is not Kind.DIRECTORY:
            if flag != b"\0":
                raise Refused(f"{shown(name)} is a {kind.value} with the name of a directory")
            kind = Kind.DIRECTORY  # v7 had no other way to say it
        size = _octal(length) if extended.size is None else extended.size
        if not 0 <= size < 2**63:
            raise Refused(f"{shown(name)} has a size out of range")
        if size and kind is not Kind.FILE:
            raise Refused(f"{shown(name)} is a {kind.value} and has content")
        permissions, uid, gid = self._owners.get(owner) or self._owner(owner)
        mtime, nanoseconds = extended.mtime or (self._times.get(time) or self._time(time), 0)
        link, rdev = b"", 0
        if kind is Kind.HARD_LINK or kind is Kind.SYMLINK:
            link = extended.linkpath or _text(target)
            if not 0 < len(link) <= PATH_MAX:
                raise Refused(f"{shown(name)} links to nothing, or to a path that is too long")
        elif kind is Kind.CHARACTER or kind is Kind.BLOCK:
            rdev = _device(device[:8], device[8:])
        return Entry(
            name,
            kind,
            permissions,
            uid if extended.uid is None else extended.uid,
            gid if extended.gid is None else extended.gid,
            size,
            mtime,
            nanoseconds,
            link,
            rdev,
            extended.xattrs,
        )

    def _owner(self, raw: bytes) -> tuple[int, int, int]:
        """Permissions, uid and gid; the few combinations an archive has are read once."""
        mode, uid, gid = _octal(raw[:8]), _octal(raw[8:16]), _octal(raw[16:])
        if not 0 <= mode <= 0o177777:
            raise Refused("it has a mode out of range")
        if not 0 <= uid <= ID_MAX or not 0 <= gid <= ID_MAX:
            raise Refused("it has an owner out of range")
        owner = (mode & 0o7777, uid, gid)
        if len(self._owners) < _REMEMBERED:
            self._owners[raw] = owner
        return owner

    def _time(self, raw: bytes) -> int:
        """Seconds; the few an archive has are read once."""
        seconds = in_time(_octal(raw))
        if len(self._times) < _REMEMBERED:
            self._times[raw] = seconds
        return seconds

    def _read_extension(self, fields: tuple[bytes, ...], extended: Extended) -> None:
        """Take in a header that describes the next entry (x, L, K), or all the rest (g)."""
        flag, magic = fields[5], fields[7]
        gnu = flag in b"LK"
        if magic != (_GNU if gnu else _POSIX):
            raise Refused(f"it has an extended header of type {flag!r} under the wrong magic")
        size = _octal(fields[2])
        if not 0 < size <= (PATH_MAX + 1 if gnu else self._limits.header):
            raise Refused(f"an extended header of {size} bytes is empty or too long")
        self._headers += size
        if self._headers > self._limits.headers:
            raise Refused("its extended headers are too long altogether")
        content = self._take(size)
        self._take(-size % BLOCK)
        if gnu:
            extended.take_gnu(flag, content)
        elif flag == b"x":
            extended.take_pax(content)
        elif extra := {key for key, _ in records(content)} - GLOBAL_KEYS:
            raise Refused(f"a global header sets {shown(min(extra))} for every entry")


def _octal(field: bytes) -> int:
    """A number of a header: octal text closed by NUL or space, blank for 0, or GNU's base-256 (two's complement)."""
    text = field.lstrip(b" ").rstrip(b" \0")
    if text.isdigit():
        try:
            return int(text, 8)
        except ValueError:
            raise Refused(f"a header has {shown(text)} where an octal number belongs") from None
    if not text:
        return 0
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if field[0] & 0x40 else value
    raise Refused(f"a header has {shown(text)} where an octal number belongs")


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _name(name: bytes, magic: bytes, prefix: bytes, tail: bytes) -> bytes:
    name = _text(name)
    if magic == _POSIX and prefix[0]:
        # star keeps two times where ustar has the last 24 bytes of the prefix
        name = _text(prefix[:131] if tail.endswith(b"tar\0") else prefix) + b"/" + name
    if not name:
        raise Refused("an entry has no name")
    return name


def _device(major: bytes, minor: bytes) -> int:
    numbers = _octal(major), _octal(minor)
    if not 0 <= numbers[0] < 1 << 12 or not 0 <= numbers[1] < 1 << 20:  # the kernel's 12 and 20 bits
        raise Refused("it has a device number out of range")
    return os.makedev(*numbers)
