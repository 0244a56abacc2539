"""Images that a later package fetches: `transports` opens registries through what was provided here.

Packages import only those before them, and reading registries comes after images. So the entry point, which may import
both, says once how registries are opened; until it has, they cannot be.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from keelboot.image.opened import Image
    from keelboot.image.reference import Reference


class Remote(Protocol):
    """Opens images that are elsewhere; raises as keelboot.image.transports does, and NetworkFailed, AccessDenied."""

    def open(self, reference: "Reference", *, architecture: str | None) -> AbstractContextManager["Image"]:
        """As `open_image`."""

    def fingerprint(self, reference: "Reference", *, architecture: str | None) -> str:
        """As `fingerprint`."""


_provided: list[Callable[[], Remote]] = []
_made: list[Remote] = []


def provide(make: Callable[[], Remote] | None) -> None:
    """Have registries opened by what MAKE returns, which is called when the first is; None: by nothing."""
    _provided[:] = [make] if make else []
    _made.clear()


def provided() -> Remote | None:
    """What opens registries, the same each time; None where nothing was provided."""
    if not _made and _provided:
        _made.append(_provided[0]())
    return _made[0] if _made else None
