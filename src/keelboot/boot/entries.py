"""Boot entries of the Boot Loader Specification, type 1 (UAPI.1, "Type #1 Boot Loader Entries").

An entry is a text file in `loader/entries` named `*.conf`. Boot counting (UAPI.1, "Boot counting") lives in
the name: `NAME+3-0.conf` has three tries left, `NAME+2-1.conf` failed once, and the loader passes over `NAME+0-3.conf`.
Both numbers are always written: counting down then keeps the length of the name, and on FAT its place in the directory.

Those of keelboot are called `keelboot-<generation>-<digest>`. The loader sorts by sort-key and version, newest first,
and every one of them has the same sort-key and a version that starts with the generation: so the highest generation
boots, and adding an entry is the one way to change what does (docs/formats/deployment.md, "Generations").
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from keelboot.image.tree import ObjectId

SORT_KEY: Final = "keelboot"
FIRST: Final = 1  # the generation of a machine's first entry
_ID = re.compile(r"keelboot-(?P<generation>[0-9]{6,18})-(?P<digest>[0-9a-f]{64}|[0-9a-f]{128})")
_NAME = re.compile(r"(?P<id>[A-Za-z0-9._-]+?)(?:\+(?P<left>[0-9]{1,4})(?:-(?P<done>[0-9]{1,4}))?)?\.conf")
_ARCHITECTURES = {"amd64": "x64", "arm64": "aa64"}  # as EFI spells them


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """How often an entry may still be tried, and how often it was."""

    left: int
    done: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """What an entry of keelboot is called: a number that only grows, and the deployment that boots."""

    number: int
    digest: ObjectId

    @property
    def id(self) -> str:
        """The entry's name, without counter and ending."""
        return f"keelboot-{self.number:06}-{self.digest.hex}"

    @classmethod
    def parse(cls, entry_id: str) -> Self | None:
        """What ENTRY_ID says; None for the entry of somebody else."""
        found = _ID.fullmatch(entry_id)
        return cls(int(found["generation"]), ObjectId(found["digest"])) if found else None

    def version(self, image_version: str) -> str:
        """The entry's field `version`, which the loader sorts by and shows."""
        return f"{self.number:06}-{image_version}" if image_version else f"{self.number:06}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One bootable choice. `id` is the file name without counter and ending; paths are relative to the ESP's root."""

    id: str
    title: str
    version: str
    sort_key: str
    linux: str
    initrd: str
    options: str
    architecture: str = ""  # as OCI spells it; empty fits all
    tries: Tries | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", self.id):
            raise ValueError(f"not a name for a boot entry: {self.id!r}")
        for value in (self.title, self.version, self.sort_key, self.linux, self.initrd, self.options):
            # A line break would let an image's os-release or label add fields of its own to the entry.
            if any(ord(character) < 0x20 for character in value):
                raise ValueError(f"a boot entry's field is one line: {value!r}")

    @property
    def file_name(self) -> str:
        """The name in `loader/entries`, with the counter if the entry has one."""
        if self.tries is None:
            return f"{self.id}.conf"
        return f"{self.id}+{self.tries.left}-{self.tries.done}.conf"

    def text(self) -> str:
        """The file's content."""
        architecture = _ARCHITECTURES.get(self.architecture, self.architecture)
        fields = {
            "title": self.title,
            "version": self.version,
            "sort-key": self.sort_key,
            "architecture": architecture,
            "linux": self.linux,
            "initrd": self.initrd,
            "options": self.options,
        }
        return "".join(f"{key} {value}\n" for key, value in fields.items() if value)

    @classmethod
    def parse(cls, file_name: str, text: str) -> Self:
        """Read an entry file; unknown fields and comments are passed over, the last of a repeated field counts.

        Raises ValueError where the name or a needed field is missing.
        """
        name = _NAME.fullmatch(file_name)
        if name is None:
            raise ValueError(f"not the name of a boot entry: {file_name!r}")
        fields: dict[str, str] = {}
        for line in text.splitlines():
            key, _, value = line.strip().partition(" ")
            if key and not key.startswith("#"):
                fields[key] = value.strip()
        missing = [key for key in ("linux", "initrd") if not fields.get(key)]
        if missing:
            raise ValueError(f"{file_name} has no {' and no '.join(missing)}")
        oci = {efi: oci for oci, efi in _ARCHITECTURES.items()}
        architecture = fields.get("architecture", "").lower()
        return cls(
            id=name["id"],
            title=fields.get("title", ""),
            version=fields.get("version", ""),
            sort_key=fields.get("sort-key", ""),
            linux=fields["linux"],
            initrd=fields["initrd"],
            options=fields.get("options", ""),
            architecture=oci.get(architecture, architecture),
            tries=Tries(left=int(name["left"]), done=int(name["done"] or 0)) if name["left"] else None,
        )
