"""Extended headers of tar archives: what they say about the entry that follows.

Formats: POSIX.1-2017 pax ("LENGTH KEY=VALUE" and a newline, LENGTH counting all of it) and GNU tar's long names. Go's
SCHILY.xattr.NAME records carry extended attributes, as OCI's layer.md asks. What two readers would understand in two
ways is refused; keywords of unknown vendors are passed over.
"""

import re
from collections.abc import Iterator

from keelboot.image.refusal import Refused

PATH_MAX = 4095  # bytes, without the closing NUL of the kernel's 4096
ID_MAX = 2**32 - 2  # -1 means "do not change" to chown(2), so no file is owned by it
# What every filesystem an image may be copied to can hold: ext4's range, from 1901 to 2446.
MTIME_MIN, MTIME_MAX = -(2**31), 2**34 - 2**31 - 1

# Keys that make a file something else than its header says; an unknown vendor's keys are passed over.
_REFUSED_KEYS = re.compile(rb"GNU\.(sparse|volume|dumpdir)|SCHILY\.(realsize|dev(major|minor)$|tarfiletype|filetype)")
GLOBAL_KEYS = frozenset((b"comment",))
_XATTR = b"SCHILY.xattr."
_XATTR_SPACES = (b"user.", b"security.", b"trusted.", b"system.")
_XATTR_NAME_MAX, _XATTR_SIZE_MAX, _XATTR_LIST_MAX = 255, 65536, 65536  # limits.h of the kernel
_LENGTH = re.compile(rb"([1-9][0-9]{0,8}) ")
_DECIMAL = re.compile(rb"0*([0-9]{1,20})")
_TIME = re.compile(rb"(-?)([0-9]{1,12})(?:\.([0-9]*))?")


class Extended:
    """What extended headers said about the next entry."""

    __slots__ = ("empty", "gid", "linkpath", "mtime", "path", "seen", "size", "uid", "xattrs")

    def __init__(self) -> None:
        self.empty = True
        self.seen = b""
        self.path = self.linkpath = b""
        self.size: int | None = None
        self.uid: int | None = None
        self.gid: int | None = None
        self.mtime: tuple[int, int] | None = None
        self.xattrs: dict[bytes, bytes] = {}

    def _once(self, flag: bytes) -> None:
        # Readers differ in which of two headers counts, so an archive that has two says two things.
        if flag in self.seen or (self.seen and b"x" in self.seen + flag):
            raise Refused("one entry has two extended headers")
        self.seen += flag
        self.empty = False

    def take_gnu(self, flag: bytes, content: bytes) -> None:
        self._once(flag)
        text = content.removesuffix(b"\0")
        if not text or b"\0" in text:
            raise Refused("a long name is empty or has a NUL")
        if flag == b"L":
            self.path = text
        else:
            self.linkpath = text

    def take_pax(self, content: bytes) -> None:
        self._once(b"x")
        keys = set()
        for key, value in records(content):
            if key in keys:
                raise Refused(f"an extended header sets {shown(key)} twice")
            keys.add(key)
            if key.startswith(_XATTR):
                self._take_xattr(key.removeprefix(_XATTR), value)
            else:
                self._take_record(key, value)
        if sum(len(name) + 1 for name in self.xattrs) > _XATTR_LIST_MAX:
            raise Refused("an entry has too many extended attributes")

    def _take_record(self, key: bytes, value: bytes) -> None:
        match key:
            case b"path":
                self.path = _path(key, value)
            case b"linkpath":
                self.linkpath = _path(key, value)
            case b"size":
                self.size = _decimal(key, value, 2**63 - 1)
            case b"uid":
                self.uid = _decimal(key, value, ID_MAX)
            case b"gid":
                self.gid = _decimal(key, value, ID_MAX)
            case b"mtime":
                self.mtime = _pax_time(value)
            case b"uname" | b"gname" if b"\0" in value:
                raise Refused(f"an extended header has a NUL in {shown(key)}")
            case b"hdrcharset" if value not in (b"BINARY", b"ISO-IR 10646 2000 UTF-8"):
                raise Refused(f"its names are in the unknown character set {shown(value)}")
            case _ if _REFUSED_KEYS.match(key):
                raise Refused(f"it uses {shown(key)}: sparse files and devices in extended headers are not supported")

    def _take_xattr(self, name: bytes, value: bytes) -> None:
        if not name.startswith(_XATTR_SPACES) or name in _XATTR_SPACES or len(name) > _XATTR_NAME_MAX:
            raise Refused(f"no file can have an extended attribute named {shown(name)}")
        if len(value) > _XATTR_SIZE_MAX:
            raise Refused(f"the extended attribute {shown(name)} is too long")
        self.xattrs[name] = value


def records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records of a pax header: "LENGTH KEY=VALUE" and a newline, LENGTH counting all of it."""
    at = 0
    while at < len(content):
        length = _LENGTH.match(content, at)
        if length is None:
            raise Refused("an extended header has a record without a length")
        end = at + int(length[1])
        key, equals, value = content[length.end() : end - 1].partition(b"=")
        if end > len(content) or end <= length.end() or content[end - 1 : end] != b"\n" or not equals or not key:
            raise Refused("an extended header has a malformed record")
        if b"\0" in key:
            raise Refused("an extended header has a NUL in a keyword")
        yield key, value
        at = end


def _decimal(key: bytes, value: bytes, maximum: int) -> int:
    digits = _DECIMAL.fullmatch(value)
    if digits is None or int(digits[1]) > maximum:
        raise Refused(f"an extended header has {shown(key)} out of range")
    return int(digits[1])


def _pax_time(value: bytes) -> tuple[int, int]:
    """Seconds and nanoseconds of "[-]SECONDS[.FRACTION]"; digits after the ninth are dropped, as filesystems do."""
    parts = _TIME.fullmatch(value)
    if parts is None:
        raise Refused("an extended header has a malformed mtime")
    seconds = int(parts[2])
    nanoseconds = int((parts[3] or b"").ljust(9, b"0")[:9])
    if parts[1]:
        seconds, nanoseconds = (-seconds - 1, 10**9 - nanoseconds) if nanoseconds else (-seconds, 0)
    return in_time(seconds), nanoseconds


def in_time(seconds: int) -> int:
    if not MTIME_MIN <= seconds <= MTIME_MAX:
        raise Refused("it has a modification time out of range")
    return seconds


def _path(key: bytes, value: bytes) -> bytes:
    if not value or b"\0" in value or len(value) > PATH_MAX:
        raise Refused(f"an extended header has a {shown(key)} that is empty, too long or has a NUL")
    return value


def shown(text: bytes) -> str:
    """TEXT for a message: no control characters, and not long."""
    return ascii(text[:80].decode("utf-8", "backslashreplace"))
