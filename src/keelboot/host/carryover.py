"""A deployment's own /etc at its first boot: its parent's changes, on top of the new image's /etc.

    python3 -I -m keelboot.host.carryover --parent-etc DIR --parent-upper DIR --image-etc DIR --target DIR

The initramfs runs this in the new root, before /etc is mounted. It only writes below TARGET, which it makes anew:

    TARGET/upper         what `merge` plans
    TARGET/work          for overlayfs
    TARGET/carried.json  {"both": [...], "conflicts": [...]}: what the operator should look at; missing if nothing

Everything is durable when it ends. A cut leaves a part of TARGET, and running again starts it again: the caller renames
TARGET when this has ended well. It takes 2 s of the boot at the most, so it imports next to nothing.
"""

import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress

from keelboot.host.merge import Merge, Planned
from keelboot.host.sides import Folder

CARRIED = "carried.json"
_OPTIONS = ("--parent-etc", "--parent-upper", "--image-etc", "--target")
_PIECE = 1 << 20


def carry_over(parent_etc: str, parent_upper: str, image_etc: str, target: str) -> Merge:
    """Make TARGET and return what was planned. Raises OSError that names the file."""
    merge = Merge(Folder(parent_etc), Folder(parent_upper), Folder(image_etc))
    _remove(target)
    os.mkdir(target, 0o755)  # noqa: PTH102 - pathlib takes longer to import than all of this to run
    filesystem = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _Writer().write(f"{target}/upper", merge.root)
        os.mkdir(f"{target}/work", 0o700)  # noqa: PTH102 - as above
        if merge.both or merge.conflicts:
            import json  # noqa: PLC0415 - there is seldom something to tell

            told = {"both": sorted(merge.both), "conflicts": sorted(merge.conflicts)}
            with open(f"{target}/{CARRIED}", "w", encoding="ascii") as file:
                json.dump(told, file, indent=2)
        from keelboot.durable import sync_filesystem  # noqa: PLC0415 - when there is something to sync

        sync_filesystem(filesystem)
    finally:
        os.close(filesystem)
    return merge


def summary(merge: Merge) -> str:
    """What was done, in one line."""
    count = _count(merge.root)
    told = f"/etc: {count} {'file' if count == 1 else 'files'} carried over, {merge.taken} as in the new image"
    if merge.merged:
        told += f", merged by lines: {', '.join(merge.merged)}"
    if merge.both:
        told += f", changed here and in the image (kept as here): {', '.join(sorted(merge.both))}"
    if merge.conflicts:
        told += f", directory here or in the image only (kept as here): {', '.join(sorted(merge.conflicts))}"
    return told.encode("ascii", "backslashreplace").decode().replace("\n", "\\n")


class _Writer:
    """Writes planned files; names of one file on the machine stay names of one file."""

    def __init__(self) -> None:
        self._first: dict[tuple[int, int], str] = {}

    def write(self, path: str, planned: Planned) -> None:
        metadata = planned.metadata
        if metadata is None:
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
            return
        if self._is_linked(path, planned) or not _create(path, planned):
            return
        for name in sorted(planned.children or ()):
            self.write(f"{path}/{name}", (planned.children or {})[name])
        os.chown(path, planned.uid, planned.gid, follow_symlinks=False)
        if metadata.kind != stat.S_IFLNK:
            os.chmod(path, metadata.permissions)  # noqa: PTH101 - as above; after chown(2), which takes set-id bits
        for name, value in metadata.own_xattrs().items():
            os.setxattr(path, name, value, follow_symlinks=False)
        os.utime(path, ns=(planned.content or metadata).times, follow_symlinks=False)

    def _is_linked(self, path: str, planned: Planned) -> bool:
        """Make PATH one more name of a file that was written; false if it is none."""
        content, metadata = planned.content, planned.metadata
        if content is None or content.links is None or content is not metadata or content.kind == stat.S_IFDIR:
            return False
        first = self._first.setdefault(content.links, path)
        if first != path:
            os.link(first, path, follow_symlinks=False)
        return first != path


def _create(path: str, planned: Planned) -> bool:
    """Make the file, without its metadata; false if there is nothing to make it from any more."""
    content = planned.content
    if planned.data is not None:
        with open(path, "xb") as file:
            file.write(planned.data)
    elif content is None:
        return False
    elif content.kind == stat.S_IFDIR:
        os.mkdir(path, 0o700)  # noqa: PTH102 - as above
    elif content.kind == stat.S_IFLNK:
        os.symlink(str(content.detail), path)  # noqa: PTH211 - as above
    elif content.kind == stat.S_IFREG:
        with suppress(FileNotFoundError), open(content.path, "rb", buffering=0) as old, open(path, "xb") as new:
            while piece := old.read(_PIECE):
                new.write(piece)
            return True
        return False
    else:
        os.mknod(path, content.kind | 0o600, int(content.detail))
    return True


def _remove(path: str) -> None:
    """Remove what is at PATH, if anything is."""
    try:
        names = os.listdir(path)  # noqa: PTH208 - as above
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(path)  # noqa: PTH108 - as above
        return
    for name in names:
        place = f"{path}/{name}"
        if stat.S_ISDIR(os.lstat(place).st_mode):
            _remove(place)
        else:
            os.unlink(place)  # noqa: PTH108 - as above
    os.rmdir(path)  # noqa: PTH106 - as above


def _count(planned: Planned) -> int:
    """Files that are kept, whiteouts among them; not directories."""
    return sum(1 if child.children is None else _count(child) for child in (planned.children or {}).values())


def main(words: Sequence[str]) -> int:
    """Do what the command line WORDS say, and return the exit code."""
    given = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) != 2 * len(_OPTIONS) or set(given) != set(_OPTIONS):
        sys.stderr.write(f"carryover: needs {' DIR '.join(_OPTIONS)} DIR\n")
        return 2
    os.umask(0o077)  # what is to be readable gets its permissions when it is complete
    try:
        merge = carry_over(*(given[option] for option in _OPTIONS))
    except OSError as error:
        sys.stderr.write(f"carryover: {error.filename or given['--target']}: {error.strerror}\n")
        return 1
    sys.stdout.write(f"{summary(merge)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
