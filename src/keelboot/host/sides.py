"""/etc as one of three sides has it: the parent's image, the machine (an overlay's upper layer), the new image.

What matters of a file is its type, content, owner, permissions and extended attributes; times do not. The initramfs
uses this, so it imports next to nothing.
"""

import os
import stat
from collections.abc import Mapping

# What overlayfs remembers in an upper layer (Linux, filesystems/overlayfs.rst). Under `user.` without privileges.
PREFIXES = ("trusted.overlay.", "user.overlay.")
# Labels are made anew by policy, so a difference is nobody's change.
_IGNORED = ("security.selinux",)
# For systemd's own book-keeping (systemd-update-done.service(8)).
UPDATED = ".updated"


class Entry:
    """One file. `detail` is a symlink's target, or a device's number; `path` is where to read it.

    `stored` is the fs-verity digest of a regular file's content where that is known without reading it.
    """

    __slots__ = ("detail", "gid", "kind", "links", "path", "permissions", "size", "stored", "times", "uid", "xattrs")

    def __init__(self, path: str, found: os.stat_result, xattrs: Mapping[str, bytes]) -> None:
        self.path = path
        self.kind = stat.S_IFMT(found.st_mode)
        self.permissions = stat.S_IMODE(found.st_mode)
        self.uid, self.gid, self.size = found.st_uid, found.st_gid, found.st_size
        self.times = (found.st_atime_ns, found.st_mtime_ns)
        self.links = (found.st_dev, found.st_ino) if found.st_nlink > 1 else None
        self.xattrs = xattrs
        self.stored: bytes | None = None
        self.detail: str | int = 0
        if self.kind == stat.S_IFLNK:
            self.detail = os.readlink(path)  # noqa: PTH115 - pathlib takes longer to import than all of this to run
        elif self.kind in (stat.S_IFCHR, stat.S_IFBLK):
            self.detail = found.st_rdev

    @property
    def is_directory(self) -> bool:
        return self.kind == stat.S_IFDIR

    @property
    def is_whiteout(self) -> bool:
        """Whether an upper layer says with it that the name below is removed."""
        return (self.kind == stat.S_IFCHR and self.detail == 0) or (
            self.kind == stat.S_IFREG and self.size == 0 and self.marked("whiteout") is not None
        )

    @property
    def is_opaque(self) -> bool:
        """Whether an upper layer says with it that nothing of the directory below is left."""
        return self.marked("opaque") == b"y"

    def marked(self, mark: str) -> bytes | None:
        """The value of overlayfs's own attribute MARK."""
        return next((self.xattrs[prefix + mark] for prefix in PREFIXES if prefix + mark in self.xattrs), None)

    def own_xattrs(self) -> dict[str, bytes]:
        """The attributes that are the file's. Of overlayfs's own one is: the flags that chattr(1) sets."""
        return {
            name: value
            for name, value in self.xattrs.items()
            if not name.startswith(PREFIXES) or name.endswith(".protattr")
        }

    def metadata(self) -> tuple[int, dict[str, bytes]]:
        """Permissions and attributes; the permissions of a symlink mean nothing."""
        xattrs = {name: value for name, value in self.own_xattrs().items() if name not in _IGNORED}
        return (0 if self.kind == stat.S_IFLNK else self.permissions), xattrs

    def content(self) -> bytes:
        """The bytes of a regular file. Raises OSError."""
        with open(self.path, "rb") as file:
            return file.read()

    def same_content(self, other: "Entry") -> bool:
        """Whether type and content are those of OTHER. Directories are alike: what is in them is not asked.

        What cannot be read is not the same.
        """
        if (self.kind, self.detail) != (other.kind, other.detail):
            return False
        if self.kind != stat.S_IFREG:
            return True
        try:
            return self.size == other.size and _same_bytes(self, other)
        except OSError:
            return False


class Side:
    """/etc of one of the three. Paths are relative; "" is /etc itself. No Protocol, as typing is slow to import."""

    def get(self, path: str) -> Entry | None:
        """What is at PATH; None where there is nothing, or what was there has just vanished.

        The caller knows that what leads to it is a directory here: a symlink on the way would be followed.
        """
        raise NotImplementedError

    def names(self, path: str) -> list[str]:
        """The names in the directory PATH, in order."""
        raise NotImplementedError


class Folder(Side):
    """A side that is a directory on disk."""

    def __init__(self, root: str) -> None:
        self._root = root

    def get(self, path: str) -> Entry | None:
        place = f"{self._root}/{path}" if path else self._root
        try:
            return Entry(place, os.lstat(place), _xattrs(place))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, path: str) -> list[str]:
        place = f"{self._root}/{path}" if path else self._root
        try:
            return sorted(os.listdir(place))  # noqa: PTH208 - as above
        except (FileNotFoundError, NotADirectoryError):
            return []


def join(directory: str, name: str) -> str:
    """The path of NAME in DIRECTORY."""
    return f"{directory}/{name}" if directory else name


def _xattrs(place: str) -> dict[str, bytes]:
    try:
        return {
            name: os.getxattr(place, name, follow_symlinks=False) for name in os.listxattr(place, follow_symlinks=False)
        }
    except FileNotFoundError:
        raise
    except OSError:  # a filesystem without them
        return {}


def _same_bytes(one: Entry, other: Entry) -> bool:
    if one.stored is None and other.stored is None:
        return one.content() == other.content()
    return _digest(one, other.stored) == _digest(other, one.stored)


def _digest(entry: Entry, like: bytes | None) -> bytes:
    """The fs-verity digest of the content, by the algorithm that LIKE was made with unless it is known."""
    if entry.stored is not None:
        return entry.stored
    from keelboot.composefs.verity import measure  # noqa: PLC0415 - on disk, nothing has to be measured

    return measure([entry.content()], "sha256" if like is None or len(like) == 32 else "sha512").object.digest
