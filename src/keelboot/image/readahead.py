"""Work of a second thread: blocks are made ahead of their reader, a few at a time.

Reading, hashing and decompression all let go of the interpreter's lock, so two cores are used without a second process.
"""

import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_AHEAD = 4  # blocks of a megabyte: bounded memory, and enough to smooth the two sides
# Seconds. The reader lets go of the lock for a moment with each of its many small hashes and takes it back before the
# other thread has woken up; by default that one then waits for 5 ms, longer than it takes to make a block.
_SWITCH = 0.0005


@contextmanager
def read_ahead(blocks: Iterator[bytes]) -> Iterator[Iterator[bytes]]:
    """BLOCKS as an iterator that a thread runs ahead of; what it raises is raised here, in its place.

    Leaving the context stops the thread at its next block and waits for it.
    """
    ready: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def make() -> None:
        try:
            for block in blocks:
                ready.put(block)
                if stopped.is_set():
                    return
            ready.put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the reader's thread
            ready.put(error)

    def take() -> Iterator[bytes]:
        while (block := ready.get()) is not None:
            if isinstance(block, BaseException):
                raise block
            yield block

    thread = threading.Thread(target=make, name="layer", daemon=True)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    thread.start()
    try:
        yield take()
    finally:
        sys.setswitchinterval(interval)
        stopped.set()
        while thread.is_alive():
            # The thread may wait for room: make it, until it has seen that nobody reads on.
            with suppress(queue.Empty):
                ready.get_nowait()
            thread.join(timeout=0.01)
