"""What one layer does to the layers below it (OCI image specification, layer.md, "Applying Changesets").

A layer's whiteouts hide what lower layers have, wherever in the layer they stand, and never what the layer itself
adds. So the entries are collected first and then applied in two passes: all whiteouts on the lower tree, then all
entries in their order. Paths are looked up in the tree of values, and no lookup follows a symbolic link.
"""

import marshal
from collections.abc import Iterator
from typing import Any, NamedTuple

from keelboot.image.refusal import Refused
from keelboot.image.tree import Directory, External, Node, ObjectId, Regular, Special, Symlink

NAME_MAX = 255  # bytes of one component, the limit of Linux's filesystems
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_PIECE = 4096  # entries


class Place(NamedTuple):
    """A path in its one form: the directory without leading, doubled or trailing slashes, and the name in it.

    The root is the empty name in the empty directory.
    """

    directory: bytes
    name: bytes

    def __str__(self) -> str:
        return ascii("/" + b"/".join(part for part in self if part).decode("utf-8", "backslashreplace"))


class Changes:
    """The changes of one layer, collected entry by entry, then applied at once. All methods raise Refused."""

    def __init__(self) -> None:
        self._written: dict[bytes, bytes] = {}  # directories, as written -> in their one form
        # An entry is what these three have at one index: one value each would double the memory of a large layer.
        self._directories: list[bytes] = []
        self._names: list[bytes] = []
        self._what: list[Node | Place] = []
        self._hidden: set[Place] = set()
        self._opaque: set[bytes] = set()

    def place(self, path: bytes) -> Place:
        """Where PATH, as an archive writes it, is in the tree: leading `/` and `./` do not matter, `..` is refused."""
        written, _, name = path.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            parts = _parts(path)
            return Place(b"/".join(parts[:-1]), parts[-1]) if parts else Place(b"", b"")
        if len(name) > NAME_MAX:
            raise Refused(f"it has a name of {len(name)} bytes")
        directory = self._written.get(written)
        if directory is None:
            directory = self._written[written] = b"/".join(_parts(written))
        return Place(directory, name)

    def put(self, place: Place, what: Node | Place) -> None:
        """Have the node WHAT at PLACE, over what is there; a directory over a directory keeps what is in it.

        Where WHAT is another place, it is the node that is there when this entry's turn comes: a hard link.
        """
        directory, name = place
        self._directories.append(directory)
        self._names.append(name)
        self._what.append(what)

    def hide(self, place: Place) -> None:
        """Take in the whiteout at PLACE."""
        hidden = place.name.removeprefix(_WHITEOUT)
        if place.name == _OPAQUE:
            self._opaque.add(place.directory)
        elif hidden in (b"", b".", b"..") or hidden.startswith(_WHITEOUT):
            raise Refused(f"{place} is a whiteout of nothing that can be hidden")
        else:
            self._hidden.add(Place(place.directory, hidden))

    def packed(self) -> Iterator[bytes]:
        """The changes in pieces of some hundred kilobytes, for another process of this program: no format to keep."""
        hidden, opaque = [tuple(place) for place in self._hidden], list(self._opaque)
        for at in range(0, max(1, len(self._what)), _PIECE):
            end = at + _PIECE
            what = [_packed(one) for one in self._what[at:end]]
            yield marshal.dumps((hidden, opaque, self._directories[at:end], self._names[at:end], what))
            hidden, opaque = [], []

    def unpack(self, piece: bytes) -> None:
        """Take in the next PIECE of what `packed` gave."""
        hidden, opaque, directories, names, what = marshal.loads(piece)  # noqa: S302 - from a process of this program
        self._hidden.update(Place(*place) for place in hidden)
        self._opaque.update(opaque)
        self._directories += directories
        self._names += names
        self._what += map(_unpacked, what)

    def apply(self, root: Directory) -> None:
        """Change the tree below ROOT, once; after a refusal it is half changed and of no use."""
        for place in self._hidden:
            if (parent := _lookup(root, place.directory)) is not None:
                parent.children.pop(place.name, None)
        for path in self._opaque:
            if (directory := _lookup(root, path)) is not None:
                directory.children.clear()
        self._apply_entries(root)

    def _apply_entries(self, root: Directory) -> None:
        directories = {b"": root}  # those met before, by path
        linked: set[Place] = set()

        def enter(place: Place) -> Directory:
            directory = directories.get(place.directory)
            if directory is None:
                directory = _lookup(root, place.directory)
                if directory is None:
                    raise Refused(f"{place} is in a directory that the image does not have")
                directories[place.directory] = directory
            return directory

        for place, what in zip(map(Place, self._directories, self._names), self._what, strict=True):
            parent = enter(place)
            if not place.name:
                _take_over(root, what)
                continue
            old = parent.children.get(place.name)
            if isinstance(what, Place):
                node = enter(what).children.get(what.name)
                # A link to a link of the same layer is what no archiver writes, and what attacks are made of.
                if node is None or isinstance(node, Directory) or what == place or what in linked:
                    raise Refused(f"{place} is a hard link to {what}, which is no file that came before it")
                linked.add(place)
            elif isinstance(old, Directory) and isinstance(what, Directory):
                _take_over(old, what)
                continue
            else:
                node = what
                linked.discard(place)
            parent.children[place.name] = node
            if isinstance(old, Directory):
                directories = {b"": root}


