"""What this machine changed in /etc, and what an upgrade would make of it.

A side is a directory on disk, or a tree: of an image in the store nothing has to be mounted.
"""

import ctypes
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from keelboot.host import accounts, merge
from keelboot.host.carryover import CARRIED
from keelboot.host.sides import UPDATED, Entry, Folder, Side, join
from keelboot.image.tree import Directory, External, Node, Regular, Special, Symlink, file_type, walk

Kind = Literal["added", "changed", "removed", "metadata"]
Read = Callable[[Regular], bytes]
_OPEN_TREE: Final = 428  # open_tree(2) has this number on every architecture
_CLONE, _CLOEXEC = 1, os.O_CLOEXEC
_HERE: Final = -100  # AT_FDCWD


@dataclass(frozen=True, slots=True)
class Change:
    """One path below /etc that is not as in the image, and how: `metadata` is a change of owner or permissions only."""

    path: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Drift:
    """What the machine changed, in order of the paths."""

    changes: tuple[Change, ...]

    @property
    def count(self) -> int:
        return len(self.changes)


@dataclass(frozen=True, slots=True)
class Preflight:
    """What an upgrade would meet. Paths of `conflicts` and `both` are below /etc, those of `foreign` below the root.

    `foreign` are files outside /etc that belong to a user or group which has another number on this machine.
    """

    conflicts: tuple[str, ...]
    both: tuple[str, ...]
    foreign: tuple[str, ...]


class Stored(Side):
    """A side that is the /etc of an image's tree. READ gives small files' content, and is only asked for accounts'."""

    def __init__(self, etc: Directory, read: Read | None = None) -> None:
        self._etc, self._read = etc, read

    def get(self, path: str) -> Entry | None:
        node = self._node(path)
        return None if node is None else _StoredEntry(node, self._read)

    def names(self, path: str) -> list[str]:
        node = self._node(path)
        return sorted(os.fsdecode(name) for name in node.children) if isinstance(node, Directory) else []

    def _node(self, path: str) -> Node | None:
        node: Node | None = self._etc
        for name in os.fsencode(path).split(b"/") if path else ():
            node = node.children.get(name) if isinstance(node, Directory) else None
        return node


class _StoredEntry(Entry):
    __slots__ = ("_content",)

    def __init__(self, node: Node, read: Read | None) -> None:
        self.path, self.links, self.times = "", None, (0, node.mtime * 1_000_000_000 + node.mtime_nsec)
        self.kind, self.permissions, self.uid, self.gid = file_type(node), node.permissions, node.uid, node.gid
        self.xattrs = {os.fsdecode(name): value for name, value in node.xattrs.items()}
        self.stored, self.size, self.detail = None, 0, 0
        self._content: Callable[[], bytes] = lambda: b""
        if isinstance(node, Symlink):
            self.detail = os.fsdecode(node.target)
        elif isinstance(node, Special) and node.kind in (stat.S_IFCHR, stat.S_IFBLK):
            self.detail = node.rdev
        elif isinstance(node, Regular):
            self.size = node.size
            if isinstance(node.content, External):
                self.stored = node.content.object.digest
                self._content = lambda: read(node) if read else b""
            else:
                content = node.content
                self._content = lambda: content

    def content(self) -> bytes:
        return self._content()


def drift(upper: Path, lower: Path | Side | None = None) -> Drift:
    """What the machine changed, from the layer UPPER above the image's /etc, LOWER.

    Directories count by what is in them, but for empty ones and those of another owner or mode. Without LOWER it is
    only told what the layer itself says: a file that was written to and is still the same counts as well.
    Raises OSError.
    """
    above = Folder(os.fspath(upper))
    return Drift(tuple(sorted(_Drift(above, _side(lower)).found(), key=lambda change: change.path)))


def conflicts(base: Path | Directory, upper: Path, new: Path | Directory) -> list[str]:
    """Paths that machine and image both changed, and that are a directory on one side and none on the other.

    BASE and NEW are the /etc of the images that the machine comes from and goes to.
    """
    return sorted(_merged(base, upper, new).conflicts)


