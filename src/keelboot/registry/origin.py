"""Where a request goes: scheme, host and port, to which credentials are bound; and where redirects may lead.

another path of the same origin             followed, with credentials
another origin, even another port           followed, without credentials
from https to http                          refused
from elsewhere to this machine (localhost, 127.0.0.1, ::1) or to link-local addresses    refused
file: and other schemes, URLs with user names                                            refused
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urljoin, urlsplit

from keelboot.image.refusal import Refused

_PORTS: Final = {"http": 80, "https": 443}
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_URL = re.compile("[!-~]{1,8192}")


@dataclass(frozen=True, slots=True)
class Origin:
    """The end of a connection. Two URLs with equal origins are answered by the same server."""

    scheme: str
    host: str  # lower case, IPv6 addresses without brackets
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """The origin of URL. Raises Refused for what is not a plain http or https URL."""
        if not _URL.fullmatch(url):
            raise Refused("it leads to a URL that is none")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise Refused(f"it leads to the URL {url[:200]!a}, which is none") from error
        if parts.scheme not in _PORTS or not parts.hostname:
            raise Refused(f"it leads to {url[:200]!a}, which is not at an http server")
        if parts.username is not None or parts.password is not None:
            raise Refused("it leads to a URL with a user name in it")
        return cls(parts.scheme, parts.hostname.lower(), port or _PORTS[parts.scheme])

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, by one of its usual names."""
        return self.host in _LOOPBACK

    @property
    def is_address(self) -> bool:
        """Whether the host is an address, not a name."""
        return self._address is not None

    @property
    def _address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def neighbourhood(self) -> str:
        """Which network only this machine sees the host is in: that inside it, its own wire, or (empty) neither."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return "machine"
        address = self._address
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address
        if address is None:
            return ""
        return "machine" if address.is_loopback or address.is_unspecified else "wire" if address.is_link_local else ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def redirected(url: str, location: str) -> str:
    """The URL to ask next when URL answers with a redirect to LOCATION. Raises Refused."""
    if not _URL.fullmatch(location):
        raise Refused("it redirects to a URL that is none")
    try:
        target = urljoin(url, location).partition("#")[0]
    except ValueError as error:
        raise Refused(f"it redirects to {location[:200]!a}, which is no URL") from error
    old, new = Origin.of(url), Origin.of(target)
    if old.scheme == "https" and new.scheme == "http":
        raise Refused(f"it redirects from https to {new}, which anyone on the way could read and change")
    if new.neighbourhood not in ("", old.neighbourhood):
        raise Refused(f"it redirects to {new}, an address of this machine's own network")
    return target
