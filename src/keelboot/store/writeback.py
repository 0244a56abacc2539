"""Writing back begins while a pull still reads: at the barrier little is left to wait for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from keelboot.store.repository import Repository

_EACH = 48 << 20  # bytes that are added before the disk gets to work on them


class Writeback:
    """Tells another thread when there is enough to be worth a sync."""

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._ended = False
        self._next = _EACH

    def added(self, total: int) -> None:
        """Say that TOTAL bytes were added to the filesystem so far."""
        if total >= self._next:
            self._next = total + _EACH
            self._wanted.set()

    def hurry(self) -> None:
        """Say that for a while nothing is added: what was added may as well be written now."""
        self._wanted.set()

    def run(self, repository: Repository) -> None:
        """Work until `end` is called. Raises OSError."""
        while self._wanted.wait() and not self._ended:
            self._wanted.clear()
            repository.barrier()

    def end(self) -> None:
        """Have `run` return."""
        self._ended = True
        self._wanted.set()


@contextmanager
def writing_back(repository: Repository, *, beside: bool) -> Iterator[Writeback]:
    """Sync the store's filesystem now and then until the context is left; BESIDE says whether at all.

    The kernel tells of failed writes once: it is raised when the context is left. Raises OSError.
    """
    writeback = Writeback()
    if not beside:
        yield writeback
        return
    failed: list[OSError] = []

    def act() -> None:
        try:
            writeback.run(repository)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=act, name="writeback", daemon=True)
    thread.start()
    try:
        yield writeback
    finally:
        writeback.end()
        thread.join()
        if failed:
            repository.objects.forget_unsynced()  # what came after the barrier that failed as well
    if failed:
        raise failed[0]
