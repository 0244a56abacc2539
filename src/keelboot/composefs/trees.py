"""From a tree to inodes, one by one, and from inodes back to a tree."""

import stat
from collections.abc import Collection
from operator import itemgetter

from keelboot.composefs.inodes import Inode, Link, fault, name_fault
from keelboot.failure import InvalidImage
from keelboot.image.tree import Directory, External, Node, ObjectId, Regular, Special, Symlink, walk


class TreeSource:
    """The inodes of a tree, made as `table.build` asks for them: beside a large tree is no room for all.

    A node with several names is under the one met first, depth first in name order. Link counts are the numbers of
    names. External files have a digest and no payload: their content lies where the digest says.
    """

    by_digest = True

    def __init__(self, root: Directory) -> None:
        """Raises InvalidImage if an image cannot hold the root, or a directory has two names."""
        self._root = root
        self.root = self._checked(root, None)
        self.inodes = 0
        self.linked: set[object] = set()
        self._find_linked()
        self._names: dict[Node, int] = {}
        self._defining: dict[Node, Directory] = {}  # where the first name is, until that is asked for
        if self.linked:
            self._count_names()

    def names(self, directory: Directory) -> Collection[bytes]:
        """Of what is in DIRECTORY."""
        return directory.children

    def inode(self, directory: Directory, name: bytes) -> Inode | None:
        """The inode that NAME in DIRECTORY defines, None if it is a further name of one. Is asked in name order.

        Raises InvalidImage if an image cannot hold it.
        """
        node = directory.children[name]
        if node not in self.linked:
            return self._checked(node, name_fault(name))
        if self._defining.get(node) is directory:
            del self._defining[node]
            return self._checked(node, name_fault(name), self._names[node])
        if why := name_fault(name):
            raise self._refused(node, why)
        return None

    def identity(self, directory: Directory, name: bytes) -> object:
        """What all names of one inode have in common."""
        return directory.children[name]

    def directory(self, directory: Directory, name: bytes) -> Directory:
        """The directory NAME in DIRECTORY."""
        child = directory.children[name]
        assert isinstance(child, Directory)
        return child

    def _checked(self, node: Node, why: str | None, names: int = 1) -> Inode:
        inode = _inode(node, names)
        if why := why or fault(inode):
            raise self._refused(node, why)
        return inode

    def _refused(self, node: Node, why: str) -> InvalidImage:
        path = next(path for path, other in walk(self._root) if other is node).decode(errors="replace")
        return InvalidImage(
            f"cannot write {path} into a composefs image", why=why, fix="Remove or change that file in the image."
        )

    def _find_linked(self) -> None:
        seen: set[Node] = {self._root}
        pending = [self._root]
        for directory in pending:  # grows while it is walked
            for node in directory.children.values():
                if node not in seen:
                    seen.add(node)
                    if isinstance(node, Directory):
                        pending.append(node)
                elif isinstance(node, Directory):
                    raise self._refused(node, "a directory has two names")
                else:
                    self.linked.add(node)
        self.inodes = len(seen)

    def _count_names(self) -> None:
        pending: list[tuple[Directory, Node]] = [(self._root, self._root)]
        while pending:
            above, node = pending.pop()
            if isinstance(node, Directory):
                below = sorted(node.children.items(), key=itemgetter(0), reverse=True)
                pending += [(node, child) for _, child in below if isinstance(child, Directory) or child in self.linked]
            else:
                self._names[node] = self._names.get(node, 0) + 1
                self._defining.setdefault(node, above)


def _inode(node: Node, names: int) -> Inode:
    size, rdev, payload, content, digest = 0, 0, None, None, None
    if isinstance(node, Regular):
        kind = stat.S_IFREG
        found = node.content
        if isinstance(found, External):
            size, digest = found.size, found.object.digest
        elif found:
            size, content = len(found), found
    elif isinstance(node, Directory):
        kind = stat.S_IFDIR
    elif isinstance(node, Symlink):
        kind, size, payload = stat.S_IFLNK, len(node.target), node.target
    elif isinstance(node, Special):
        kind, rdev = node.kind, node.rdev
    else:
        raise TypeError(f"not a file: {node!r}")
    return Inode(
        kind | node.permissions, names, node.uid, node.gid, rdev, node.mtime, node.mtime_nsec, size, payload, content,
        digest, node.xattrs,
    )  # fmt: skip


def to_tree(root: Inode) -> Directory:
    """The tree that ROOT describes. Link counts, and sizes of anything but regular files, are not part of a tree.

    Raises InvalidImage for an external file without a digest, or with an object path that is not its digest's.
    """
    nodes: dict[Inode, Node] = {}
    directories: list[tuple[Inode, Directory]] = []

    def node_of(inode: Inode) -> Node:
        if inode not in nodes:
            nodes[inode] = made = _to_node(inode)
            if isinstance(made, Directory):
                directories.append((inode, made))
        return nodes[inode]

    top = node_of(root)
    assert isinstance(top, Directory)
    for inode, directory in directories:  # grows while it is walked
        for name, child in inode.children.items():
            directory.children[name] = node_of(child.inode if isinstance(child, Link) else child)
    return top


def _to_node(inode: Inode) -> Node:
    kind = inode.mode & 0o170000
    node: Node
    if kind == stat.S_IFDIR:
        node = Directory()
    elif kind == stat.S_IFREG:
        node = Regular(content=_external(inode) if inode.is_external else inode.content or b"")
    elif kind == stat.S_IFLNK:
        node = Symlink(target=inode.payload or b"")
    else:
        node = Special(kind=kind, rdev=inode.rdev)
    node.permissions = inode.mode & 0o7777
    node.uid, node.gid = inode.uid, inode.gid
    node.mtime, node.mtime_nsec = inode.mtime, inode.mtime_nsec
    node.xattrs = dict(inode.xattrs)
    return node


def _external(inode: Inode) -> External:
    named = ObjectId.of(inode.digest) if inode.digest is not None else None
    if named is None or inode.payload != named.path.encode():
        raise InvalidImage(
            "cannot read the image's files",
            why="a file has no digest, or an object path that is not its digest",
            fix="Use an image that keelboot or another composefs tool made with a digest store.",
        )
    return External(object=named, size=inode.size)