def both(base: Path | Directory, upper: Path, new: Path | Directory) -> list[str]:
    """Files that machine and image changed, each in its way: the machine's are kept. Account databases are not."""
    return sorted(_merged(base, upper, new).both)


def preflight(base: Directory, upper: Path, new: Directory, read: Read) -> Preflight:
    """What an upgrade from the image whose tree is BASE to NEW would meet on the machine with UPPER.

    BASE and NEW are whole trees. READ gives the content of a small file, and may raise.
    """
    sides = [
        Stored(found if isinstance(found := tree.children.get(b"etc"), Directory) else Directory(), read)
        for tree in (base, new)
    ]
    planned = merge.Merge(sides[0], Folder(os.fspath(upper)), sides[1])
    users, groups = planned.owners
    foreign = [
        os.fsdecode(path)
        for path, node in (walk(new) if users or groups else ())
        if (node.uid in users or node.gid in groups) and not path.startswith(b"/etc/")
    ]
    return Preflight(tuple(sorted(planned.conflicts)), tuple(sorted(planned.both)), tuple(foreign))


def carried(state: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the carry-over to the deployment with the directory STATE noted: files changed on both sides, conflicts."""
    try:
        value = json.loads((state / "etc" / CARRIED).read_bytes())
        return tuple(map(str, value["both"])), tuple(map(str, value["conflicts"]))
    except (OSError, ValueError, KeyError, TypeError):  # there was nothing to note, or the file was damaged
        return (), ()


@contextmanager
def pristine() -> Iterator[Path]:
    """The image's own /etc of the machine that runs: that of its verified root, which the machine's is mounted over.

    Raises OSError; only root may look.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_OPEN_TREE, _HERE, b"/", _CLONE | _CLOEXEC)  # a copy of the root's mount, without those on it
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "/")
    try:
        yield Path(f"/proc/self/fd/{fd}/etc")
    finally:
        os.close(fd)


class _Drift:
    def __init__(self, upper: Side, lower: Side | None) -> None:
        self._upper, self._lower = upper, lower
        self._owners = merge.owners(lower, upper) if lower else ({}, {})

    def found(self) -> Iterator[Change]:
        below = self._lower.get("") if self._lower else None
        yield from self._in("", below, hidden=False)

    def _in(self, path: str, below: Entry | None, *, hidden: bool) -> Iterator[Change]:
        known = self._lower is not None and below is not None and below.is_directory
        names = self._upper.names(path)
        if hidden and known and self._lower:
            names = sorted({*names, *self._lower.names(path)})
        for name in names:
            child = join(path, name)
            if child == UPDATED:
                continue
            upper = self._upper.get(child)
            lower = self._lower.get(child) if known and self._lower else None
            if upper is None or upper.is_whiteout:
                if lower or self._lower is None:
                    yield Change(child, "removed")
            elif upper.is_directory:
                kind = self._kind(upper, lower)
                if kind and (kind != "added" or not self._upper.names(child)):
                    yield Change(child, kind)
                yield from self._in(child, lower, hidden=hidden or upper.is_opaque)
            elif kind := self._kind(upper, lower):
                yield Change(child, kind)

    def _kind(self, upper: Entry, lower: Entry | None) -> Kind | None:
        if self._lower is None:
            # overlayfs marks what it copied up, with or without a file handle.
            if upper.marked("origin") is None:
                return "added"
            return None if upper.is_directory else "changed"
        if lower is None:
            return "added"
        if not upper.same_content(lower):
            return "changed"
        return None if merge.same_metadata(upper, lower, self._owners) else "metadata"


def _side(of: Path | Directory | Side | None) -> Side | None:
    return Folder(os.fspath(of)) if isinstance(of, Path) else Stored(of) if isinstance(of, Directory) else of


def _merged(base: Path | Directory, upper: Path, new: Path | Directory) -> merge.Merge:
    before, after = _side(base), _side(new)
    assert before is not None
    assert after is not None
    return merge.Merge(before, Folder(os.fspath(upper)), after)


def is_account(path: str) -> bool:
    """Whether PATH, below /etc, is merged by lines."""
    return path in accounts.FILES
