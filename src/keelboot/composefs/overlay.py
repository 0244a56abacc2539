"""What is added to a tree so that overlayfs, mounted over the image, shows the tree as it was given.

Names that overlayfs would act on are escaped, contents in the store are pointed to, whiteouts become files that
overlayfs turns back, and 256 stubs hide the store's own directories (`00` to `ff`) where it is a layer whose names show
(Linux, filesystems/overlayfs.rst, "Metadata only copy up", "Nesting overlayfs mounts").
"""

import stat
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from keelboot.composefs.inodes import Inode

RESERVED: Final = b"trusted.overlay."
ESCAPED: Final = b"trusted.overlay.overlay."
METACOPY: Final = b"trusted.overlay.metacopy"
REDIRECT: Final = b"trusted.overlay.redirect"
OPAQUE: Final = b"trusted.overlay.opaque"
SELINUX: Final = b"security.selinux"
DIGEST_KINDS: Final = {32: 1, 64: 2}  # bytes of a digest: fs-verity's number of the algorithm

WHITEOUT_MARKS: Final = {b"trusted.overlay.overlay.whiteout": b"", b"user.overlay.whiteout": b""}
_PARENT_MARKS: Final = {b"trusted.overlay.overlay.whiteouts": b"", b"user.overlay.whiteouts": b""}
_OPAQUE_MARKS: Final = {b"trusted.overlay.overlay.opaque": b"x", b"user.overlay.opaque": b"x"}
STUB_NAMES: Final = tuple(b"%02x" % number for number in range(256))


def parent_marks(version: int) -> dict[bytes, bytes]:
    """What a directory with a whiteout in it is marked with."""
    return _PARENT_MARKS | _OPAQUE_MARKS if version else _PARENT_MARKS


def metacopy(digest: bytes) -> bytes:
    """The value that tells overlayfs what digest the content must have; DIGEST is empty where that is not known."""
    return bytes((0, 4 + len(digest), 0, DIGEST_KINDS[len(digest)])) + digest if digest else b""


def redirect(payload: bytes) -> bytes:
    """The value that tells overlayfs where the content is."""
    return b"/" + payload


def path_of(digest: bytes) -> bytes:
    """Where the store has the content with that digest."""
    text = digest.hex()
    return f"{text[:2]}/{text[2:]}".encode()


@lru_cache(maxsize=4096)
def escaped(name: bytes) -> bytes:
    """The attribute's NAME, so that overlayfs shows it and does not act on it."""
    return ESCAPED + name[len(RESERVED) :] if name.startswith(RESERVED) else name


def restore(directory: Inode, linked: Collection[Inode], version: int, *, is_root: bool) -> None:
    """Undo on DIRECTORY and the files in it what was added to them, in place. LINKED are files with further names.

    Directories in it are to be restored later. Raises ValueError for what no writer adds.
    """
    if is_root:
        _take_stubs(directory, linked)
    inodes = [item for item in directory.children.values() if isinstance(item, Inode)]
    if any(inode.is_whiteout for inode in inodes):
        raise ValueError("there is a whiteout that is not escaped")
    _restore_whiteouts(directory, linked, parent_marks(version))
    for inode in (directory, *inodes):
        if inode.xattrs and (inode is directory or not inode.is_directory):
            inode.xattrs = _unescaped(inode, OPAQUE if is_root and inode is directory else b"")


def _take_stubs(root: Inode, linked: Collection[Inode]) -> None:
    label = {SELINUX: root.xattrs[SELINUX]} if SELINUX in root.xattrs else {}
    if root.xattrs.get(OPAQUE) != b"y":
        raise ValueError("the root is not marked as opaque")
    for name in STUB_NAMES:
        stub = root.children.get(name)
        if stub is None:
            raise ValueError(f"the root has no {name.decode()}")
        if isinstance(stub, Inode) and stub.is_whiteout:
            expected = (stat.S_IFCHR | 0o644, 1, root.uid, root.gid, root.mtime, root.mtime_nsec, label)
            found = (stub.mode, stub.nlink, stub.uid, stub.gid, stub.mtime, stub.mtime_nsec, stub.xattrs)
            if expected != found or stub in linked:
                raise ValueError(f"the root's {name.decode()} is neither a file nor the mark that stands for none")
            del root.children[name]


def _restore_whiteouts(directory: Inode, linked: Collection[Inode], marks: dict[bytes, bytes]) -> None:
    """Turn marked files back. A file that only looks marked stays one: both are stored alike, so no digest changes."""
    if not marks.items() <= directory.xattrs.items():
        return
    found = [
        child
        for child in directory.children.values()
        if isinstance(child, Inode)
        and child.mode & 0o170000 == stat.S_IFREG
        and child.size == 0
        and child.nlink == 1
        and child not in linked
        and WHITEOUT_MARKS.items() <= child.xattrs.items()
    ]
    for child in found:
        child.mode = stat.S_IFCHR | child.mode & 0o7777
        child.xattrs = {name: value for name, value in child.xattrs.items() if name not in WHITEOUT_MARKS}
    if found:
        directory.xattrs = {name: value for name, value in directory.xattrs.items() if name not in marks}


def _unescaped(inode: Inode, generated: bytes) -> dict[bytes, bytes]:
    """The attributes the inode was given; sets payload and digest of an external file from those it got."""
    xattrs = {}
    for name, value in inode.xattrs.items():
        if name.startswith(ESCAPED):
            xattrs[RESERVED + name[len(ESCAPED) :]] = value
        elif not name.startswith(RESERVED):
            xattrs[name] = value
        elif inode.is_external and name == METACOPY:
            inode.digest = _digest(value)
        elif inode.is_external and name == REDIRECT and value.startswith(b"/"):
            inode.payload = value[1:]
        elif name != generated:
            raise ValueError("an attribute of overlayfs is where none belongs")
    return xattrs


def _digest(metacopy: bytes) -> bytes | None:
    if not metacopy:
        return None
    digest = metacopy[4:]
    if metacopy[:4] != bytes((0, len(metacopy) & 0xFF, 0, DIGEST_KINDS.get(len(digest), 0))):
        raise ValueError("the attribute with a file's digest is damaged")
    return digest
