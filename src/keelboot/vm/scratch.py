"""A directory for a run's own disk, gone with the run; one that a killed run left is removed by the next."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "keelboot-run-"


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A new directory in PARENT; raises OSError where none can be made.

    A lock on it says that its run lives. It ends with the process, however that ends, so that a directory of this name
    without one is a dead run's.
    """
    for old in parent.glob(_PREFIX + "*"):
        _remove_if_left(old)
    path, lock = _made(parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _made(parent: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)  # another run took it for a dead one's before it was locked


def _remove_if_left(path: Path) -> None:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return  # another run was quicker, or it is not this user's
    try:
        # PARENT is often open to all: what another user put there is left alone, also by root.
        if os.fstat(lock).st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)
