"""What is mounted, as /proc/self/mountinfo tells it (proc_pid_mountinfo(5)), and what that says of the machine."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from keelboot.image.tree import ObjectId

_ESCAPE = re.compile(r"\\([0-7]{3})")
_SOURCE = "composefs:"


class Mount(NamedTuple):
    """One mount: where, and of what. `device` is MAJOR:MINOR; `frozen`: nobody can write the filesystem itself."""

    point: str
    kind: str
    source: str
    options: frozenset[str]
    device: str
    frozen: bool = False


def parse(text: str) -> list[Mount]:
    """The mounts in TEXT, in their order: a later one hides an earlier one at the same place."""
    mounts = []
    for line in text.splitlines():
        words = line.split(" ")
        if "-" not in words[6:] or len(words) < 10:
            continue
        after = words.index("-", 6) + 1
        kind, source = (unescaped(word) for word in words[after : after + 2])
        own, whole = (frozenset(word.split(",")) for word in (words[5], words[-1]))
        # What ext4 shows that found errors in itself: "ro", from Linux 6.13 on "emergency_ro".
        frozen = bool(whole & {"ro", "emergency_ro"})
        mounts.append(Mount(unescaped(words[4]), kind, source, own | whole, words[2], frozen))
    return mounts


def at(point: str, mounts: Sequence[Mount]) -> Mount | None:
    """What is seen at POINT, if something is mounted just there."""
    return next((mount for mount in reversed(mounts) if mount.point == point), None)


def booted(mounts: Sequence[Mount]) -> ObjectId | None:
    """The deployment that runs: the composefs image at /. None where / is something else."""
    root = at("/", mounts)
    if root is None or not root.source.startswith(_SOURCE):
        return None
    try:
        return ObjectId(root.source.removeprefix(_SOURCE))
    except ValueError:
        return None


def usr_overlay(mounts: Sequence[Mount]) -> str | None:
    """The access mode of an overlay over /usr, as bootc's status calls it; None where there is none."""
    usr = at("/usr", mounts)
    if usr is None or usr.kind != "overlay":
        return None
    return "readOnly" if "ro" in usr.options else "readWrite"


def unescaped(text: str) -> str:
    """TEXT as it was before the kernel wrote blanks and the like as octal numbers."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text) if "\\" in text else text
