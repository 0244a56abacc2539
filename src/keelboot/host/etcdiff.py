"""What changed in /etc, as people read it: a unified diff of text, a word for everything else."""

import difflib
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from keelboot.host.etc import Change
from keelboot.host.sides import Entry, Folder

_TEXT_MAX = 1 << 20
_PUBLIC = 0o004  # of a file's mode


class Difference(NamedTuple):
    """A change with what there is to see of it: lines of a diff, or why there are none.

    `both` says that the image changed it too, when this version came, and that the machine's was kept.
    """

    change: Change
    both: bool
    lines: tuple[str, ...]
    note: str


def differences(
    mounted: Path, lower: Path, changes: Collection[Change], both: Collection[str], *, secrets: bool = False
) -> Iterator[Difference]:
    """Each of CHANGES, from the image's /etc, LOWER, to the machine's, MOUNTED.

    Contents that not everybody may read are only shown with SECRETS.
    """
    here, image = Folder(os.fspath(mounted)), Folder(os.fspath(lower))
    for change in changes:
        old = None if change.kind == "added" else image.get(change.path)
        new = None if change.kind == "removed" else here.get(change.path)
        lines, note = _shown(change.path, old, new, secrets=secrets)
        yield Difference(change, change.path in both, tuple(lines), note)


def _shown(path: str, old: Entry | None, new: Entry | None, *, secrets: bool) -> tuple[list[str], str]:
    there = [entry for entry in (old, new) if entry is not None]
    told = _metadata(old, new)
    if len(there) == 2 and there[0].same_content(there[1]):
        return [], told
    if any(entry.kind != stat.S_IFREG for entry in there):
        return [], " -> ".join(_kind(entry) for entry in there)
    if not secrets and not all(entry.permissions & _PUBLIC for entry in there):
        return [], "private: --secrets shows it"
    before, after = _text(old), _text(new)
    if before is None or after is None:
        return [], "not text"
    names = (f"a/etc/{path}" if old else "/dev/null", f"b/etc/{path}" if new else "/dev/null")
    return list(difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="")), told


def _text(entry: Entry | None) -> str | None:
    """The content as text; None where it is none, or too long to be read."""
    if entry is None:
        return ""
    try:
        content = entry.content() if entry.size <= _TEXT_MAX else b"\0"
        return None if b"\0" in content else content.decode()
    except (UnicodeDecodeError, OSError):
        return None


def _metadata(old: Entry | None, new: Entry | None) -> str:
    if old is None or new is None or old.kind != new.kind:
        return ""
    told = []
    if old.permissions != new.permissions and old.kind != stat.S_IFLNK:
        told.append(f"mode {old.permissions:04o} -> {new.permissions:04o}")
    if (old.uid, old.gid) != (new.uid, new.gid):
        told.append(f"owner {old.uid}:{old.gid} -> {new.uid}:{new.gid}")
    if old.own_xattrs() != new.own_xattrs():
        told.append("extended attributes")
    return ", ".join(told)


def _kind(entry: Entry) -> str:
    if entry.kind == stat.S_IFLNK:
        return f"link to {entry.detail}"
    names = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}
    return names.get(entry.kind, "device")
