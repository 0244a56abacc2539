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

from dataclasses import replace

from keelboot.composefs.erofs import image_chunks
from keelboot.composefs.verity import Algorithm, measure
from keelboot.failure import CannotFinish
from keelboot.image.tree import Directory, Node, ObjectId

KEPT_XATTR = b"security.capability"


def seal(root: Directory) -> Directory:
    """The tree that is deployed for the image whose tree is ROOT. ROOT is not changed; the two share what is alike.

    Raises CannotFinish if /usr, /boot or /sysroot is not a directory, or /run is something else than one.
    """
    usr = _directory(root, b"usr")
    made: dict[Node, Node] = {}
    for name in (b"boot", b"sysroot"):
        old = _directory(root, name)
        made[old] = _bare(old, {})
        made[old].mtime = usr.mtime
    if b"run" in root.children:
        old = _directory(root, b"run")
        made[old] = _bare(old, {})
        made[old].mtime, made[old].mtime_nsec = usr.mtime, usr.mtime_nsec
    _drop_attributes(root, made)
    return _bare(usr, _replaced(root, made))


def deployment_digest(root: Directory, algorithm: Algorithm = "sha256") -> ObjectId:
    """The name of the deployment of the image whose tree is ROOT: what its version 1 image measures.

    Raises CannotFinish if the tree cannot be sealed, InvalidImage if a composefs image cannot hold it.
    """
    _, chunks = image_chunks(seal(root), version=1)
    return measure(chunks, algorithm).object


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


def _drop_attributes(root: Directory, made: dict[Node, Node]) -> None:
    """Add to MADE what becomes of the nodes in ROOT that do not stay as they are; what is in MADE already is done.

    Most have nothing to lose, and stay: a large tree is not to be in memory twice.
    """
    directories = [root]
    for directory in directories:  # grows while it is walked
        below = directory.children.values()
        directories += [node for node in below if isinstance(node, Directory) and node not in made]
    for directory in reversed(directories):  # so what is in a directory comes before it
        for node in directory.children.values():
            if node.xattrs and not isinstance(node, Directory) and node not in made and _kept(node) != node.xattrs:
                made[node] = replace(node, xattrs=_kept(node))
        children = _replaced(directory, made)
        if children is not directory.children or _kept(directory) != directory.xattrs:
            made[directory] = _bare(directory, children)


def _replaced(directory: Directory, made: dict[Node, Node]) -> dict[bytes, Node]:
    """The children of DIRECTORY with those that were MADE in their places."""
    if made.keys().isdisjoint(directory.children.values()):
        return directory.children
    return {name: made.get(node, node) for name, node in directory.children.items()}


def _bare(directory: Directory, children: dict[bytes, Node]) -> Directory:
    """A copy without the attributes that are dropped, and with other CHILDREN."""
    return replace(directory, xattrs=_kept(directory), children=children)


def _kept(node: Node) -> dict[bytes, bytes]:
    return {KEPT_XATTR: node.xattrs[KEPT_XATTR]} if KEPT_XATTR in node.xattrs else {}
