"""Runs the health checks: systemd's own state, the services that have to run, and the programs in health.d."""

import os
import selectors
import signal
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from keelboot import command
from keelboot.failure import Failure, InvalidSettings
from keelboot.host import checks
from keelboot.host.checks import Found, Settings

OUTPUT_KEPT: Final = 2000  # bytes, the last ones
# What asks during a boot, and what waits for the answer: systemd has these jobs until they have ended.
OWN_UNITS: Final = (
    *("keelboot-health.service", "keelboot-bless.service", "boot-complete.target"),
    *("keelboot-trial.service", "emergency.service"),
)
_LOOK_AGAIN = 1.0  # seconds
_GOOD_STATES = ("running", "degraded", "starting", "initializing")  # the latter two while only our own jobs are left


@dataclass(frozen=True, slots=True)
class Check:
    """What came of one check."""

    name: str
    required: bool
    passed: bool
    output: str
    seconds: float

    def value(self) -> dict[str, Any]:
        """The check as JSON."""
        return {
            "name": self.name,
            "required": self.required,
            "passed": self.passed,
            "output": self.output,
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What came of all checks, in the order in which they ran."""

    checks: Sequence[Check]

    @property
    def passed(self) -> bool:
        """Whether every required check passed."""
        return not self.failed

    @property
    def failed(self) -> Sequence[Check]:
        """The required checks that did not pass."""
        return [check for check in self.checks if check.required and not check.passed]

    @property
    def reason(self) -> str:
        """Why the machine is not healthy: a line, and on further lines what the first failed check printed."""
        if not self.failed:
            return ""
        names = ", ".join(check.name for check in self.failed)
        many = "checks" if len(self.failed) > 1 else "check"
        return f"the required {many} {names} failed\n{self.failed[0].output}".rstrip()

    def value(self) -> dict[str, Any]:
        """The report as JSON."""
        return {"passed": self.passed, "checks": [check.value() for check in self.checks]}


def check(root: Path = Path("/"), *, system: bool = True, done: Callable[[Check], None] = lambda _: None) -> Report:
    """Run every check of the machine at ROOT, one after the other; DONE hears of each as it ends.

    SYSTEM is false where no systemd is to be asked. A check that cannot be run has failed; this raises nothing.
    """
    made: list[Check] = []
    for one in _all(root, system=system):
        made.append(one)
        done(one)
    return Report(tuple(made))


def waited_for() -> Sequence[str]:
    """The units that systemd still works on; none where it does not answer."""
    with suppress(Failure):
        jobs = command.run(["systemctl", "list-jobs", "--plain", "--no-legend"], purpose="ask systemd for its jobs")
        return checks.waited_for(jobs.stdout.decode(errors="replace"), OWN_UNITS)
    return []


def failed_units() -> Sequence[str]:
    """The units that failed; none where systemd does not answer."""
    with suppress(Failure):
        argv = ["systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full"]
        done = command.run(argv, purpose="ask systemd what failed")
        return [line.split()[0] for line in done.stdout.decode(errors="replace").splitlines() if line.split()]
    return []


def afterwards(root: Path = Path("/"), *, passed: bool) -> Iterator[Check]:
    """Run what is to run once the checks of the machine at ROOT have PASSED, or have not; this raises nothing."""
    try:
        within = _settings(root).timeout
    except InvalidSettings:
        within = checks.TIMEOUT
    directories = checks.AFTERWARDS[passed]
    yield from _scripts(root, directories, within)


def find(root: Path, directories: Iterable[str]) -> Iterator[Found]:
    """The files in the DIRECTORIES below ROOT."""
    for directory in directories:
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(root / directory):
                if entry.is_symlink() and os.readlink(entry.path) == "/dev/null":  # noqa: PTH115 - os.scandir's entry
                    yield Found(directory, entry.name, masked=True)
                else:
                    with suppress(FileNotFoundError):  # a link to nowhere
                        mode = entry.stat().st_mode
                        if stat.S_ISREG(mode):
                            yield Found(directory, entry.name, executable=bool(mode & 0o111))


def _all(root: Path, *, system: bool) -> Iterator[Check]:
    began = time.monotonic()
    try:
        wanted = _settings(root)
    except InvalidSettings as error:
        yield Check("health.toml", required=True, passed=False, output=f"{error.what}: {error.why}", seconds=0.0)
        wanted = Settings()
    if system:
        yield _system(wanted.timeout, began)
        yield from (_service(name, wanted.timeout) for name in wanted.services)
    yield from _scripts(root, checks.directories(), wanted.timeout)


def _scripts(root: Path, directories: Mapping[str, bool], within: float) -> Iterator[Check]:
    for script in checks.scripts(find(root, directories), directories):
        if script.executable:
            yield _script(root / script.path, script.name, within, required=script.required)
        else:
            # A note or a forgotten chmod: no reason to give a version up, and none to be silent.
            yield Check(script.name, required=False, passed=False, output=f"/{script.path} may not be run", seconds=0.0)


def _settings(root: Path) -> Settings:
    texts = []
    for name in checks.SETTINGS:
        with suppress(FileNotFoundError):
            texts.append((name, (root / name).read_bytes()))
    return checks.settings(texts)


def _system(within: float, began: float) -> Check:
    """Whether systemd has started everything; what failed on the way is told, and is no fault by itself."""
    waiting = waited_for()
    while waiting and time.monotonic() - began < within:
        time.sleep(_LOOK_AGAIN)
        waiting = waited_for()
    argv = ["systemctl", "is-system-running"]
    try:
        state = command.run(argv, purpose="ask systemd for its state", accept=range(256)).stdout.decode().strip()
    except Failure as error:
        return Check("systemd", required=True, passed=False, output=str(error), seconds=time.monotonic() - began)
    broken = failed_units()
    told = [f"failed: {' '.join(broken)}"] if broken else []
    told += [f"not started after {within:.0f} s: {' '.join(waiting)}"] if waiting else []
    passed = state in _GOOD_STATES and not waiting
    told += [] if passed and not broken else [f"systemd is {state or 'silent'}"]
    return Check("systemd", required=True, passed=passed, output="\n".join(told), seconds=time.monotonic() - began)


def _service(name: str, within: float) -> Check:
    """Whether the service NAME runs, or does so before the time is over."""
    began = time.monotonic()
    while True:
        state = _state(name)
        settled = state.get("ActiveState") in ("active", "failed") or state.get("LoadState") not in ("loaded", None)
        if settled or time.monotonic() - began >= within:
            break
        time.sleep(_LOOK_AGAIN)
    passed = state.get("ActiveState") == "active"
    output = "" if passed else f"it is {state.get('ActiveState', 'unknown')} ({state.get('SubState', '')})"
    if state.get("LoadState") == "not-found":
        output = "there is no such service"
    elif not passed:
        output += f"\n{_last_words(name)}"
    return Check(name, required=True, passed=passed, output=output.strip(), seconds=time.monotonic() - began)


def _state(name: str) -> dict[str, str]:
    with suppress(Failure):
        argv = ["systemctl", "show", "--property=LoadState,ActiveState,SubState", "--", name]
        text = command.run(argv, purpose=f"ask for {name}").stdout.decode(errors="replace")
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {}


def _last_words(name: str) -> str:
    with suppress(Failure):
        argv = ["journalctl", "--boot", "--quiet", "--output=cat", "--lines=8", f"--unit={name}"]
        return command.run(argv, purpose=f"read the log of {name}").stdout.decode(errors="replace")
    return ""


def _script(path: Path, name: str, within: float, *, required: bool) -> Check:
    """Run the check at PATH in a session of its own; when its time is over, it is killed with all that it started."""
    began = time.monotonic()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            process = command.start(
                [path], purpose=f"run the check {name}", stdout=writer, stderr=writer, cwd=Path("/"), own_session=True
            )
        except (Failure, OSError) as error:
            why = f"it cannot be run: {error}"
            return Check(name, required=required, passed=False, output=why, seconds=time.monotonic() - began)
        finally:
            os.close(writer)
        watched = os.pidfd_open(process.pid)
        try:
            output, ended = _listen(reader, watched, began + within)
            if not ended:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        finally:
            os.close(watched)
    finally:
        os.close(reader)
    text = output.decode(errors="replace").replace("\0", " ").strip()
    if not ended:
        text = f"it was stopped after {within:.0f} s\n{text}".strip()
    elif status and not text:
        text = f"exit status {status}" if status > 0 else f"ended by signal {-status}"
    return Check(name, required=required, passed=ended and not status, output=text, seconds=time.monotonic() - began)


def _listen(reader: int, watched: int, until: float) -> tuple[bytes, bool]:
    """The last of what comes from READER until the process behind WATCHED ends, and whether it did before UNTIL.

    What the process leaves running may hold the pipe for ever: its end is not waited for.
    """
    output = b""
    os.set_blocking(reader, False)
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        selector.register(watched, selectors.EVENT_READ)
        while True:
            left = until - time.monotonic()
            ready = {key.fd for key, _ in selector.select(max(left, 0))}
            if reader in ready:
                with suppress(BlockingIOError):
                    data = os.read(reader, 65536)
                    output = (output + data)[-OUTPUT_KEPT:]
                    if not data:
                        selector.unregister(reader)
                    elif left > 0:
                        continue
            if watched in ready:
                return output, True
            if left <= 0:
                return output, False
