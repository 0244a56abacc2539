"""Paths of /etc back to what the image has: through the mounted /etc, since a layer below a mount must not be touched.

What then lies in the upper layer is the same as in the image, so it is no change any more, and the next version's first
boot drops it.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from keelboot.durable import sync_filesystem
from keelboot.failure import Failure
from keelboot.host import etc
from keelboot.host.etc import Change
from keelboot.host.sides import Entry, Folder, join

# What makes the machine this machine and no other; only who names such a file resets it.
_IDENTITY = ("machine-id", "hostname", "fstab", "crypttab")
_IDENTITY_PREFIXES = ("ssh/ssh_host_",)
_DRAFT = ".keelboot."


def below_etc(typed: str) -> str:
    """The path below /etc that TYPED means: absolute, or relative to /etc. Raises Failure for one that leads out."""
    path = PurePosixPath("/etc") / typed
    if ".." in path.parts or path.parts[:2] != ("/", "etc"):
        raise Failure(
            f"cannot look at {typed}", why="it is not in /etc", fix="Name a file like /etc/fstab, or fstab for short."
        )
    return "/".join(path.parts[2:])


def chosen(changes: Iterable[Change], paths: Sequence[str]) -> list[Change]:
    """Those of CHANGES that are at or below one of PATHS.

    Raises Failure for a path where nothing was changed, and for account databases: users would vanish with them.
    """
    found = list(changes)
    picked = [
        [change for change in found if path in ("", change.path) or change.path.startswith(f"{path}/")]
        for path in paths
    ]
    for path, its in zip(paths, picked, strict=True):
        if not its:
            raise Failure(
                f"cannot reset /etc/{path}", why="it is as in the image", fix="`keelboot etc diff` lists what is not."
            )
        accounts = [change.path for change in its if etc.is_account(change.path)]
        if accounts and path != "":
            raise Failure(
                f"cannot reset /etc/{accounts[0]}",
                why="the users and groups of this machine would be gone, and their files would be nobody's",
                fix="Remove users one by one with `userdel`; `keelboot etc show` prints the image's own file.",
            )
    wanted = {change.path for its in picked for change in its}
    return [change for change in found if change.path in wanted and not etc.is_account(change.path)]


def all_but_identity(changes: Iterable[Change]) -> list[Change]:
    """CHANGES without accounts, and without what makes this machine itself."""
    return [
        change
        for change in changes
        if not etc.is_account(change.path)
        and change.path not in _IDENTITY
        and not change.path.startswith(_IDENTITY_PREFIXES)
    ]


def restore(mounted: Path, lower: Path, changes: Sequence[Change]) -> None:
    """Let every path of CHANGES in MOUNTED, the machine's /etc, be as in LOWER, the image's. Durable afterwards.

    A cut leaves some of them restored, each of them whole, and perhaps a draft beside the next, which goes when it is
    restored. Raises OSError.
    """
    filesystem = os.open(mounted, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        image = Folder(os.fspath(lower))
        for change in changes:
            _restore(mounted, image, change.path)
        sync_filesystem(filesystem)
    finally:
        os.close(filesystem)


def _restore(mounted: Path, image: Folder, path: str) -> None:
    entry = image_entry(image, path)
    if entry is None:
        _remove(mounted / path)
        _prune(mounted, image, path)
        return
    parent = path.rpartition("/")[0]
    if parent and not _is_directory(mounted / parent):
        _restore(mounted, image, parent)  # with all that is in it
        return
    place = mounted / path
    if entry.is_directory:
        _restore_directory(mounted, image, path, entry)
        return
    for rest in place.parent.glob(f"{_DRAFT}{'[0-9a-f]' * 16}"):
        rest.unlink()
    draft = place.with_name(f"{_DRAFT}{secrets.token_hex(8)}")
    try:
        _create(draft, entry)
        _dress(draft, entry)
        if _is_directory(place):
            shutil.rmtree(place)
        draft.rename(place)
    except BaseException:
        with suppress(FileNotFoundError):
            draft.unlink()
        raise


def _restore_directory(mounted: Path, image: Folder, path: str, entry: Entry) -> None:
    place = mounted / path
    if not _is_directory(place):
        _remove(place)
        place.mkdir(mode=0o700)
        for name in image.names(path):
            _restore(mounted, image, join(path, name))
    _dress(place, entry)


def image_entry(image: Folder, path: str) -> Entry | None:
    """What the image has at PATH, where all that leads to it are directories there."""
    parts = path.split("/")
    for depth in range(1, len(parts)):
        above = image.get("/".join(parts[:depth]))
        if above is None or not above.is_directory:
            return None
    return image.get(path)


def _create(place: Path, entry: Entry) -> None:
    if entry.kind == stat.S_IFREG:
        with place.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(entry.content())
            file.flush()
            os.fsync(file.fileno())
    elif entry.kind == stat.S_IFLNK:
        place.symlink_to(str(entry.detail))
    else:
        os.mknod(place, entry.kind | 0o600, int(entry.detail))


def _dress(place: Path, entry: Entry) -> None:
    """Owner, permissions, attributes and times of ENTRY; attributes that it does not have go."""
    os.chown(place, entry.uid, entry.gid, follow_symlinks=False)
    if entry.kind != stat.S_IFLNK:
        place.chmod(entry.permissions)
    wanted = entry.own_xattrs()
    with suppress(OSError):  # a filesystem without them
        for name in os.listxattr(place, follow_symlinks=False):
            if name not in wanted and not name.startswith("security.selinux"):
                os.removexattr(place, name, follow_symlinks=False)
    for name, value in wanted.items():
        os.setxattr(place, name, value, follow_symlinks=False)
    os.utime(place, ns=entry.times, follow_symlinks=False)


def _remove(place: Path) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        if _is_directory(place):
            shutil.rmtree(place)
        else:
            place.unlink()


def _prune(mounted: Path, image: Folder, path: str) -> None:
    """Remove the directories above PATH that the image does not have and that are empty now."""
    above = path.rpartition("/")[0]
    while above and image_entry(image, above) is None:
        try:
            (mounted / above).rmdir()
        except OSError:
            return
        above = above.rpartition("/")[0]


def _is_directory(place: Path) -> bool:
    return place.is_dir() and not place.is_symlink()
