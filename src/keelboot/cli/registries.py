"""How the verbs open images in registries: with the settings of the user who calls."""

import os
from typing import TYPE_CHECKING

from keelboot.image import remote

if TYPE_CHECKING:
    from keelboot.registry.opening import Registries
    from keelboot.registry.throttle import Throttle

_SLOWEST = 64 << 10  # bytes a second, for all connections together


def provide() -> None:
    """Let `keelboot.image.transports` open images in registries; nothing is loaded or read before it does."""
    remote.provide(registries)


def registries(*, limit_rate: str | None = None) -> "Registries":
    """All registries, for one operation, at LIMIT_RATE or the rate of the environment. Raises MissingTool, BadValue."""
    from keelboot import command
    from keelboot.failure import MissingTool

    try:
        from keelboot.registry.opening import Registries
    except ModuleNotFoundError as error:
        if error.name != "urllib3":
            raise
        raise MissingTool(
            "cannot open images in registries",
            why="the Python library urllib3 is not installed",
            fix="Install it: `apt-get install python3-urllib3`, or `pip install urllib3`.",
        ) from error
    from keelboot.registry.places import Places

    rate = limit_rate or os.environ.get("KEELBOOT_LIMIT_RATE")
    return Registries(Places.usual(command.environment(), uid=os.geteuid()), throttle=_throttle(rate) if rate else None)


def _throttle(text: str) -> "Throttle":
    from keelboot.cli.values import BadValue, size_in_bytes
    from keelboot.registry.throttle import Throttle

    rate = size_in_bytes(text)
    if rate < _SLOWEST:
        raise BadValue(
            f"cannot use the rate {text!r}",
            why=f"below {_SLOWEST >> 10} KiB a second, connections count as broken",
            fix="Write it like 500K or 2M: bytes a second.",
        )
    return Throttle(rate)