def is_whiteout(place: Place) -> bool:
    """Whether the name at PLACE is one that hides another."""
    return place.name.startswith(_WHITEOUT)


def _parts(path: bytes) -> list[bytes]:
    """The names PATH consists of."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    for part in parts:
        if part == b"..":
            raise Refused("it has a path with `..`")
        if len(part) > NAME_MAX:
            raise Refused(f"it has a name of {len(part)} bytes")
        if part.startswith(_WHITEOUT):
            raise Refused("it has a directory with the name of a whiteout")
    return parts


def _lookup(root: Directory, path: bytes) -> Directory | None:
    """The directory at PATH; None where there is none, or another kind of file is on the way."""
    directory = root
    for name in path.split(b"/") if path else ():
        child = directory.children.get(name)
        if not isinstance(child, Directory):
            return None
        directory = child
    return directory


def _take_over(directory: Directory, new: Node | Place) -> None:
    """Give DIRECTORY the metadata of NEW, which must be a directory; what is in it stays."""
    if not isinstance(new, Directory):
        raise Refused("its root is not a directory")
    directory.permissions, directory.uid, directory.gid = new.permissions, new.uid, new.gid
    directory.mtime, directory.mtime_nsec, directory.xattrs = new.mtime, new.mtime_nsec, new.xattrs


def _packed(what: Node | Place) -> tuple[Any, ...]:
    """WHAT in values that marshal knows."""
    if isinstance(what, Place):
        return (None, "link", *what)
    metadata = (what.permissions, what.uid, what.gid, what.mtime, what.mtime_nsec, what.xattrs or None)
    match what:
        case Regular(content=bytes() as content):
            return (metadata, "inline", content)
        case Regular(content=External() as content):
            return (metadata, "external", content.digest, content.size)
        case Directory():
            return (metadata, "directory")
        case Symlink(target=target):
            return (metadata, "symlink", target)
        case Special(kind=kind, rdev=rdev):
            return (metadata, "special", kind, rdev)
    raise TypeError(f"not a file: {what!r}")


def _unpacked(value: tuple[Any, ...]) -> Node | Place:
    """What `_packed` made VALUE of."""
    metadata, kind, *own = value
    node: Node
    match kind:
        case "link":
            return Place(*own)
        case "inline":
            node = Regular(content=own[0])
        case "external":
            node = Regular(content=External(ObjectId.of(own[0]), own[1]))
        case "directory":
            node = Directory()
        case "symlink":
            node = Symlink(target=own[0])
        case _:
            node = Special(kind=own[0], rdev=own[1])
    node.permissions, node.uid, node.gid, node.mtime, node.mtime_nsec, xattrs = metadata
    if xattrs:
        node.xattrs = xattrs
    return node
