"""Processes beside this one that share its work: pieces, known by number, each done by whoever is free first.

    queue    a pipe that has all numbers before the first process starts; to read one is to take it
    report   a pipe from each process: how far it is, what came of each piece, and at last its account

A process ends soon after the one it reports to, however that ended: its next report finds nobody. What is reported are
values that marshal knows.
"""

import fcntl
import marshal
import os
import select
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn, Protocol

from keelboot import failure
from keelboot.failure import Failure

_NUMBER: Final = struct.Struct("<I")
_QUEUED_MAX: Final = select.PIPE_BUF // _NUMBER.size  # every pipe has room for these
_LENGTH: Final = struct.Struct("<Q")
_READ: Final = 1 << 20
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Work(Protocol):
    """What a process does with the pieces it takes."""

    def do(self, number: int) -> Iterable[Any]:
        """Do the piece; give what came of it, in as many values as it likes."""

    def account(self) -> Any:  # noqa: ANN401 - what it says is between this and who asks for it
        """What came of all pieces together."""


Tell = Callable[..., None]
Begin = Callable[[Tell], Work]


@contextmanager
def crew(numbers: Sequence[int], begin: Begin, *, members: int) -> Iterator["Crew"]:
    """MEMBERS more processes for the pieces NUMBERS, which are taken in this order; all are gone when it is left.

    In each of them BEGIN makes its work, from a function that tells this process how far it is. Nothing is started, and
    nothing waits to be taken, where this process has threads: what they hold locked would stay so in a copy of it.
    """
    if members < 1 or threading.active_count() > 1:
        numbers, members = (), 0
    own = Crew(numbers[:_QUEUED_MAX])
    try:
        with suppress(OSError):  # no room for another process: the others do its share
            for _ in range(members):
                own.start(begin)
        yield own
    finally:
        own.end()
        own.close()


class Crew:
    """The processes, as the one that started them has them. `numbers` are the pieces that all of them share.

    `heard` is called with what the others tell of their way, and `made` with the number of a piece and each value that
    came of it. Methods raise Failure when one of the processes came to grief.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = frozenset(numbers)
        self.heard: Tell = lambda *_: None
        self.made: Tell = lambda *_: None
        self._queue = _Queue(numbers)
        self._members: list[_Member] = []
        self._ended: dict[int, Exception | None] = {}  # pieces, and what each failed with

    def __len__(self) -> int:
        return len(self._members)

    def take(self) -> int | None:
        """The number of a piece that nobody took, for this process to do; None when there is none left."""
        self._see_all_well()
        return self._queue.take()

    def failed(self, number: int, error: Exception) -> None:
        """Say that a piece that this process took failed with ERROR, which is raised by who waits for it."""
        self._queue.lowest = number
        self._ended[number] = error

    def hear(self, *, wait: bool = False) -> None:
        """Take in what was reported since; WAIT for something to be."""
        present = [member for member in self._members if not member.gone]
        if wait:
            reports = select.poll()
            for member in present:
                reports.register(member.report, select.POLLIN)
            reports.poll()
        for member in present:
            for kind, *values in member.reported():
                if kind == "told":
                    self.heard(*values)
                elif kind == "made":
                    self.made(*values)
                elif kind == "ended":
                    number, *fault = values
                    self._ended[number] = _error(*fault) if fault else None
                else:
                    (member.account,) = values

    def wait(self, number: int) -> None:
        """Wait for the end of a piece that another process took; all that came of it was handed on then.

        Raises what it ended with: a Failure or an OSError as it was, anything else as RuntimeError.
        """
        while number not in self._ended:
            self._see_all_well()
            if all(member.gone for member in self._members):
                raise LookupError(number)
            self.hear(wait=True)
        if error := self._ended[number]:
            raise error

    def accounts(self) -> list[Any]:
        """The accounts of all, when all are done."""
        while not all(member.gone for member in self._members):
            self.hear(wait=True)
        self._see_all_well()
        return [member.account for member in self._members]

    def start(self, begin: Begin) -> None:
        """Have one more process, with the work that BEGIN makes there. Raises OSError."""
        here, there = os.pipe()
        # A signal between the fork and the next line would find a process that nobody knows, or run it as this one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            pid = os.fork()
            if not pid:
                self._run(begin, there, before)
            self._members.append(_Member(pid, here))
        except OSError:
            os.close(here)
            raise
        finally:
            os.close(there)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def end(self) -> None:
        """End those that are still there, and wait until they are gone."""
        for member in self._members:
            member.end()

    def close(self) -> None:
        """Let go of the queue."""
        self._queue.close()

    def _see_all_well(self) -> None:
        for member in self._members:
            if member.gone and member.account is None:
                raise member.death()

    def _run(self, begin: Begin, report: int, mask: Iterable[int]) -> NoReturn:
        """What a new process is for, from its first line to its end."""
        try:
            for number in _ENDING:
                if callable(signal.getsignal(number)):  # what it does is the other process's; that one ends this one
                    signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for member in self._members:
                os.close(member.report)
            _work(self._queue, begin, lambda *values: _write(report, values))
        except BrokenPipeError:  # nobody waits for this any more
            os._exit(1)
        except BaseException as error:  # noqa: BLE001 - nothing above this line is this process's
            sys.excepthook(type(error), error, error.__traceback__)
            os._exit(1)
        os._exit(0)


class _Queue:
    """The numbers of pieces that nobody took. `lowest` is the lowest one that failed here.

    That is what the user is told of, whoever did it, so that pieces above it are passed over.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self.lowest: int | None = None
        self._fd, feed = os.pipe()
        os.write(feed, b"".join([_NUMBER.pack(number) for number in numbers]))
        os.close(feed)  # now it has an end

    def take(self) -> int | None:
        while data := os.read(self._fd, _NUMBER.size):
            (number,) = _NUMBER.unpack(data)
            if self.lowest is None or number < self.lowest:
                return int(number)
        return None

    def close(self) -> None:
        os.close(self._fd)


