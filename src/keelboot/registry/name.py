"""The full name of a repository: the registry's host, and the path there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

DOCKER_HUB: Final = "docker.io"


@dataclass(frozen=True, slots=True)
class Name:
    """`str` gives the name as configuration files and signatures have it: registry.example.org:5000/os/web."""

    host: str  # with its port, if it has one
    path: str

    @classmethod
    def parse(cls, location: str, aliases: Mapping[str, str] | None = None) -> Self:
        """The name that LOCATION, without tag and digest, stands for.

        What has no host is looked up in ALIASES (short to full name); else it is at Docker's registry, and in
        `library` there if it has one part only. No other registry is searched: whoever registers the name first would
        decide what runs.
        """
        host, slash, path = location.partition("/")
        if slash and ("." in host or ":" in host or host == "localhost" or host != host.lower()):
            if host in ("index.docker.io", DOCKER_HUB):
                return cls(DOCKER_HUB, path if "/" in path else f"library/{path}")
            return cls(host, path)
        full = (aliases or {}).get(location)
        if full is not None and full != location:
            return cls.parse(full)
        return cls(DOCKER_HUB, location if slash else f"library/{location}")

    def __str__(self) -> str:
        return f"{self.host}/{self.path}"
