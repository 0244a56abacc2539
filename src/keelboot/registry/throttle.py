"""A limit of how many bytes a second come and go: one for all threads and for all processes that were forked since."""

import multiprocessing
import time
from collections.abc import Callable
from typing import Final

_BURST: Final = 0.25  # seconds' worth of bytes that may go at once
_WAIT_MAX: Final = 5.0  # seconds; a process that was killed while it counted must not stop the others


class Throttle:
    """Lets RATE bytes a second pass, in both directions together."""

    def __init__(
        self,
        rate: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.rate, self._clock, self._sleep = rate, clock, sleep
        # Shared with children: when what has passed so far is paid for, by a clock that all processes have in common.
        self._paid = multiprocessing.get_context("fork").Value("d", 0.0)

    @property
    def piece(self) -> int:
        """How many bytes to take at once, so that they pass evenly."""
        return max(1024, int(self.rate * _BURST) // 4)

    def passed(self, count: int) -> None:
        """Wait until COUNT bytes more are allowed."""
        lock = self._paid.get_lock()
        held = lock.acquire(timeout=_WAIT_MAX)
        try:
            now = self._clock()
            paid = max(self._paid.get_obj().value, now - _BURST) + count / self.rate
            self._paid.get_obj().value = paid
        finally:
            if held:
                lock.release()
        if paid > now:
            self._sleep(paid - now)