class _Member:
    """One of the processes."""

    def __init__(self, pid: int, report: int) -> None:
        self.pid, self.report = pid, report
        self.account: Any = None
        self.gone = False
        self._status = 0
        self._begun = bytearray()  # of what is reported
        os.set_blocking(report, False)
        with suppress(OSError):  # the more there is room for, the less it waits
            fcntl.fcntl(report, fcntl.F_SETPIPE_SZ, _READ)

    def reported(self) -> Iterator[tuple[Any, ...]]:
        """What it said since."""
        with suppress(BlockingIOError):
            while data := os.read(self.report, _READ):
                self._begun += data
            self._bury()
        while len(self._begun) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._begun)
            end = _LENGTH.size + length
            if len(self._begun) < end:
                break
            value = marshal.loads(memoryview(self._begun)[_LENGTH.size : end])  # noqa: S302 - from a process of ours
            del self._begun[:end]
            yield value

    def death(self) -> Failure:
        """What to tell of its end, when it was not done."""
        code = os.waitstatus_to_exitcode(self._status)
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return Failure(
            "cannot read the image's layers",
            why=f"the process that read some of them ended with {ended}",
            fix="Try again. With `--jobs 1` there is one process only, and less memory is needed.",
        )

    def end(self) -> None:
        if not self.gone:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._bury()

    def _bury(self) -> None:
        os.close(self.report)
        self.gone = True
        with suppress(ChildProcessError):  # whoever started this program had it ignore the ends of its processes
            _, self._status = os.waitpid(self.pid, 0)


def _work(queue: _Queue, begin: Begin, say: Tell) -> None:
    """Do pieces until none is left, and SAY what came of them."""
    work = begin(lambda *values: say("told", *values))
    while (number := queue.take()) is not None:
        try:
            for value in work.do(number):
                say("made", number, value)
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where the piece is waited for
            queue.lowest = number
            say("ended", number, *_fault(error))
        else:
            say("ended", number)
    say("account", work.account())


def _write(report: int, values: tuple[Any, ...]) -> None:
    data = marshal.dumps(values)
    left = memoryview(_LENGTH.pack(len(data)) + data)
    while left:
        left = left[os.write(report, left) :]


def _fault(error: Exception) -> tuple[Any, ...]:
    """ERROR in values that marshal knows."""
    match error:
        case Failure():
            known = (kind.__name__ for kind in type(error).__mro__ if vars(failure).get(kind.__name__) is kind)
            return (next(known), error.what, error.why, error.fix)
        case OSError():
            return ("OSError", error.errno, error.strerror)
    import traceback  # noqa: PLC0415 - only a bug needs it

    return ("RuntimeError", traceback.format_exc())


def _error(kind: str, *values: Any) -> Exception:  # noqa: ANN401 - as `_fault` gave them
    """The exception that `_fault` told of."""
    match kind:
        case "OSError":
            return OSError(*values)
        case "RuntimeError":
            return RuntimeError(*values)
    what, why, fix = values
    made: Failure = vars(failure)[kind](what, why=why, fix=fix)
    return made
