"""dpkg's database of packages: stanzas of `Field: value`, with an empty line between (deb822(5), deb-control(5))."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from keelboot.image.refusal import Refused

_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_VERSION = re.compile(r"[A-Za-z0-9.+:~-]+")
_SOURCE = re.compile(r"([a-z0-9][a-z0-9.+-]*)(?: \(([A-Za-z0-9.+:~-]+)\))?")
_ARCHITECTURE = re.compile(r"[a-z0-9-]+")
_PACKAGES_MAX = 50_000


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One installed package; `source` is what it was built from, with that one's version."""

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    maintainer: str = ""
    homepage: str = ""
    summary: str = ""


def parse_status(data: bytes) -> tuple[Package, ...]:
    """The packages that the database DATA calls installed, by name; those only configured are none. Raises Refused."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("dpkg's database is not UTF-8") from error
    found = []
    for stanza in _stanzas(text):
        # Images without dpkg, as distroless ones, keep a file for each package, without a status.
        if stanza.get("status", "install ok installed").split()[-1:] != ["installed"]:
            continue
        found.append(_package(stanza))
        if len(found) > _PACKAGES_MAX:
            raise Refused(f"dpkg's database has more than {_PACKAGES_MAX} packages")
    return tuple(sorted(set(found)))


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """The fields of each stanza, by their names in small letters; of those that go on, the first line."""
    fields: dict[str, str] = {}
    for line in (*text.split("\n"), ""):
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif line[0] not in " \t#":
            name, colon, value = line.partition(":")
            if not colon or name.lower() in fields:
                raise Refused(f"dpkg's database has a line {line[:80]!a}")
            fields[name.lower()] = value.strip()


def _package(stanza: dict[str, str]) -> Package:
    name, version = stanza.get("package", ""), stanza.get("version", "")
    architecture = stanza.get("architecture", "")
    source = _SOURCE.fullmatch(stanza.get("source") or name)
    if not (source and _NAME.fullmatch(name) and _VERSION.fullmatch(version) and _ARCHITECTURE.fullmatch(architecture)):
        raise Refused(f"dpkg's database has a package {name[:80]!a} of version {version[:80]!a} for {architecture!a}")
    return Package(
        name,
        version,
        architecture,
        source[1],
        source[2] or version,
        stanza.get("maintainer", ""),
        stanza.get("homepage", ""),
        stanza.get("description", ""),
    )
