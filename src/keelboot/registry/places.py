"""Where the settings of registries lie: containers-registries.conf(5), -auth.json(5), -certs.d(5), and proxies.

Nothing is read here: an environment goes in, paths come out.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from keelboot.registry.origin import Origin


@dataclass(frozen=True, slots=True)
class Places:
    """The places in the order in which they are looked at."""

    configurations: tuple[Path, ...]  # the first that exists counts
    drop_ins: tuple[Path, ...]  # directories of *.conf, all of which count, the later ones more
    auth_files: tuple[Path, ...]  # the first that has an entry counts
    named: tuple[Path, ...]  # those of them that the environment names, and that have to be there therefore
    certificates: tuple[Path, ...]  # the first that has the host's directory counts
    proxies: "Proxies"

    @classmethod
    def usual(cls, environment: Mapping[str, str], *, uid: int, root: Path = Path("/")) -> Self:
        """The places of podman and bootc, for the user UID with ENVIRONMENT, on a system below ROOT."""
        home = environment.get("HOME") or ("/root" if uid == 0 else "")
        settings = environment.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
        own = [Path(settings) / "containers"] if settings else []
        named = environment.get("CONTAINERS_REGISTRIES_CONF")
        system = (root / "etc/containers", root / "usr/share/containers")
        named_auth = environment.get("REGISTRY_AUTH_FILE")
        runtime = environment.get("XDG_RUNTIME_DIR")
        auth = [
            # bootc's come first: who has set up the machine's images there means these.
            *([root / place / "ostree/auth.json" for place in ("etc", "run", "usr/lib")] if uid == 0 else []),
            (Path(runtime) / "containers" if runtime else root / f"run/containers/{uid}") / "auth.json",
            *(place / "auth.json" for place in own),
            *([Path(home) / ".docker/config.json"] if home else []),
        ]
        return cls(
            configurations=(Path(named),) if named else tuple(place / "registries.conf" for place in (*own, *system)),
            drop_ins=() if named else tuple(place / "registries.conf.d" for place in (*reversed(system), *own)),
            auth_files=(Path(named_auth),) if named_auth else tuple(auth),
            named=tuple(Path(path) for path in (named, named_auth) if path),
            certificates=(*(place / "certs.d" for place in own), system[0] / "certs.d", root / "etc/docker/certs.d"),
            proxies=Proxies.usual(environment),
        )


@dataclass(frozen=True, slots=True)
class Proxies:
    """The usual variables: http_proxy, https_proxy, all_proxy and no_proxy, in small or capital letters."""

    http: str | None = None
    https: str | None = None
    without: tuple[str, ...] = ()

    @classmethod
    def usual(cls, environment: Mapping[str, str]) -> Self:
        """What ENVIRONMENT says."""

        def value(name: str) -> str | None:
            return environment.get(name) or environment.get(name.upper()) or None

        every = value("all_proxy")
        without = [part.strip().lower() for part in (value("no_proxy") or "").split(",")]
        return cls(value("http_proxy") or every, value("https_proxy") or every, tuple(filter(None, without)))

    def choose(self, origin: Origin) -> str | None:
        """The URL of the proxy between here and ORIGIN; None for none. This machine itself never needs one."""
        if origin.is_loopback or any(_covers(entry, origin) for entry in self.without):
            return None
        return self.https if origin.scheme == "https" else self.http


def _covers(entry: str, origin: Origin) -> bool:
    """Whether ENTRY of no_proxy (host, .domain, host:port, address, network, *) covers ORIGIN."""
    if entry in ("*", origin.host, f"{origin.host}:{origin.port}", f"[{origin.host}]:{origin.port}"):
        return True
    try:
        return ipaddress.ip_address(origin.host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return origin.host.endswith("." + entry.removeprefix("*").removeprefix("."))
