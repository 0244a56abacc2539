"""Progress for programs: bootc's JSON lines (its progress schema, version 0), one object a line into a pipe.

Lines that only tell how far something is are dropped when they come too fast. A reader that has gone ends the progress
and not the work.
"""

import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from keelboot.cli.values import BadValue
from keelboot.progress import Step

VERSION: Final = "0.1.0"
_INTERVAL = 0.2  # seconds
# bootc's tasks, in their order; what is in none of them prepares the boot.
_TASKS = {
    "Measuring layers": "pulling",
    "Reading layers": "pulling",
    "Writing the composefs image": "importing",
    "Syncing": "importing",
}


def to_descriptor(number: int, image: str) -> "ProgressLines":
    """Progress of a verb about IMAGE, into the pipe or file that is open as NUMBER. Raises BadValue."""
    try:
        mode = os.fstat(number).st_mode if number > 2 else 0
        fits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)
    except OSError:
        fits = False
    if not fits:
        raise BadValue(
            f"cannot tell progress to the file descriptor {number}",
            why="it is not an open pipe or file with a number above 2",
            fix="Open one for it, as in: keelboot upgrade --progress-fd 3 3> >(cat)",
        )
    return ProgressLines(number, image)


class ProgressLines:
    """A Progress that writes to a descriptor."""

    def __init__(self, descriptor: int, image: str) -> None:
        self._descriptor, self._image = descriptor, image
        self._open = True
        self._last = 0.0
        self._subtasks: dict[str, list[dict[str, Any]]] = {}
        self.send({"type": "Start", "version": VERSION})

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Step]:
        task = _TASKS.get(title, "staging")
        if total is not None:
            counted = _Bytes(self, task, title, total)
            yield counted
            counted.tell(droppable=False)
            return
        subtasks = self._subtasks.setdefault(task, [])
        own = {"subtask": title.lower().replace(" ", "_"), "description": title, "id": title, "completed": False}
        subtasks.append(own)
        self._steps(task, title)
        yield _Uncounted()
        own["completed"] = True
        self._steps(task, title)

    def send(self, event: dict[str, Any], *, droppable: bool = False) -> None:
        """Write EVENT as a line; a DROPPABLE one only if none was written just before."""
        now = time.monotonic()
        if not self._open or (droppable and now - self._last < _INTERVAL):
            return
        self._last = now
        data = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            self._open = False

    def bytes(self, task: str, title: str, done: int, total: int, *, droppable: bool) -> None:
        """Tell that DONE of TOTAL bytes of TASK are there."""
        self.send(
            {
                "type": "ProgressBytes",
                "task": task,
                "description": title,
                "id": self._image,
                "bytesCached": 0,
                "bytes": done,
                "bytesTotal": total,
                "stepsCached": 0,
                "steps": int(done >= total),
                "stepsTotal": 1,
                "subtasks": [],
            },
            droppable=droppable,
        )

    def _steps(self, task: str, title: str) -> None:
        subtasks = self._subtasks[task]
        self.send(
            {
                "type": "ProgressSteps",
                "task": task,
                "description": title,
                "id": self._image,
                "stepsCached": 0,
                "steps": sum(one["completed"] for one in subtasks),
                "stepsTotal": len(subtasks),
                "subtasks": subtasks,
            }
        )


class _Uncounted:
    def advance(self, amount: int) -> None:
        pass


class _Bytes:
    def __init__(self, lines: ProgressLines, task: str, title: str, total: int) -> None:
        self._lines, self._task, self._title, self._total = lines, task, title, total
        self._done = 0

    def advance(self, amount: int) -> None:
        self._done += amount
        self.tell(droppable=True)

    def tell(self, *, droppable: bool) -> None:
        self._lines.bytes(self._task, self._title, self._done, self._total, droppable=droppable)
