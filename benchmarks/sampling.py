"""Commands are run, one after another and in turns, and what each took is kept.

A machine is never alone: the samples of all contenders are taken in turns, so that whatever disturbs hits all alike,
ratios are taken within one turn, and a sample that others disturbed much is taken again while there is patience left.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from keelboot import command

Command = Sequence[str]
Made = TypeVar("Made")
_DISTURBED = 0.15  # cores that others had, of the machine's
_AGAIN = 2  # times
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """What running one or several commands took."""

    wall: float  # seconds, from the start of the process to its end
    cpu: float  # seconds, user and system, of all its processes
    peak: int  # bytes of memory, of the largest process; 0 if it is too small to be told
    read: int  # bytes, by read(2) and its kin, of the first process
    others: float  # cores that other processes kept busy meanwhile

    def __add__(self, other: "Sample") -> "Sample":
        wall = self.wall + other.wall
        others = (self.others * self.wall + other.others * other.wall) / wall
        return Sample(wall, self.cpu + other.cpu, max(self.peak, other.peak), self.read + other.read, others)


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work: `commands` is given a path where nothing is, and returns what is run one by one."""

    name: str
    commands: Callable[[Path], Iterable[Command]]
    after: Callable[[Path], None] | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of several figures, and the ends."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> "Spread":
        """The spread of FIGURES, one at least."""
        ordered = sorted(figures)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


def measure(argv: Command, *, errors: Path) -> Sample:
    """Run ARGV to its end; what it says on stderr is in the file ERRORS. Raises CommandFailed and MissingTool."""
    command.require(argv[0], purpose="measure it")
    environment = command.environment()
    streams = (
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, str(errors), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    )
    # A process counts as its own peak what its parent had when it started it; "5" makes that what the parent has now.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    busy, start = _busy(), time.monotonic()
    pid = os.posix_spawnp(argv[0], list(argv), environment, file_actions=streams)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    wall = time.monotonic() - start
    busy = _busy() - busy
    read = _bytes_read(pid)
    _, status, usage = os.wait4(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise command.failed(argv, code, errors.read_bytes(), purpose="measure it")
    cpu = usage.ru_utime + usage.ru_stime
    peak = usage.ru_maxrss << 10
    return Sample(wall, cpu, peak if peak > _own_memory() else 0, read, max(0.0, (busy - cpu) / wall))


def in_turns(
    contenders: Sequence[Contender], rounds: int, scratch: Path, *, patience: float
) -> dict[str, list[Sample]]:
    """ROUNDS samples of each of CONTENDERS, by name, taken in turns below SCRATCH; each turn starts with another.

    PATIENCE is how many seconds may go, all in all, into samples that were taken again.
    """
    taken: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        turn = number % len(contenders)
        for contender in [*contenders[turn:], *contenders[:turn]]:
            told(f"{contender.name}, {number + 1} of {rounds}")
            best = _sample(contender, scratch)
            for _ in range(_AGAIN):
                if best.others < _DISTURBED or patience <= 0:
                    break
                started = time.monotonic()
                best = min(best, _sample(contender, scratch), key=lambda sample: sample.others)
                patience -= time.monotonic() - started
            taken[contender.name].append(best)
    told("")
    return taken


def ratio(of: Sequence[Sample], to: Sequence[Sample]) -> Spread:
    """How long OF took compared with TO, turn by turn."""
    return Spread.of(one.wall / other.wall for one, other in zip(of, to, strict=True))


def apart(function: Callable[..., Made], *arguments: object) -> Made:
    """What FUNCTION returns, called in another process: memory it takes is not this one's, see `measure`."""
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def hollow(path: Path) -> None:
    """Free the space that files below PATH take, and leave them.

    They are removed when all is done: for some minutes ext4 passes over inodes that were freed, one by one, whenever
    it makes a file (fs/ext4/ialloc.c, recently_deleted), so that making 10,000 files takes a second more than it would.
    """
    for directory, _, files in os.walk(path):
        for name in files:
            file = Path(directory, name)
            if not file.is_symlink():
                with suppress(OSError):
                    os.truncate(file, 0)
    os.sync()


def told(text: str) -> None:
    """Say on a terminal what is being done; the empty text takes it away."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def installed(programs: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Which of PROGRAMS, name and program, are there; and notes on those that are not."""
    there = [name for name, program in programs.items() if command.find(program)]
    return there, [f"{name}: skipped, {programs[name]} is not installed" for name in programs if name not in there]


def _sample(contender: Contender, scratch: Path) -> Sample:
    place = Path(tempfile.mkdtemp(prefix="sample-", dir=scratch)) / "new"
    os.sync()
    try:
        samples = [measure(words, errors=scratch / "errors") for words in contender.commands(place)]
    finally:
        if contender.after:
            contender.after(place)
        hollow(place)
    whole = samples[0]
    for sample in samples[1:]:
        whole += sample
    return whole


def _busy() -> float:
    """Seconds that all processors together have spent on anything (proc(5), /proc/stat)."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, interrupts, soft, stolen, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + interrupts + soft + stolen) / _TICK


def _bytes_read(pid: int) -> int:
    return _proc_field(Path(f"/proc/{pid}/io"), "rchar")


def _own_memory() -> int:
    return _proc_field(Path("/proc/self/status"), "VmHWM") << 10


def _proc_field(path: Path, wanted: str) -> int:
    for line in path.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == wanted:
            return int(value.split()[0])
    raise LookupError(f"{path} has no {wanted}")
