"""What a registry asks for when it answers 401: the header WWW-Authenticate (RFC 9110, 11.6.1), and token requests.

The credentials of a registry go to the registry itself. Its token server, the `realm`, gets them if it is

    on the same host, over the same scheme or https;
    on a host above it (registry.example.org -> example.org), over https: whoever has that name can have the other;
    one of the token servers listed here, over https.

Any other token server is asked over https without them, or gets those that the user has for that host; over plain
http it is not asked at all.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from keelboot.image.refusal import Refused
from keelboot.image.strictjson import Members, parse
from keelboot.registry.origin import Origin

_TOKEN_SERVERS: Final = {
    "registry-1.docker.io": "auth.docker.io",
    "registry.digitalocean.com": "api.digitalocean.com",
}
_WORD = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(rf"({_WORD})(?=[\s,]|$)(?!\s*=)\s*")
_TOKEN = re.compile("[!-~]{1,65536}")


@dataclass(frozen=True, slots=True)
class Basic:
    """The registry wants a name and a password."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """The registry wants a token, which the server at `realm` gives."""

    realm: str
    service: str | None
    scope: str | None

    @property
    def origin(self) -> Origin:
        """Where the token server is. Raises Refused."""
        return Origin.of(self.realm)

    def asking(self, wanted: Sequence[str], *, more: bool) -> tuple[str, ...]:
        """The scopes to ask for: those that the registry named, else those WANTED; both where MORE says so."""
        if not more and self.scope:
            return (self.scope,)
        return merged(*wanted, self.scope or "")

    def form(self, scopes: Sequence[str]) -> dict[str, str]:
        """What is posted to the token server to ask for SCOPES."""
        return ({"service": self.service} if self.service else {}) | {"scope": " ".join(scopes)}

    def url(self, scopes: Sequence[str]) -> str:
        """What to get for a token that is good for SCOPES."""
        parts = urlsplit(self.realm)
        service = [("service", self.service)] if self.service else []
        query = [*parse_qsl(parts.query), *service, *(("scope", scope) for scope in scopes)]
        return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))


def merged(*scopes: str) -> tuple[str, ...]:
    """SCOPES, each TYPE:NAME:ACTION,ACTION or several of these with spaces: every name once, with all its actions."""
    found: dict[str, list[str]] = {}
    for scope in " ".join(scopes).split():
        resource, _, actions = scope.rpartition(":")
        known = found.setdefault(resource, [])
        known.extend(action for action in actions.split(",") if action not in known)
    return tuple(f"{resource}:{','.join(actions)}" for resource, actions in found.items())


def parse_challenges(headers: Sequence[str]) -> Basic | Bearer | None:
    """What the values of WWW-Authenticate in HEADERS ask for, the token first; None for neither."""
    offered = [challenge for header in headers for challenge in _challenges(header[:8192])]
    for scheme, parameters in offered:
        if scheme == "bearer" and parameters.get("realm"):
            return Bearer(parameters["realm"], parameters.get("service"), parameters.get("scope"))
    return Basic() if any(scheme == "basic" for scheme, _ in offered) else None


def _challenges(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    at = 0
    while scheme := _SCHEME.match(header, at):
        at = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, at):
            name, quoted, plain = parameter.groups()
            parameters.setdefault(name.lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
            at = _separator(header, parameter.end())
        yield scheme[1].lower(), parameters
        at = _separator(header, at)


def _separator(header: str, at: int) -> int:
    rest = header[at:]
    return at + len(rest) - len(rest.lstrip(" \t,"))


def trusts(registry: Origin, realm: Origin) -> bool:
    """Whether the token server REALM may have the credentials of REGISTRY."""
    if realm.host == registry.host:
        return realm.scheme == "https" or registry.scheme == "http"
    if realm.scheme != "https" or registry.scheme != "https":
        return False
    above = "." in realm.host and not realm.host[-1:].isdigit() and registry.host.endswith("." + realm.host)
    return above or _TOKEN_SERVERS.get(registry.host) == realm.host


def may_ask(registry: Origin, realm: Origin) -> bool:
    """Whether the token server REALM of REGISTRY is asked at all."""
    return realm.scheme == "https" or trusts(registry, realm)


def parse_token(data: bytes) -> str:
    """The token in a token server's answer. Raises Refused."""
    members = Members(parse(data), "", ("token", "access_token", "expires_in", "issued_at", "refresh_token"))
    token = members.text("token") or members.text("access_token")
    if not token or not _TOKEN.fullmatch(token):
        raise Refused("the token server's answer has no token")
    return token
