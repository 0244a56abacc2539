"""Run a program and pass its output on while it comes, keeping the end of it for who has to explain a failure."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from keelboot import command

Echo = Callable[[bytes], None]

_KEPT_LINES = 200
_GRACE_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit status (negative: the signal) and the last lines of what it printed."""

    status: int
    lines: tuple[str, ...]

    @property
    def output(self) -> str:
        return "\n".join(self.lines)


def watch(
    argv: Sequence[str | os.PathLike[str]],
    *,
    purpose: str,
    echo: Echo,
    extra_environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Ended:
    """Run ARGV to its end; every line of either output goes to ECHO as soon as it is there.

    An interruption ends the program and its children too, first by asking, as Ctrl-C would. Raises MissingTool.
    """
    reader, writer = os.pipe()
    try:
        process = command.start(
            argv,
            purpose=purpose,
            stdout=writer,
            stderr=writer,
            extra_environment=extra_environment,
            cwd=cwd,
            own_session=True,
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    kept: deque[str] = deque(maxlen=_KEPT_LINES)
    try:
        with open(reader, "rb") as lines:
            for line in lines:
                echo(line)
                kept.append(line.decode(errors="replace").rstrip())
        return Ended(process.wait(), tuple(kept))
    except BaseException:
        # It may hold containers and mounts of its own that only it knows how to take down. It runs in a session of its
        # own so that it hears this once: mmdebstrap takes a second interrupt for one during its cleaning up.
        _signal(process.pid, signal.SIGINT)
        last_resort = threading.Timer(_GRACE_SECONDS, _signal, (process.pid, signal.SIGKILL))
        last_resort.start()
        process.wait()
        last_resort.cancel()
        # apt does not hear interrupts while dpkg works: what outlives the program works for nobody.
        _signal(process.pid, signal.SIGKILL)
        raise


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
