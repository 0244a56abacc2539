"""Which health checks a machine has: files in health.d and services in health.toml. Names and texts in, a plan out.

    /usr/lib/keelboot/health.d, /etc/keelboot/health.d                  executables: required, as are those in
        required.d/, wanted.d/                                          required.d; wanted.d is only reported
    /usr/lib/greenboot/check, /etc/greenboot/check                      the same two directories, as greenboot has them
    /usr/lib/greenboot/{green.d,red.d}, /etc/greenboot/{green.d,red.d}  no checks: what to run when it is healthy or not
    /usr/lib/keelboot/health.toml, /etc/keelboot/health.toml            required-services, timeout-seconds

A file in /etc takes the place of the one in /usr that has the same name in the same directory; a link to /dev/null is
no check at all.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keelboot.failure import InvalidSettings

# Of the image, of the machine; the later one wins. Each with the directories below it, and whether these are required.
PLACES: Final = (
    ("usr/lib/keelboot/health.d", "usr/lib/greenboot/check"),
    ("etc/keelboot/health.d", "etc/greenboot/check"),
)
BELOW: Final = ({"": True, "required.d": True, "wanted.d": False}, {"required.d": True, "wanted.d": False})
# greenboot's programs that run after the checks, by whether these passed; what comes of them decides nothing.
AFTERWARDS: Final = {
    True: {"usr/lib/greenboot/green.d": False, "etc/greenboot/green.d": False},
    False: {"usr/lib/greenboot/red.d": False, "etc/greenboot/red.d": False},
}
SETTINGS: Final = ("usr/lib/keelboot/health.toml", "etc/keelboot/health.toml")
TIMEOUT: Final = 60.0  # seconds
_LONGEST = 24 * 3600
_MEMBERS = ("required-services", "timeout-seconds")


@dataclass(frozen=True, slots=True)
class Found:
    """A file in one of the directories: where (below /), its name, whether it may be run, whether it is masked."""

    directory: str
    name: str
    executable: bool = True
    masked: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """A check that is a program: PATH is below /."""

    path: str
    required: bool
    executable: bool

    @property
    def name(self) -> str:
        """The file's name, by which checks are ordered."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What health.toml says."""

    services: tuple[str, ...] = ()
    timeout: float = TIMEOUT  # seconds, for each check


def directories() -> Mapping[str, bool]:
    """Every directory that checks are looked for in, below /, and whether its checks are required."""
    return {
        f"{place}/{below}".rstrip("/"): required
        for places in PLACES
        for place, own in zip(places, BELOW, strict=True)
        for below, required in own.items()
    }


def scripts(found: Iterable[Found], required: Mapping[str, bool]) -> Sequence[Script]:
    """The programs to run, in the order of their names; REQUIRED are the directories that they were FOUND in."""
    chosen: dict[tuple[str, str], Found] = {}
    for one in sorted(found, key=lambda one: one.directory.startswith("etc/")):
        chosen[one.directory.removeprefix("usr/lib/").removeprefix("etc/"), one.name] = one
    plan = [
        Script(f"{one.directory}/{one.name}", required[one.directory], one.executable)
        for one in chosen.values()
        if not one.masked and not one.name.startswith(".") and not one.name.endswith("~")
    ]
    return sorted(plan, key=lambda script: (script.name, script.path))


def settings(texts: Sequence[tuple[str, bytes]]) -> Settings:
    """What the files TEXTS (path, content), lowest first, say together. Raises InvalidSettings."""
    services: list[str] = []
    timeout = TIMEOUT
    for path, content in texts:
        try:
            table = tomllib.loads(content.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise _refused(path, str(error)) from error
        unknown = sorted(set(table) - set(_MEMBERS))
        if unknown:
            raise _refused(path, f"unknown key {unknown[0]!r}")
        names = table.get("required-services", [])
        if not isinstance(names, list) or not all(isinstance(name, str) and _is_unit(name) for name in names):
            raise _refused(path, "required-services is not a list of services")
        services += [name if "." in name else f"{name}.service" for name in names]
        limit = table.get("timeout-seconds", timeout)
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit <= _LONGEST:
            raise _refused(path, "timeout-seconds is not a number of seconds")
        timeout = float(limit)
    return Settings(services=tuple(dict.fromkeys(services)), timeout=timeout)


def waited_for(jobs: str, own: Iterable[str]) -> Sequence[str]:
    """The units that systemd still works on, from the lines of `systemctl list-jobs`; not OWN, nor what only waits.

    A line is: number, unit, kind of job, "running" or "waiting".
    """
    rows = [line.split() for line in jobs.splitlines()]
    mine = set(own)
    return [row[1] for row in rows if len(row) >= 4 and row[3] == "running" and row[1] not in mine]


def _is_unit(name: str) -> bool:
    return bool(name) and not name.startswith("-") and all(char.isalnum() or char in ":-_.\\@" for char in name)


def _refused(path: str, why: str) -> InvalidSettings:
    return InvalidSettings(
        f"cannot use /{path.lstrip('/')}",
        why=why,
        fix='It may have required-services = ["nginx.service"] and timeout-seconds = 60. Correct it.',
    )
