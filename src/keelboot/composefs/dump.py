"""The composefs dump: an image as text, one name per line (composefs, man/composefs-dump.md).

    PATH SIZE MODE NLINK UID GID RDEV SECONDS.NANOSECONDS PAYLOAD CONTENT DIGEST [NAME=VALUE ...]

`-` stands for what is not set. A mode that starts with `@` makes the line a hard link to the path in PAYLOAD. What
mkcomposefs refuses is refused here, and so are texts that it reads as something else than they say.
"""

import re
import stat
from collections.abc import Iterator
from typing import Final

from keelboot.composefs.inodes import Inode, Link, fault, name_fault, walk_inodes
from keelboot.failure import InvalidImage

_UNSET: Final = b"-"
_NUMBER: Final = re.compile(rb"[0-9]{1,20}")
_TIME: Final = re.compile(rb"(-?[0-9]{1,20})\.([0-9]{1,20})")
_MODE: Final = re.compile(rb"(@?)([0-7]{1,11})")
_DIGEST: Final = re.compile(rb"(?:[0-9a-f]{64}){1,2}")
_ESCAPE: Final = re.compile(rb"\\(x[0-9a-fA-F]{2}|.|$)")
_READ: Final = {b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_ODD: Final = re.compile(rb"[^\x21-\x5b\x5d-\x7e]")
_WRITTEN: Final = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"}
_XATTR_TEXT_MAX: Final = 65535


class _Refused(Exception):  # noqa: N818 - becomes an InvalidImage that names the line
    pass


def parse(text: bytes, *, strict: bool = False) -> Inode:
    """The root inode that TEXT describes. The last line may lack its newline.

    STRICT refuses that, and texts with device numbers where there is no device or sizes of symlinks that are not their
    targets': an image has no place for them. Raises InvalidImage, which names the line.
    """
    lines = text.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    reader = _Reader(strict=strict)
    try:
        for line in lines:
            reader.line(line)
        return reader.finish(cut=not text.endswith(b"\n"))
    except _Refused as refused:
        raise InvalidImage(
            "cannot read the composefs dump",
            why=f"line {reader.number}: {refused}",
            fix="Make the dump again: `composefs-info dump IMAGE` writes one.",
        ) from refused


class _Reader:
    """What has been read so far. Links are tied when all lines are read: they may come before what they name."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.number = 0  # of the line being read
        self.root: Inode | None = None
        self.paths: dict[bytes, Inode | bytes] = {}  # a link is there as the path it names
        self.links: list[tuple[int, Inode, bytes, bytes]] = []  # line, parent, name, path

    def line(self, line: bytes) -> None:
        self.number += 1
        fields = line.split(b" ")
        if len(fields) == 12 and not fields[11]:  # mkcomposefs reads a space at the end of a line as nothing
            fields.pop()
        if len(fields) < 8 or b"\0" in line:
            raise _Refused("fields are missing, or there is a zero byte")
        fields += [_UNSET] * (11 - len(fields))
        path = _bytes(fields[0]) or b""
        if path == b"/":
            if self.root:
                raise _Refused("there is a second root")
            self.root = self.paths[path] = _inode(fields, strict=self.strict)
            if not self.root.is_directory:
                raise _Refused("the root is not a directory")
            return
        above, _, name = path.rpartition(b"/")
        parent = self.paths.get(above or b"/") if above != b"/" else None
        if not path.startswith(b"/") or not isinstance(parent, Inode) or not parent.is_directory:
            raise _Refused("no directory for this path is in a line before it")
        if why := name_fault(name):
            raise _Refused(why)
        if name in parent.children or path in self.paths:
            raise _Refused("the path is there twice")
        if fields[2].startswith(b"@"):
            target = _target(fields)
            self.paths[path] = target
            self.links.append((self.number, parent, name, target))
            return
        inode = _inode(fields, strict=self.strict)
        self.paths[path] = parent.children[name] = inode

    def finish(self, *, cut: bool) -> Inode:
        if cut and self.strict:
            raise _Refused("it has no newline at its end")
        if self.root is None:
            raise _Refused("there is no root")
        for number, parent, name, target in self.links:
            self.number = number
            self.link(parent, name, target)
        return self.root

    def link(self, parent: Inode, name: bytes, target: bytes) -> None:
        seen: set[bytes] = set()
        found: Inode | bytes | None = target
        while isinstance(found, bytes):
            if found in seen:
                raise _Refused("the hard link leads back to itself")
            seen.add(found)
            found = self.paths.get(found)
        if found is None:
            raise _Refused("the hard link's target is not in the dump")
        if found.is_directory:
            raise _Refused("the hard link's target is a directory")
        if found.is_whiteout:
            raise _Refused("the hard link's target is a whiteout, which has only one name")
        parent.children[name] = Link(found)


def _target(fields: list[bytes]) -> bytes:
    mode = _MODE.fullmatch(fields[2])
    if not mode or int(mode[2], 8) & 0o170000 == stat.S_IFDIR:
        raise _Refused("a hard link's mode is a file type, and not a directory's")
    target = _bytes(fields[8])
    if not target:
        raise _Refused("the hard link has no target")
    return target


def _inode(fields: list[bytes], *, strict: bool) -> Inode:
    size, nlink, uid, gid, rdev = map(_number, (fields[1], *fields[3:7]))
    mode, time = _MODE.fullmatch(fields[2]), _TIME.fullmatch(fields[7])
    if not mode or mode[1]:
        raise _Refused("the mode is not an octal number")
    if not time:
        raise _Refused("the time is not SECONDS.NANOSECONDS")
    inode = Inode(
        mode=int(mode[2], 8) & 0xFFFF,  # higher bits have no place in an image, and mkcomposefs drops them
        nlink=nlink,
        uid=uid,
        gid=gid,
        rdev=rdev,
        mtime=int(time[1]),
        mtime_nsec=int(time[2]),
        size=size,
        payload=_bytes(fields[8]),
        content=_bytes(fields[9]),
        digest=_digest(fields[10]),
        xattrs=_xattrs(fields[11:]),
    )
    if why := fault(inode):
        raise _Refused(why)
    if strict:
        _check_strictly(inode)
    # What an image has no place for.
    if inode.mode & 0o170000 == stat.S_IFLNK:
        inode.size = len(inode.payload or b"")
    elif not inode.is_external:
        inode.payload = None
    if not inode.is_external:
        inode.digest = None
    if not inode.size:
        inode.content = None
    return inode


def _check_strictly(inode: Inode) -> None:
    kind = inode.mode & 0o170000
    if inode.rdev and kind not in (stat.S_IFCHR, stat.S_IFBLK):
        raise _Refused("there is a device number, but it is no device")
    if kind == stat.S_IFLNK and inode.size != len(inode.payload or b""):
        raise _Refused("the size is not that of the symlink's target")


def _number(field: bytes) -> int:
    if not _NUMBER.fullmatch(field):
        raise _Refused(f"`{field[:40].decode(errors='replace')}` is not a number")
    return int(field)


def _digest(field: bytes) -> bytes | None:
    if field == _UNSET:
        return None
    if not _DIGEST.fullmatch(field):
        raise _Refused("the digest is not 64 or 128 hexadecimal digits in lower case")
    return bytes.fromhex(field.decode())


def _xattrs(fields: list[bytes]) -> dict[bytes, bytes]:
    if sum(map(len, fields)) + len(fields) > _XATTR_TEXT_MAX:
        raise _Refused(f"extended attributes take more than {_XATTR_TEXT_MAX} bytes of text")
    xattrs = {}
    for field in fields:
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
