"""A port of this computer that leads to a port of the guest. Pure; `ports` sees whether it is free."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

_SYNTAX = re.compile(r"(?:(?P<address>[0-9.]+):)?(?P<host>[0-9]{1,5}):(?P<guest>[0-9]{1,5})(?:/(?P<protocol>tcp|udp))?")
LOOPBACK = "127.0.0.1"
SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class Forward:
    """HOST at ADDRESS leads to GUEST; host port 0 stands for any free one until `chosen` settles it."""

    host: int
    guest: int
    address: str = LOOPBACK
    protocol: str = "tcp"

    def __post_init__(self) -> None:
        ipaddress.IPv4Address(self.address)  # QEMU's user network forwards from IPv4 addresses only
        if not 0 <= self.host <= 65535 or not 1 <= self.guest <= 65535 or self.protocol not in ("tcp", "udp"):
            raise ValueError(f"not a port to forward: {self}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read [ADDRESS:]HOST:GUEST[/tcp|/udp]; raises ValueError."""
        match = _SYNTAX.fullmatch(text)
        if match is None:
            raise ValueError(f"not [ADDRESS:]HOST:GUEST[/udp]: {text}")
        return cls(int(match["host"]), int(match["guest"]), match["address"] or LOOPBACK, match["protocol"] or "tcp")

    def __str__(self) -> str:
        return f"{self.address}:{self.host}:{self.guest}/{self.protocol}"
