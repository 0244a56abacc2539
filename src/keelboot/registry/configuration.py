"""registries.conf(5), version 2: mirrors, blocked and insecure registries, other places, short names.

The file that comes later replaces what an earlier one says of the same prefix or alias. Version 1 is refused, as it
may block registries, and half of its meaning must not be lost in silence.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keelboot.failure import AccessDenied, Failure
from keelboot.registry.name import Name

_PULLS = ("all", "digest-only", "tag-only")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a repository is asked for."""

    name: Name
    insecure: bool = False  # http, or a certificate that nobody vouches for, will do
    mirror: bool = False


@dataclass(frozen=True, slots=True)
class Mirror:
    """Another place of the same images."""

    location: str
    insecure: bool = False
    pull: str = "all"  # or digest-only, tag-only


@dataclass(frozen=True, slots=True)
class Registry:
    """What a table [[registry]] says of all names that begin with `prefix`."""

    prefix: str
    location: str  # empty: as the name says
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()

    def matched(self, name: str) -> int:
        """How many characters of NAME the prefix covers; 0 when it does not match."""
        if self.prefix.startswith("*."):
            host = name.partition("/")[0]
            return len(host) if host.partition(":")[0].endswith(self.prefix[1:]) else 0
        return len(self.prefix) if name == self.prefix or name.startswith(self.prefix + "/") else 0


@dataclass(frozen=True, slots=True)
class Configuration:
    """All files together."""

    registries: Mapping[str, Registry] = field(default_factory=dict)  # by prefix
    aliases: Mapping[str, str] = field(default_factory=dict)

    def places(self, name: Name, *, by_digest: bool) -> Sequence[Place]:
        """Where to ask for NAME, mirrors first. Raises AccessDenied when it is blocked."""
        text = str(name)
        matching = [registry for registry in self.registries.values() if registry.matched(text)]
        if not matching:
            return (Place(name),)
        registry = max(matching, key=lambda one: (not one.prefix.startswith("*."), len(one.prefix)))
        if registry.blocked:
            raise AccessDenied(
                f"cannot ask {name.host} for images",
                why=f"registries.conf blocks {registry.prefix}",
                fix="Use an image from another registry, or have the administrator take the line `blocked = true` out.",
            )
        rest = text[registry.matched(text) :]
        skipped = "tag-only" if by_digest else "digest-only"
        mirrors = [
            Place(Name.parse(mirror.location + rest), mirror.insecure, mirror=True)
            for mirror in registry.mirrors
            if mirror.pull != skipped
        ]
        own = Name.parse(registry.location + rest) if registry.location else name
        return (*mirrors, Place(own, registry.insecure))


def parse_configuration(files: Iterable[tuple[str, bytes]]) -> Configuration:
    """What FILES, each a name and its content, say together. Raises Failure, which names the file."""
    registries: dict[str, Registry] = {}
    aliases: dict[str, str] = {}
    for path, content in files:
        try:
            document = tomllib.loads(content.decode())
            for table in _tables(document, "registry"):
                registry = _registry(table)
                registries[registry.prefix] = registry
            for short, full in _table(document, "aliases").items():
                aliases[short] = _text(full, f"aliases.{short}")
            if isinstance(document.get("registries"), dict):
                raise ValueError("[registries.search], [registries.insecure] and [registries.block] are version 1")  # noqa: TRY301, TRY004 - told with the others
        except ValueError as error:  # tomllib's and the decoder's own classes are among these
            raise Failure(
                f"cannot use {path}",
                why=f"it is not a registries.conf: {str(error)[:300]}",
                fix="Mend it; `man containers-registries.conf` has examples.",
            ) from error
    return Configuration(registries, aliases)


def _registry(table: Mapping[str, Any]) -> Registry:
    location = _text(table.get("location", ""), "registry.location").rstrip("/")
    prefix = _text(table.get("prefix", ""), "registry.prefix").rstrip("/") or location
    if not prefix or "://" in prefix + location:
        raise ValueError("a registry needs a prefix or a location, like registry.example.org/os, without http://")
    by_digest = _flag(table, "mirror-by-digest-only")
    mirrors = tuple(_mirror(mirror, by_digest=by_digest) for mirror in _tables(table, "mirror"))
    return Registry(prefix, location, _flag(table, "insecure"), _flag(table, "blocked"), mirrors)


def _mirror(table: Mapping[str, Any], *, by_digest: bool) -> Mirror:
    location = _text(table.get("location", ""), "mirror.location").rstrip("/")
    if not location or "://" in location:
        raise ValueError("a mirror needs a location, like mirror.example.org/os, without http://")
    pull = _text(table.get("pull-from-mirror", "all"), "mirror.pull-from-mirror")
    if pull not in _PULLS:
        raise ValueError(f"pull-from-mirror is {pull!a}, and may be {', '.join(_PULLS)}")
    return Mirror(location, _flag(table, "insecure"), "digest-only" if by_digest else pull)


def _tables(document: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = document.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"[[{name}]] is not a list of tables")
    return value


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"[{name}] is not a table")  # noqa: TRY004 - told like all other faults of the text
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a string")  # noqa: TRY004 - told like all other faults of the text
    return value


def _flag(table: Mapping[str, Any], name: str) -> bool:
    value = table.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name} is neither true nor false")  # noqa: TRY004 - told like all other faults of the text
    return value
