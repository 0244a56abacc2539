"""The composefs dump: an image as text, one name per line (composefs, man/composefs-dump.md).

    PATH SIZE MODE NLINK UID GID RDEV SECONDS.NANOSECONDS PAYLOAD CONTENT DIGEST [NAME=VALUE ...]

`-` stands for what is not set. A mode that starts with `@` makes the line a hard link to the path in PAYLOAD. What
mkcomposefs refuses is refused here, and so are texts that it reads as something else than they say.
"""

import re
import stat
from binascii import unhexlify
from collections.abc import Iterator
from io import BytesIO
from typing import Final

from keelboot.composefs.inodes import (
    NAME_MAX,
    SIZE_MAX,
    TARGET_MAX,
    Inode,
    Link,
    collector_paused,
    fault,
    name_fault,
    walk_inodes,
)
from keelboot.failure import InvalidImage

_UNSET: Final = b"-"
_DOT: Final = ord(".")
_TIME: Final = re.compile(rb"(-?[0-9]{1,20})\.([0-9]{1,20})")
_MODE: Final = re.compile(rb"(@?)([0-7]{1,11})")
_ESCAPE: Final = re.compile(rb"\\(x[0-9a-fA-F]{2}|.|$)")
_READ: Final = {b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_ODD: Final = re.compile(rb"[^\x21-\x5b\x5d-\x7e]")
_WRITTEN: Final = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"}
_XATTR_TEXT_MAX: Final = 65535


class _Refused(Exception):  # noqa: N818 - becomes an InvalidImage that names the line
    pass


@collector_paused()
def parse(text: bytes, *, strict: bool = False) -> Inode:
    """The root inode that TEXT describes. The last line may lack its newline.

    STRICT refuses that, and texts with device numbers where there is no device or sizes of symlinks that are not their
    targets': an image has no place for them. Raises InvalidImage, which names the line.
    """
    reader = _Reader(strict=strict, zeros=b"\0" in text)
    try:
        for reader.number, line in enumerate(BytesIO(text), 1):  # which copies one line at a time
            reader.line(line.removesuffix(b"\n"))
        return reader.finish(cut=not text.endswith(b"\n"))
    except _Refused as refused:
        raise InvalidImage(
            "cannot read the composefs dump",
            why=f"line {reader.number}: {refused}",
            fix="Make the dump again: `composefs-info dump IMAGE` writes one.",
        ) from refused


class _Reader:
    """What has been read so far. Links are tied when all lines are read: they may come before what they name."""

    def __init__(self, *, strict: bool, zeros: bool) -> None:
        self.strict = strict
        self.zeros = zeros  # whether there is one in any line
        self.number = 0  # of the line being read
        self.directories: dict[bytes, Inode] = {}  # by what stands before the last slash of the paths in them
        self.links: dict[bytes, tuple[int, bytes]] = {}  # line, path of the target
        # By their text: many inodes have the same.
        self.owners: dict[tuple[bytes, ...], tuple[int, int, int, int, int]] = {}
        self.xattrs: dict[bytes, dict[bytes, bytes]] = {b"": {}}

    def line(self, line: bytes) -> None:
        if self.zeros and b"\0" in line:
            raise _Refused("there is a zero byte")
        fields = line.split(b" ", 11)
        if len(fields) < 12:
            if len(fields) < 8:
                raise _Refused("fields are missing")
            fields += [_UNSET] * (11 - len(fields)) + [b""]
        path = fields[0]
        escapes = b"\\" in path
        if escapes:
            path = _unescaped(path)
        above, slash, name = path.rpartition(b"/")
        parent = self.directories.get(above)
        if path == b"/":
            if parent:
                raise _Refused("there is a second root")
        elif parent is None or not slash:
            raise _Refused("no directory for this path is in a line before it")
        elif (escapes or not name or name[0] == _DOT or len(name) > NAME_MAX) and (why := name_fault(name)):
            raise _Refused(why)
        elif name in parent.children or path in self.links:
            raise _Refused("the path is there twice")
        elif fields[2].startswith(b"@"):
            self.links[path] = self.number, _target(fields)
            return
        inode = self.inode(fields)
        if parent:
            parent.children[name] = inode
        if inode.mode & 0o170000 == stat.S_IFDIR:
            self.directories[path if name else b""] = inode
        elif not parent:
            raise _Refused("the root is not a directory")

    def inode(self, fields: list[bytes]) -> Inode:
        _, length, mode, nlink, uid, gid, rdev, time, payload, content, digest, text = fields
        owner = self.owners.get((mode, nlink, uid, gid, rdev))
        # A space at the end of a line is followed by no text, which mkcomposefs takes too.
        xattrs = self.xattrs.get(text)
        known = owner is not None and xattrs is not None
        if owner is None:
            owner = _mode(mode), _number(nlink), _number(uid), _number(gid), _number(rdev)
            self.owners[mode, nlink, uid, gid, rdev] = owner
        if xattrs is None:
            xattrs = self.xattrs[text] = _xattrs(text)
        bits, links, user, group, device = owner
        seconds, nanoseconds = _time(time)
        size = _number(length)
        inode = Inode(
            bits, links, user, group, device, seconds, nanoseconds, size, _bytes(payload), _bytes(content),
            _digest(digest), xattrs,
        )  # fmt: skip
        kind = bits & 0o170000
        if (
            known
            and kind == stat.S_IFREG
            and content == _UNSET
            and 0 < size <= SIZE_MAX
            and 0 < len(payload) <= TARGET_MAX
            and b"\\" not in payload
            and not self.strict
        ):
            # A file in the store, the most frequent kind: the rest was checked in another line, and is good.
            return inode
        if why := fault(inode):
            raise _Refused(why)
        if self.strict:
            _check_strictly(inode)
        if not inode.is_external:  # then an image has no place for all that may be said
            inode.digest = None
            if kind == stat.S_IFLNK:
                inode.size = len(inode.payload or b"")
            else:
                inode.payload = None
            if not size:
                inode.content = None
        return inode

    def finish(self, *, cut: bool) -> Inode:
        if cut and self.strict:
            raise _Refused("it has no newline at its end")
        if b"" not in self.directories:
            raise _Refused("there is no root")
        tied: dict[bytes, Link] = {}
        for path, (number, _) in self.links.items():
            self.number = number
            self.tie(path, tied)
        for path, link in tied.items():  # only now: before, what is among the children is no link
            above, _, name = path.rpartition(b"/")
            self.directories[above].children[name] = link
        return self.directories[b""]

    def tie(self, path: bytes, tied: dict[bytes, Link]) -> None:
        """Add to TIED where the link at PATH leads, and with it every link on the way: a chain is walked once."""
        way: dict[bytes, None] = {}
        while path in self.links and path not in tied:
            if path in way:
                raise _Refused("the hard link leads back to itself")
            way[path] = None
            path = self.links[path][1]
        link = tied.get(path) or Link(self.linked(path))
        tied.update(dict.fromkeys(way, link))

    def linked(self, path: bytes) -> Inode:
        above, slash, name = path.rpartition(b"/")
        parent = self.directories.get(above)
        found = parent.children.get(name) if parent and slash else None
        if path == b"/" or (isinstance(found, Inode) and found.is_directory):
            raise _Refused("the hard link's target is a directory")
        if not isinstance(found, Inode):
            raise _Refused("the hard link's target is not in the dump")
        if found.is_whiteout:
            raise _Refused("the hard link's target is a whiteout, which has only one name")
        return found


def _target(fields: list[bytes]) -> bytes:
    mode = _MODE.fullmatch(fields[2])
    if not mode or int(mode[2], 8) & 0o170000 == stat.S_IFDIR:
        raise _Refused("a hard link's mode is a file type, and not a directory's")
    target = _bytes(fields[8])
    if not target:
        raise _Refused("the hard link has no target")
    return target


def _check_strictly(inode: Inode) -> None:
    kind = inode.mode & 0o170000
    if inode.rdev and kind not in (stat.S_IFCHR, stat.S_IFBLK):
        raise _Refused("there is a device number, but it is no device")
    if kind == stat.S_IFLNK and inode.size != len(inode.payload or b""):
        raise _Refused("the size is not that of the symlink's target")


def _number(field: bytes) -> int:
    if not field.isdigit() or len(field) > 20:
        raise _Refused(f"`{field[:40].decode(errors='replace')}` is not a number")
    return int(field)


def _mode(field: bytes) -> int:
    mode = _MODE.fullmatch(field)
    if not mode or mode[1]:
        raise _Refused("the mode is not an octal number")
    return int(mode[2], 8) & 0xFFFF  # higher bits have no place in an image, and mkcomposefs drops them


def _time(field: bytes) -> tuple[int, int]:
    seconds, _, nanoseconds = field.partition(b".")
    if not (seconds.isdigit() and nanoseconds.isdigit() and len(seconds) < 19 and len(nanoseconds) < 10):
        time = _TIME.fullmatch(field)
        if not time:
            raise _Refused("the time is not SECONDS.NANOSECONDS")
        if int(time[2]) >= 1_000_000_000 or not -1 << 63 <= int(time[1]) < 1 << 63:
            raise _Refused("the modification time is out of range")
    return int(seconds), int(nanoseconds)


def _digest(field: bytes) -> bytes | None:
    if field == _UNSET:
        return None
    try:
        digest = unhexlify(field)
    except ValueError:
        digest = b""
    if len(digest) not in (32, 64) or not (field.islower() or field.isdigit()):
        raise _Refused("the digest is not 64 or 128 hexadecimal digits in lower case")
    return digest


def _xattrs(text: bytes) -> dict[bytes, bytes]:
    if len(text) >= _XATTR_TEXT_MAX:
        raise _Refused(f"extended attributes take more than {_XATTR_TEXT_MAX} bytes of text")
    xattrs = {}
    for field in text.split(b" "):
        name, equals, value = field.partition(b"=")
        if not equals:
            raise _Refused("an extended attribute has no `=`")
        xattrs[_unescaped(name)] = _unescaped(value)
    return xattrs


def _bytes(field: bytes) -> bytes | None:
    return None if field == _UNSET else _unescaped(field)


def _unescaped(field: bytes) -> bytes:
    return _ESCAPE.sub(_read_escape, field) if b"\\" in field else field


def _read_escape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if len(code) == 3:
        return bytes.fromhex(code[1:].decode())
    if code not in _READ:
        raise _Refused("there is a backslash before something that is not an escape")
    return _READ[code]


def format_dump(root: Inode) -> bytes:
    """The text that describes ROOT: depth first in name order, extended attributes in the order they are in."""
    return b"".join(_lines(root))


def _lines(root: Inode) -> Iterator[bytes]:
    names = {item: path for path, item in walk_inodes(root)}
    for path, item in walk_inodes(root):
        inode = item.inode if isinstance(item, Link) else item
        head = (
            b"%b %d %b%o %d %d %d %d %d.%d %b %b %b"
            % (
                escaped(path), inode.size, b"@" if isinstance(item, Link) else b"", inode.mode, inode.nlink,
                inode.uid, inode.gid, inode.rdev, inode.mtime, inode.mtime_nsec,
                _field(names[inode] if isinstance(item, Link) else inode.payload),
                _field(None if isinstance(item, Link) else inode.content),
                inode.digest.hex().encode() if inode.digest is not None and inode is item else _UNSET,
            )
        )  # fmt: skip
        xattrs = [] if isinstance(item, Link) else [_pair(*pair) for pair in inode.xattrs.items()]
        yield b" ".join([head, *xattrs]) + b"\n"


def _pair(name: bytes, value: bytes) -> bytes:
    return escaped(name).replace(b"=", b"\\x3d") + b"=" + escaped(value).replace(b"=", b"\\x3d")


def _field(value: bytes | None) -> bytes:
    if not value:
        return _UNSET
    return b"\\x2d" if value == _UNSET else escaped(value)


def escaped(value: bytes) -> bytes:
    """VALUE in printable characters without spaces, as a dump has it."""
    return _ODD.sub(lambda odd: _WRITTEN.get(odd[0]) or b"\\x%02x" % ord(odd[0]), value)
