"""From an image's tree to the tree that boots, and to the digest that names it.

An OCI image says nothing reliable about its root directory, and carries what container tools left in places that a
machine mounts over. So that everyone gets the same digest from the same layers, the tree is first made regular, by the
rules of composefs's other tools (composefs-rs, `transform_for_oci`, then `transform_for_boot`):

1. The root takes owner, permissions and times of /usr.
2. /run, if there is one, is emptied and takes /usr's time.
3. Extended attributes are dropped, but for security.capability.
4. /boot and /sysroot, which must exist, are emptied and take the seconds of /usr's time; they keep their nanoseconds.

No `security.selinux` labels are made. Where /etc/selinux/config names a policy, other tools compute labels from it, and
the digest they give is another than the one given here.
"""

from keelboot.composefs.erofs import image_bytes
from keelboot.composefs.verity import Algorithm, measure
from keelboot.failure import CannotFinish
from keelboot.image.tree import Directory, Node, ObjectId, Regular, Special, Symlink

KEPT_XATTR = b"security.capability"


def seal(root: Directory) -> Directory:
    """The tree that is deployed for the image whose tree is ROOT. ROOT is not changed; the two may share files.

    Raises CannotFinish if /usr, /boot or /sysroot is not a directory, or /run is something else than one.
    """
    usr = _directory(root, b"usr")
    boot, sysroot = _directory(root, b"boot"), _directory(root, b"sysroot")
    emptied = {boot, sysroot}
    if b"run" in root.children:
        run = _directory(root, b"run")
        emptied.add(run)
    sealed = _copied(root, emptied)
    _take_metadata(sealed, usr)
    for name in (b"boot", b"sysroot"):
        sealed.children[name].mtime = usr.mtime
    if b"run" in root.children:
        sealed.children[b"run"].mtime = usr.mtime
        sealed.children[b"run"].mtime_nsec = usr.mtime_nsec
    return sealed


def deployment_digest(root: Directory, algorithm: Algorithm = "sha256") -> ObjectId:
    """The name of the deployment of the image whose tree is ROOT: what its version 1 image measures.

    Raises CannotFinish if the tree cannot be sealed, InvalidImage if a composefs image cannot hold it.
    """
    return measure([image_bytes(seal(root), version=1)], algorithm).object


def _directory(root: Directory, name: bytes) -> Directory:
    found = root.children.get(name)
    if not isinstance(found, Directory):
        path = "/" + name.decode()
        why = f"{path} is missing" if found is None else f"{path} is not a directory"
        raise CannotFinish(
            "cannot seal the image",
            why=why,
            fix="`keelboot build` makes a bootable image of any supported one; or add "
            f"`RUN mkdir -p {path}` to the Containerfile.",
        )
    return found


def _copied(root: Directory, emptied: set[Directory]) -> Directory:
    """A copy of ROOT without the attributes that are dropped. Directories are new, files shared if they had none."""
    copies: dict[Node, Node] = {}
    top = Directory()
    _take_metadata(top, root)
    pending = [(root, top)]
    while pending:
        old, new = pending.pop()
        for name, child in old.children.items():
            if isinstance(child, Directory):
                directory = Directory()
                _take_metadata(directory, child)
                new.children[name] = directory
                if child not in emptied:
                    pending.append((child, directory))
            elif _kept(child) == child.xattrs:
                new.children[name] = child
            else:
                if child not in copies:
                    copies[child] = copy = _bare(child)
                    _take_metadata(copy, child)
                new.children[name] = copies[child]
    return top


def _bare(node: Node) -> Node:
    match node:
        case Regular(content=content):
            return Regular(content=content)
        case Symlink(target=target):
            return Symlink(target=target)
        case Special(kind=kind, rdev=rdev):
            return Special(kind=kind, rdev=rdev)
    raise TypeError(f"not a file: {node!r}")


def _take_metadata(node: Node, source: Node) -> None:
    node.permissions, node.uid, node.gid = source.permissions, source.uid, source.gid
    node.mtime, node.mtime_nsec = source.mtime, source.mtime_nsec
    node.xattrs = _kept(source)


def _kept(node: Node) -> dict[bytes, bytes]:
    return {KEPT_XATTR: node.xattrs[KEPT_XATTR]} if KEPT_XATTR in node.xattrs else {}
