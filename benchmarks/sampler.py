"""Runs keelboot while a timer looks 1000 times a second where it is; a program of its own.

A signal handler of Python runs once the call under way has returned, so each look counts as the time since the last
one: a call of the C libraries that takes long is seen once, with its length. The time is the wall clock's, so waiting
for the disk is seen as well.

usage: sampler.py RESULT WORD...

RESULT becomes JSON, {"FILE:FUNCTION:LINE": seconds}, of the innermost line of keelboot.
"""

import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import keelboot
from keelboot.cli.main import main

_INTERVAL = 0.001
_ROOT = str(Path(keelboot.__file__).parent) + "/"


class Sampler:
    """Counts seconds by the line they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, _: int, frame: FrameType | None) -> None:
        now = time.perf_counter()
        while frame and not frame.f_code.co_filename.startswith(_ROOT):
            frame = frame.f_back
        if frame:
            code = frame.f_code
            where = f"{code.co_filename.removeprefix(_ROOT)}:{code.co_qualname}:{frame.f_lineno}"
            self.seconds[where] = self.seconds.get(where, 0) + now - self._last
        self._last = now


if __name__ == "__main__":
    sampler = Sampler()
    signal.signal(signal.SIGALRM, sampler)
    signal.setitimer(signal.ITIMER_REAL, _INTERVAL, _INTERVAL)
    code = main(sys.argv[2:])
    signal.setitimer(signal.ITIMER_REAL, 0)
    Path(sys.argv[1]).write_text(json.dumps(sampler.seconds), encoding="utf-8")
    sys.exit(code)
