"""Which distribution an image holds: the file os-release (freedesktop.org, os-release(5)) as a frozen value."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from keelboot.failure import InvalidImage
from keelboot.image.tree import Directory, Regular, resolve

PATHS: Final = ("/etc/os-release", "/usr/lib/os-release")  # in this order, as the manual page has it
_SIZE_MAX = 64 << 10  # bytes; real ones have some 500
_ASSIGNMENT = re.compile(r"""([A-Za-z_][A-Za-z0-9_]*)=(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|((?:[^\s"'\\]|\\.)*))\s*""")
_ID = re.compile(r"[a-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Release:
    """What the distribution calls itself. Fields are empty where it says nothing, all of them without an os-release."""

    id: str = ""
    like: tuple[str, ...] = ()  # nearest relative first
    name: str = ""
    pretty_name: str = ""
    version: str = ""
    version_id: str = ""
    version_codename: str = ""
    variant_id: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the file's TEXT: shell assignments; lines that are none are passed over. The last of two counts."""
        values: dict[str, str] = {}
        for line in text.splitlines():
            if found := _ASSIGNMENT.fullmatch(line.strip()):
                key, double, single, bare = found.groups()
                values[key] = single if single is not None else _unescaped(double if double is not None else bare)
        return cls._of(values)

    @classmethod
    def _of(cls, values: Mapping[str, str]) -> Self:
        identity = values.get("ID", "")
        name = values.get("NAME") or "Linux"
        # "linux" and "Linux" are the manual page's defaults; an id with other characters counts as none.
        return cls(
            id=identity if _ID.fullmatch(identity) else "linux",
            like=tuple(word for word in values.get("ID_LIKE", "").split() if _ID.fullmatch(word)),
            name=name,
            pretty_name=values.get("PRETTY_NAME") or name,
            version=values.get("VERSION", ""),
            version_id=values.get("VERSION_ID", ""),
            version_codename=values.get("VERSION_CODENAME", ""),
            variant_id=values.get("VARIANT_ID", ""),
        )


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def read_release(root: Directory, read: Callable[[Regular], bytes]) -> Release:
    """The release of the image whose tree is ROOT, an empty one where it says nothing. READ gives a file's content.

    Links are followed inside the tree only. Raises InvalidImage for a file that is too large, and what READ raises.
    """
    for path in PATHS:
        node = resolve(root, path)
        if isinstance(node, Regular):
            if node.size > _SIZE_MAX:
                raise InvalidImage(
                    "cannot tell which distribution the image holds",
                    why=f"its {path} has {node.size} bytes, more than {_SIZE_MAX}",
                    fix="An os-release has a few hundred bytes: see os-release(5), and put the image's own back.",
                )
            return Release.parse(read(node).decode("utf-8", "replace"))
    return Release()
