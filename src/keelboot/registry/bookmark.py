"""How far uploads got, for the process that goes on with one after the process that began it was killed.

Where that is written down is not known here: whoever copies hands in something that keeps it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from keelboot.image.digest import Digest
from keelboot.registry.name import Name


class Bookmark(Protocol):
    """Where one upload of one blob goes on. Nobody else has it at the same time. Methods raise nothing."""

    @property
    def location(self) -> str | None:
        """What was put there last, by this process or another one."""

    def put(self, location: str) -> None:
        """The upload goes on at LOCATION."""

    def remove(self) -> None:
        """There is nothing to go on with."""


# The bookmark of a blob on its way to a repository; the context is the time in which it is this process's.
Bookmarks = Callable[[Name, Digest], AbstractContextManager[Bookmark]]


class NoBookmark:
    """Keeps nothing."""

    location = None

    def put(self, location: str) -> None:
        """Forget LOCATION."""

    def remove(self) -> None:
        """There is nothing."""


@contextmanager
def no_bookmarks(_name: Name, _blob: Digest) -> Iterator[Bookmark]:
    """Begin every upload anew."""
    yield NoBookmark()
