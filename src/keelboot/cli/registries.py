"""How the verbs open images in registries: with the settings of the user who calls."""

import os
from typing import TYPE_CHECKING

from keelboot.image import remote

if TYPE_CHECKING:
    from keelboot.registry.opening import Registries


def provide() -> None:
    """Let `keelboot.image.transports` open images in registries; nothing is loaded or read before it does."""
    remote.provide(registries)


def registries() -> "Registries":
    """All registries, for one operation. Raises MissingTool."""
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

    return Registries(Places.usual(command.environment(), uid=os.geteuid()))
