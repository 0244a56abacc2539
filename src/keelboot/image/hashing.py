"""Work of a third thread: digests of what is read and expanded, made beside both.

Hashing lets go of the interpreter's lock. It is a third of the work on a gzip layer, and nothing waits for it until the
layer's end.
"""

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

_AHEAD = 8  # blocks of a megabyte at most: bounded memory


class Hash(Protocol):
    """A digest under way; the part of hashlib's interface that is used."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Beside:
    """A digest that another thread makes, in the order of the calls."""

    def __init__(self, algorithm: str, work: "queue.Queue[Callable[[], object] | None]") -> None:
        self._hash, self._work = hashlib.new(algorithm), work

    def update(self, data: bytes, /) -> None:
        self._work.put(lambda: self._hash.update(data))

    def hexdigest(self) -> str:
        done = threading.Event()
        self._work.put(done.set)
        done.wait()
        return self._hash.hexdigest()


@contextmanager
def hashing(*, beside: bool) -> Iterator[Callable[[str], Hash]]:
    """What makes a new digest by its algorithm's name; BESIDE says that one thread makes them all, until the end."""
    if not beside:
        yield hashlib.new
        return
    work: queue.Queue[Callable[[], object] | None] = queue.Queue(_AHEAD)

    def act() -> None:
        while (item := work.get()) is not None:
            item()

    thread = threading.Thread(target=act, name="digests", daemon=True)
    thread.start()
    try:
        yield lambda algorithm: _Beside(algorithm, work)
    finally:
        work.put(None)
        thread.join()
