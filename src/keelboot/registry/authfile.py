"""containers-auth.json(5), which is also Docker's config.json: credentials by host or repository, or who keeps them.

    {"auths": {"registry.example.org/os": {"auth": BASE64 OF NAME:PASSWORD, "identitytoken": TOKEN}},
     "credHelpers": {HOST: HELPER}, "credsStore": HELPER}

HELPER stands for the program docker-credential-HELPER.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from keelboot.failure import Failure
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import Members, parse
from keelboot.registry.name import DOCKER_HUB, Name

_HELPER = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who one is for a registry. Secrets stay out of `repr`, and so out of every traceback."""

    user: str
    password: str = field(repr=False)
    source: str  # the file or program they came from
    identity_token: str | None = field(default=None, repr=False)  # in place of a password, for token servers

    @property
    def basic(self) -> str:
        """The value of the header Authorization (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Helper:
    """The program docker-credential-`name` knows the credentials for `server`."""

    name: str
    server: str


@dataclass(frozen=True, slots=True)
class AuthFile:
    """One file."""

    source: str
    credentials: Mapping[str, Credentials]
    helpers: Mapping[str, str]
    store: str | None

    def find(self, name: Name) -> Credentials | Helper | None:
        """What the file has for NAME, by the longest prefix of it; None where it has nothing."""
        hosts = _HUB_HOSTS if name.host == DOCKER_HUB else (name.host,)
        for host in hosts:
            if host in self.helpers:
                return Helper(self.helpers[host], host)
        for key in _keys(hosts, name.path):
            if key in self.credentials:
                return self.credentials[key]
        if self.store is not None:
            return Helper(self.store, "https://index.docker.io/v1/" if name.host == DOCKER_HUB else name.host)
        return None


def _keys(hosts: tuple[str, ...], path: str) -> Iterator[str]:
    parts = path.split("/") if path else []
    for count in range(len(parts), -1, -1):
        yield from ("/".join((host, *parts[:count])) for host in hosts)


def parse_auth_file(source: str, data: bytes) -> AuthFile:
    """The file DATA is; SOURCE is its path, for messages. Raises Failure."""
    try:
        members = Members(parse(data), "", ("auths", "credHelpers", "credsStore"))
        auths = members.value("auths")
        entries: dict[str, Credentials] = {}
        if auths is not None:
            known = Members(auths, "auths", ())
            for key in auths if isinstance(auths, dict) else ():
                if found := _credentials(Members(known.value(key), known.where(key), _NAMES), source):
                    entries[_normal(key)] = found
        helpers = members.mapping("credHelpers")
        store = members.text("credsStore") or None
        for helper in (*helpers.values(), *([store] if store else [])):
            if not _HELPER.fullmatch(helper):
                raise Refused(f"{helper!a} is not the name of a credential helper")  # noqa: TRY301 - told with the others
    except Refused as error:
        raise Failure(
            f"cannot use the credentials in {source}",
            why=str(error),
            fix="Mend or remove the file, and log in again with `podman login`.",
        ) from error
    return AuthFile(source, entries, {_normal(key): helper for key, helper in helpers.items()}, store)


_NAMES = ("auth", "username", "password", "identitytoken", "registrytoken", "email", "serveraddress")


def _credentials(members: Members, source: str) -> Credentials | None:
    token = members.text("identitytoken") or None
    text = members.text("auth") or ""
    try:
        user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, ValueError) as error:
        raise Refused(f"{members.where('auth')} is not base64 of NAME:PASSWORD") from error
    password = password.rstrip("\0")
    if not text:
        user, password = members.text("username") or "", members.text("password") or ""
    elif not colon:
        raise Refused(f"{members.where('auth')} is not base64 of NAME:PASSWORD")
    return Credentials(user, password, source, token) if user or token else None


def _normal(key: str) -> str:
    """KEY as names begin: Docker writes whole URLs, of which the host counts."""
    scheme, separator, rest = key.partition("://")
    if separator and scheme in ("http", "https"):
        return rest.partition("/")[0]
    return key.rstrip("/")
