"""What a verb takes from its surroundings: where to remember things, and where big temporary files may lie."""

import os
from pathlib import Path

from keelboot.failure import NotWritable


def cache() -> Path:
    """The directory for keelboot in the user's cache (XDG base directory specification); it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keelboot"


def scratch() -> Path:
    """A directory for files as big as an image: TMPDIR, else /var/tmp, since /tmp may lie in memory.

    Raises NotWritable.
    """
    chosen = Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 - files there get names of their own
    if not os.access(chosen, os.W_OK | os.X_OK):
        raise NotWritable(
            f"cannot use {chosen}", why="it is no directory this user may write", fix="Set TMPDIR to one."
        )
    return chosen
