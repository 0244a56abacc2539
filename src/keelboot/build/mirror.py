"""Where this machine gets its distribution's packages from, and what another suite of the same archive would be there.

No host name is known here: a mirror is what apt of this machine is configured with, or what the user names.
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from keelboot import command
from keelboot.failure import CommandFailed

# Not in PATH: apt keeps it for programs (apt-helper is in apt's own package, documented by its --help).
_HELPER = "/usr/lib/apt/apt-helper"
# The parts of an archive that belong to a stable suite; each may be missing (sid has none).
_COMPANIONS = ("updates", "security")


@dataclass(frozen=True, slots=True)
class Target:
    """An archive that apt of this machine reads: deb SOURCE."""

    uri: str
    suite: str


@dataclass(frozen=True, slots=True)
class Source:
    """A suite of an archive that packages are taken from."""

    uri: str
    suite: str

    @property
    def release_file(self) -> str:
        return f"{self.uri}/dists/{self.suite}/InRelease"

    def line(self, components: Sequence[str], keyring: str) -> str:
        """The line of sources.list(5)."""
        return f"deb [signed-by={keyring}] {self.uri} {self.suite} {' '.join(components)}"


def configured() -> list[Target]:
    """What apt of this machine reads; nothing where there is no apt."""
    if command.find("apt-get") is None:
        return []
    form = "$(REPO_URI) $(RELEASE)"
    argv = ["apt-get", "indextargets", "--no-release-info", "--format", form, "Created-By: Packages"]
    printed = command.run(argv, purpose="ask apt for its mirrors").stdout.decode().splitlines()
    words = [line.split() for line in printed]
    return [
        Target(uri.rstrip("/"), suite) for uri, suite in dict.fromkeys(tuple(pair) for pair in words if len(pair) == 2)
    ]


def release(directory: Path = Path("/")) -> tuple[str, str]:
    """The id and the code name of the system under DIRECTORY, from os-release(5); empty where it does not tell."""
    for path in ("etc/os-release", "usr/lib/os-release"):
        if (directory / path).is_file():
            text = (directory / path).read_text(errors="replace")
            fields = dict(re.findall(r"^(\w+)=[\"']?([^\"'\n]*)", text, re.MULTILINE))
            return fields.get("ID", ""), fields.get("VERSION_CODENAME", "")
    return "", ""


def candidates(suite: str, own_codename: str, targets: Sequence[Target]) -> tuple[Source | None, list[Source]]:
    """SUITE's main archive and its companions, where a machine of OWN_CODENAME that reads TARGETS has its own."""
    where = {target.suite: target.uri for target in reversed(targets)}
    main = where.get(own_codename)
    if main is None:
        return None, []
    companions = [
        Source(uri, f"{suite}-{part}")
        for part in _COMPANIONS
        if (uri := where.get(f"{own_codename}-{part}")) is not None
    ]
    return Source(main, suite), companions


def at(mirror: str, suite: str) -> tuple[Source, list[Source]]:
    """SUITE's main archive and the companions it may have at MIRROR."""
    uri = mirror.rstrip("/")
    return Source(uri, suite), [Source(uri, f"{suite}-{part}") for part in _COMPANIONS]


def changed(source: Source, scratch: Path) -> datetime | None:
    """When SOURCE was last published, by the Date of its release file; None if the archive has no such suite.

    Not proof of anything: apt checks the signature when it takes packages. Raises CommandFailed when the archive cannot
    be reached, and ValueError when what it sends is no release file.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        into = Path(directory, "InRelease")
        argv = [_HELPER, "download-file", source.release_file, str(into)]
        got = command.run(argv, purpose=f"look at the suite {source.suite}", accept=(0, 100))
        if got.returncode != 0:
            said = (got.stderr + got.stdout).decode(errors="replace")
            if re.search(r"\b404\b|File not found", said):
                return None
            raise CommandFailed(
                f"cannot look at the suite {source.suite}",
                why=said.strip().splitlines()[0] if said.strip() else "apt-helper said nothing",
                fix=f"Check that this answers: {source.release_file}",
            )
        text = into.read_text(errors="replace")
    date = re.search(r"^Date: (.+)$", text, re.MULTILINE)
    if date is None:
        raise ValueError(f"{source.release_file} has no date")
    return parsedate_to_datetime(date[1]).astimezone(UTC)


def checks_expiry() -> bool:
    """Whether apt of this machine refuses release files that have expired; a frozen mirror's do."""
    argv = ["apt-config", "dump", "--format", "%v%n", "Acquire::Check-Valid-Until"]
    said = command.run(argv, purpose="read apt's configuration").stdout.decode().strip().lower()
    return said not in {"false", "no", "0", "off", "without", "disable"}


def proxies() -> list[str]:
    """The lines of apt's configuration that name a proxy."""
    dump = command.run(["apt-config", "dump"], purpose="read apt's configuration").stdout.decode().splitlines()
    return [line for line in dump if re.match(r"Acquire::https?::Proxy[: ]", line) and not line.endswith('"";')]
