"""Where a verb speaks: results on standard output, everything else on standard error.

On a terminal, long work has bars; elsewhere one plain line per step, so that a log stays readable.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from keelboot.failure import Failure
from keelboot.progress import SILENT, Progress, Step

if TYPE_CHECKING:
    import rich.progress


class Terminal:
    """The user's terminal, or the pipe or file in its place. `command` is the name that the user typed."""

    def __init__(self, *, json_wanted: bool = False, quiet: bool = False, command: str = "keelboot") -> None:
        self.json_wanted, self.quiet, self.command = json_wanted, quiet, command
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        bars = sys.stderr.isatty() and find_spec("rich") is not None
        self.progress: Progress = SILENT if quiet else _Bars() if bars else _Lines()

    def out(self, text: str = "") -> None:
        """A line of the result."""
        print(text)

    def json(self, value: object) -> None:
        """The result, for a program."""
        print(json.dumps(value, indent=2, ensure_ascii=False))

    def note(self, text: str) -> None:
        """A remark that a user wants to see and a program does not."""
        if not self.quiet:
            print(f"{self.command}: {text}", file=sys.stderr, flush=True)

    def echo(self, data: bytes) -> None:
        """Output of another program, as it comes."""
        if not self.quiet:
            sys.stderr.buffer.write(data)
            sys.stderr.flush()

    def fail(self, failure: Failure) -> None:
        """Tell why a verb could not go on."""
        if self.command == "bootc":
            # Its one line, whatever form the result was to have: what calls it looks for the word.
            print(f"error: {failure.what}: {' '.join(failure.why.split())}", file=sys.stderr)
        elif self.json_wanted:
            told = {"class": type(failure).__name__, "exit_code": failure.exit_code}
            told |= {"what": failure.what, "why": failure.why, "fix": failure.fix}
            print(json.dumps({"error": told}, ensure_ascii=False), file=sys.stderr)
        else:
            print(f"keelboot: {failure}", file=sys.stderr)


class _PlainStep:
    def advance(self, amount: int) -> None:
        pass


class _Lines:
    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Step]:  # noqa: ARG002 - the port's names
        print(f"keelboot: {title}", file=sys.stderr, flush=True)
        yield _PlainStep()


class _BarStep:
    def __init__(self, bars: "rich.progress.Progress", task: "rich.progress.TaskID") -> None:
        self._bars, self._task = bars, task

    def advance(self, amount: int) -> None:
        self._bars.advance(self._task, amount)


class _Bars:
    """One display for all steps under way: a step may begin inside another."""

    def __init__(self) -> None:
        self._bars: rich.progress.Progress | None = None
        self._under_way = 0

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Step]:
        self._bars = self._bars or _display()
        if self._under_way == 0:
            self._bars.start()
        self._under_way += 1
        task = self._bars.add_task(title, total=total)
        try:
            yield _BarStep(self._bars, task)
            self._bars.update(task, total=total or 1, completed=total or 1)
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                self._bars.stop()
                self._bars = None


def _display() -> "rich.progress.Progress":
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        console=Console(stderr=True),
    )
