"""What goes into a filesystem, as values: where a file comes from, what it is called, and how much room it takes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from keelboot.disk import ext4_verity
from keelboot.image.tree import ObjectId

_INODE_HOLDS = 60  # bytes of a symbolic link's target that need no block
_NAME_OVERHEAD = 12  # bytes of a directory entry beside its name, rounded up


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file at PATH: absolute, normal, inside the filesystem. Entries of the same path are an error of the caller."""

    path: bytes
    uid: int = 0
    gid: int = 0

    def __post_init__(self) -> None:
        names = self.path.split(b"/")[1:]
        normal = self.path == b"/" or not {b"", b".", b".."}.intersection(names)
        if not self.path.startswith(b"/") or not normal or b"\0" in self.path:
            raise ValueError(f"not an absolute, normal path: {self.path!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory(Entry):
    """A directory; parents that are not named are made with the defaults. `/` sets the root's owner and mode."""

    mode: int = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class File(Entry):
    """A regular file: the bytes themselves, or a file of the host of SIZE bytes."""

    content: bytes | Path
    size: int = -1
    mode: int = 0o644

    def __post_init__(self) -> None:
        Entry.__post_init__(self)
        if isinstance(self.content, bytes):
            object.__setattr__(self, "size", len(self.content))
        if self.size < 0:
            raise ValueError(f"the size of {self.path!r} is not said")


@dataclass(frozen=True, slots=True, kw_only=True)
class Symlink(Entry):
    """A symbolic link."""

    target: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed(Entry):
    """An object of SIZE bytes with its fs-verity metadata, as `sealed_objects` staged it; mode 0644."""

    object: ObjectId
    size: int

    @classmethod
    def below(cls, directory: bytes, objects: Mapping[ObjectId, int]) -> Iterator[Self]:
        """Every one of OBJECTS (with its size) at its place in DIRECTORY: `DIRECTORY/ab/cdef...`."""
        for name, size in objects.items():
            yield cls(path=directory + b"/" + name.path.encode(), object=name, size=size)


@dataclass(frozen=True, slots=True)
class Usage:
    """What entries take of an ext4 filesystem with blocks of 4 KiB."""

    blocks: int = 0
    inodes: int = 0

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Self:
        """Add up ENTRIES, with the directories that come between them."""
        blocks = inodes = 0
        names: dict[bytes, int] = {}
        for entry in with_parents(entries):
            parent, _, name = entry.path.rpartition(b"/")
            names[parent] = names.get(parent, 0) + len(name) + _NAME_OVERHEAD
            inodes += 1
            blocks += _blocks(entry)
        # A directory's last block of names is rarely full.
        blocks += sum(size * 5 // 4 // ext4_verity.BLOCK + 1 for size in names.values())
        return cls(blocks, inodes)

    def __mul__(self, times: int) -> "Usage":
        return Usage(self.blocks * times, self.inodes * times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a disk holds. OBJECTS is the directory that `Sealed` entries were staged in."""

    esp: Mapping[str, bytes | Path]
    store: tuple[Entry, ...]
    var: tuple[Entry, ...] = ()
    objects: Path | None = None


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """ENTRIES in the order of their paths, every directory before what is in it, missing ones added.

    Raises ValueError where two entries have one path.
    """
    named: dict[bytes, Entry] = {}
    for entry in entries:
        if entry.path in named:
            raise ValueError(f"two files at {entry.path!r}")
        named[entry.path] = entry
    for path in list(named):
        parent = path.rpartition(b"/")[0]
        while parent and parent not in named:
            named[parent] = Directory(path=parent)
            parent = parent.rpartition(b"/")[0]
    return [named[path] for path in sorted(named, key=lambda path: path.split(b"/"))]


def _blocks(entry: Entry) -> int:
    match entry:
        case Sealed(object=name, size=size):
            return ext4_verity.blocks(size, len(name.hex) // 2)
        case File(size=size):
            return -(-size // ext4_verity.BLOCK)
        case Symlink(target=target):
            return int(len(target) >= _INODE_HOLDS)
        case _:
            return 0
