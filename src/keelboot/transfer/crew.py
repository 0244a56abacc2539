"""Several things at once, in threads: what they do is waiting, hashing and compressing, all of it without the lock.

One failure ends all of it, and so does Ctrl-C: CUT makes the others fail wherever they wait.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

Result = TypeVar("Result")
_LEAVE: Final = 10.0  # seconds that the others have to clean up


class _Ended(Exception):  # noqa: N818 - it is what happened
    """Somebody else failed."""


def run(tasks: Sequence[Callable[[], Result]], *, jobs: int, cut: Callable[[], None]) -> list[Result]:
    """What TASKS return, in their order, in which they are begun too, JOBS at a time. Raises the first failure.

    CUT is called when the others have to end.
    """
    results: dict[int, Result] = {}
    waiting = iter(range(len(tasks)))
    done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    lock, stopped = threading.Lock(), threading.Event()

    def work() -> None:
        try:
            while True:
                with lock:
                    number = next(waiting, None)
                if number is None:
                    done.put(None)
                    return
                if stopped.is_set():
                    raise _Ended  # noqa: TRY301 - told like all failures
                results[number] = tasks[number]()
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            done.put(error)

    threads = [threading.Thread(target=work, name="transfer", daemon=True) for _ in range(min(jobs, len(tasks)))]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            failure = done.get()
            if failure is not None:
                raise failure  # noqa: TRY301 - the others end the same way
    except BaseException:
        stopped.set()
        cut()
        for thread in threads:
            thread.join(_LEAVE)
        raise
    return [results[number] for number in range(len(tasks))]
