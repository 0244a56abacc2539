"""Processes that share work, with pieces that only count, fail, wait or end."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from keelboot.failure import Failure, InvalidImage, OutOfSpace
from keelboot.store.crew import Crew, Tell, crew

pytestmark = pytest.mark.skipif(threading.active_count() > 1, reason="this process has threads, and must not fork")


class Work:
    """Does each piece by calling DO with its number; the values that came of it are the number and the process."""

    def __init__(self, do: Callable[[int], object], tell: Tell) -> None:
        self._do, self._tell = do, tell
        self.done: list[int] = []

    def do(self, number: int) -> Iterator[Any]:
        self._do(number)
        self._tell(number)
        self.done.append(number)
        yield number
        yield os.getpid()

    def account(self) -> list[int]:
        return self.done


def others(numbers: Sequence[int], do: Callable[[int], object], members: int = 1) -> AbstractContextManager[Crew]:
    return crew(numbers, lambda tell: Work(do, tell), members=members)


def outcome(own: Crew, number: int) -> list[Any]:
    """What came of a piece, when it is done; for one piece of a crew, and before any is waited for."""
    found: list[Any] = []
    own.made = lambda which, value: found.append(value) if which == number else None
    own.wait(number)
    return found


def nothing(_: int) -> None:
    """What takes no time."""


def asleep(_: Tell) -> Work:
    """The work of a process that comes to none."""
    time.sleep(60)
    raise AssertionError


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def members(own: Crew) -> list[int]:
    return [member.pid for member in own._members]


def test_every_piece_is_done_once() -> None:
    with others(range(100), nothing, members=3) as own:
        mine = list(iter(own.take, None))
        rest = sorted(set(range(100)) - set(mine))
        made: dict[int, list[int]] = {}
        own.made = lambda number, value: made.setdefault(number, []).append(value)
        for number in rest:
            own.wait(number)
        assert all(values[0] == number for number, values in made.items())
        assert {pid for _, pid in made.values()} <= set(members(own))
        assert sorted(number for account in own.accounts() for number in account) == rest
        pids = members(own)
    assert all(map(gone, pids))


def test_pieces_are_taken_in_their_order() -> None:
    with crew([7, 3, 5], asleep, members=1) as own:
        assert list(iter(own.take, None)) == [7, 3, 5]
    with others([7, 3, 5], nothing, members=0) as own:
        assert own.take() is None  # there is nobody to share them with


def test_what_is_told_is_heard() -> None:
    heard: list[int] = []
    with others(range(10), nothing) as own:
        own.heard = heard.append
        own.accounts()
        assert sum(heard) == sum(number for account in own.accounts() for number in account)


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (InvalidImage("a", why="b", fix="c"), {"what": "a", "why": "b", "fix": "c"}),
        (OutOfSpace("a", why="b", fix="c"), {"why": "b"}),
        (OSError(28, "No space left on device"), {"errno": 28, "strerror": "No space left on device"}),
        (PermissionError(13, "Permission denied"), {"errno": 13}),
    ],
)
def test_errors_keep_their_class(error: Exception, attributes: dict[str, object]) -> None:
    def fail(_: int) -> None:
        raise error

    with others([4], fail) as own:
        with pytest.raises(type(error)) as caught:
            own.wait(4)
        assert type(caught.value) is type(error)
        assert {name: getattr(caught.value, name) for name in attributes} == attributes


def test_a_bug_keeps_its_traceback() -> None:
    with others([4], lambda number: [][number]) as own, pytest.raises(RuntimeError, match=r"(?s)test_crew.*IndexError"):
        own.wait(4)


def test_above_a_failure_nothing_is_done() -> None:
    """What is told is the lowest piece that failed, so only those below it still matter."""

    def fail(number: int) -> None:
        if number in (3, 5):
            raise Failure(str(number), why="", fix="")

    with others([9, 5, 8, 3, 4, 1], fail) as own:
        assert sorted(own.accounts()[0]) in ([1], [1, 9])
        for number in (3, 5):
            with pytest.raises(Failure, match=str(number)):
                own.wait(number)


def test_a_failure_here_is_raised_in_its_turn() -> None:
    with crew([4, 9, 2], asleep, members=1) as own:
        assert own.take() == 4
        own.failed(4, ValueError("here"))
        assert own.take() == 2  # 9 does not matter any more
        with pytest.raises(ValueError, match="here"):
            own.wait(4)


def test_one_that_is_killed_is_a_failure() -> None:
    with others([0], lambda _: time.sleep(60)) as own:
        (pid,) = members(own)
        os.kill(pid, signal.SIGKILL)
        for ask in (own.accounts, own.take, lambda: own.wait(0)):
            with pytest.raises(Failure, match="ended with signal SIGKILL"):
                ask()


def test_one_that_ends_by_itself_is_a_failure() -> None:
    with others([0], lambda _: os._exit(3)) as own, pytest.raises(Failure, match="exit status 3"):
        own.wait(0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_none_is_left_when_this_one_is_interrupted(error: type[BaseException]) -> None:
    pids: list[int] = []

    def interrupted() -> None:
        with others([0, 1, 2], lambda _: time.sleep(60), members=2) as own:
            pids.extend(members(own))
            raise error

    with pytest.raises(error):
        interrupted()
    assert len(pids) == 2
    assert all(map(gone, pids))


def test_they_end_when_this_one_is_killed(tmp_path: Path) -> None:
    """Its end is not told to them; they find that nobody hears them."""

    def tell_on(_: int) -> None:
        time.sleep(0.01)

    child = os.fork()
    if not child:
        with others(range(100), tell_on, members=2) as own:
            (tmp_path / "pids").write_text(" ".join(map(str, members(own))))
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    pids = list(map(int, (tmp_path / "pids").read_text().split()))
    assert len(pids) == 2
    deadline = time.monotonic() + 60
    while not all(map(ended, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(pid: int) -> bool:
    """Whether the process ended; one that init has yet to collect counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_an_interrupt_of_the_terminal_is_not_theirs() -> None:
    """Ctrl-C goes to all processes of a terminal; the one that the user started ends the others."""
    with others([0], lambda _: time.sleep(0.2)) as own:
        (pid,) = members(own)
        os.kill(pid, signal.SIGINT)
        assert outcome(own, 0) == [0, pid]


def test_where_the_ends_of_processes_are_ignored() -> None:
    """A program inherits that from the one that started it, and then the kernel collects what ended."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with others([1, 2], nothing) as own:
            mine = list(iter(own.take, None))
            assert sorted([*mine, *own.accounts()[0]]) == [1, 2]
        with others([0], lambda _: os._exit(3)) as own, pytest.raises(Failure, match="ended with"):
            own.wait(0)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_no_process_is_started_beside_threads() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with others([1, 2], nothing) as own:
            assert (len(own), own.take(), own.numbers, own.accounts()) == (0, None, frozenset(), [])
    finally:
        done.set()
        thread.join()


def test_where_no_process_can_be_started_this_one_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with others([3, 1, 2], nothing, members=2) as own:
        assert (len(own), list(iter(own.take, None))) == (0, [3, 1, 2])
