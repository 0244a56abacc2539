"""A machine kept running through reboots, power cuts and falls back: what an operator has, with a shell over SSH.

`Guest` asks one boot many questions; a `Computer` lives through several, and its disk is written to. Nothing here waits
for a time: it waits for the machine to answer, and tells boots apart by the kernel's own boot id.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_SOURCE = Path(__file__).resolve().parents[2] / "src"
_BOOT = "cat /proc/sys/kernel/random/boot_id"
_LONGEST = 900.0  # seconds for a reboot, with failed tries before it, on a busy computer


@dataclass(frozen=True)
class Answer:
    """What a command in the machine came to; both outputs in one."""

    status: int
    text: str

    def __str__(self) -> str:
        return f"exit {self.status}: {self.text}"


class Computer:
    """The machine that boots DISK, as long as the context is open; LOG keeps what its serial console shows.

    KEY is the private half of a key that DISK lets in as root.
    """

    def __init__(self, disk: Path, *, key: Path, log: Path, options: tuple[str, ...] = ()) -> None:
        self.disk, self.log = disk, log
        self._key, self._options = key, options
        self._run: subprocess.Popen[str] | None = None
        self._ports: dict[int, int] = {}
        self.boot = ""  # the boot id of the last answer
        # The path of a socket is short.
        self._sockets = tempfile.mkdtemp(prefix="keelboot-ssh-")
        self._line: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.power_on()
        except BaseException:
            self.cut()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.power_off()
        else:
            self.cut()
        shutil.rmtree(self._sockets)

    # -- power --------------------

    def power_on(self) -> None:
        """Boot, and wait until a command can be run."""
        words = ("run", "--json", "--persist", "--ssh-key", self._key, "--timeout", str(_LONGEST))
        ports = ("-p", "0:22", "-p", "0:80")
        log = self.log.with_name(f"{self.log.stem}-{time.monotonic_ns()}{self.log.suffix}")
        with self.log.with_suffix(".stderr").open("ab") as errors:
            self._run = subprocess.Popen(
                [sys.executable, "-m", "keelboot.cli.main", *words, *ports, "--log", log, *self._options, self.disk],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": str(_SOURCE)},
            )
        assert self._run.stdout
        told, text = None, ""
        for line in self._run.stdout:
            text += line
            if line.startswith("}"):
                told = json.loads(text)
                break
        assert told, f"the machine did not come up: {self.log.with_suffix('.stderr').read_text()}"
        self._ports = {port["guest"]: port["host"] for port in told["ports"]}
        self.dial()
        self.see_boot()

    def see_boot(self) -> None:
        """Note which boot answers; a version that fails its trial may be gone again before it does."""
        answer = Answer(1, "")
        with suppress(subprocess.TimeoutExpired):
            answer = self.ask(_BOOT, within=60)
        self.boot = answer.text if answer.status == 0 else ""
        if not self.boot:
            self.hang_up()

    def power_off(self) -> None:
        """Have it switch itself off."""
        assert self._run
        self.ask("systemctl poweroff --no-block")
        try:
            self._run.wait(180)
        except subprocess.TimeoutExpired:
            self.cut()
            raise
        self._gone()

    def cut(self) -> None:
        """Cut the power: QEMU is killed. What the guest has not flushed stays in this computer's memory, see R5."""
        if self._run and self._run.poll() is None:
            children = Path(f"/proc/{self._run.pid}/task/{self._run.pid}/children").read_text().split()
            for child in children:
                os.kill(int(child), signal.SIGKILL)
            try:
                self._run.wait(20)
            except subprocess.TimeoutExpired:
                self._run.kill()
                self._run.wait()
        self._gone()

    def _gone(self) -> None:
        self.hang_up()
        if self._run and self._run.stdout:
            self._run.stdout.close()
        self._run = None

    # -- questions --------------------

    def ask(self, command: str, *, within: float = 600) -> Answer:
        """Run COMMAND in a shell of root's; 255 where the machine did not answer."""
        done = subprocess.run(
            [*self._ssh(), "sh", "-s"],
            input=f"{command}\n",
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )
        return Answer(done.returncode, (done.stdout + done.stderr).rstrip("\n"))

    def begin(self, command: str) -> subprocess.Popen[str]:
        """Start COMMAND in a shell of root's; what it prints on both outputs is for who waits for it."""
        argv = [*self._ssh(), f"exec 2>&1; {command}"]
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def send(self, directory: Path, target: str) -> None:
        """Put what DIRECTORY has into TARGET."""
        with subprocess.Popen(["tar", "-C", directory, "-cf", "-", "."], stdout=subprocess.PIPE) as packing:
            argv = [*self._ssh(), f"mkdir -p {target} && tar -C {target} --no-same-owner -xf -"]
            subprocess.run(argv, stdin=packing.stdout, check=True, timeout=600)

    def told(self, command: str, *, within: float = 600) -> str:
        """What COMMAND printed; it has to succeed."""
        answer = self.ask(command, within=within)
        assert answer.status == 0, f"{command}: {answer}"
        return answer.text

    def page(self) -> str:
        """What its web server answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ports[80]}/", timeout=60) as response:
            return response.read().decode()

    def status(self) -> dict[str, Any]:
        """Its own `keelboot status --json`."""
        return document(self.told("keelboot status --json"))

    def reboot(self, command: str = "systemctl reboot") -> None:
        """Run COMMAND, after which the machine goes down, and wait until it is up again."""
        self.ask(command)
        self.until_rebooted()

    def until(self, command: str, fits: Callable[[str], bool], *, within: float = _LONGEST) -> None:
        """Wait until what COMMAND prints FITS; the machine may be out of reach in between."""
        self.hang_up()
        deadline = time.monotonic() + within
        answer = None
        while time.monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                answer = self.ask(command, within=60)
                if answer.status == 0 and fits(answer.text):
                    self.dial()
                    return
            time.sleep(1)  # between two questions to a machine that is down
        raise AssertionError(f"{command} did not come to it within {within:.0f} s: {answer}")

    def until_rebooted(self, *, within: float = _LONGEST) -> None:
        """Wait until a boot answers that is not the last one seen, and is over."""
        self.hang_up()
        deadline = time.monotonic() + within
        before = self.boot
        while time.monotonic() < deadline:
            assert self._run
            assert self._run.poll() is None, f"the machine went away: {self.log.with_suffix('.stderr').read_text()}"
            try:
                answer = self.ask(_BOOT, within=60)
            except subprocess.TimeoutExpired:
                continue
            if answer.status == 0 and answer.text != before:
                self.boot = answer.text
                self.dial()
                self.ask("systemctl is-system-running --wait")
                return
            time.sleep(1)  # between two questions to a machine that is down
        raise AssertionError(f"no new boot answered within {within:.0f} s; the console: {self._console()}")

    def _console(self) -> str:
        logs = sorted(self.log.parent.glob(f"{self.log.stem}-*{self.log.suffix}"))
        return logs[-1].read_text(errors="replace")[-3000:] if logs else ""

    # -- the connection that questions share --------------------

    def dial(self) -> None:
        """Connect once for all questions of this boot: an emulated machine takes seconds for the cryptography of it."""
        self.hang_up()
        self._line = subprocess.Popen(
            [*self._ssh(), "-M", "-N"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(300):
            if self._line.poll() is not None or Path(self._socket).exists():
                return  # where it did not come to be, each question connects by itself
            time.sleep(0.1)

    def hang_up(self) -> None:
        """End that connection: the machine goes down, and may do so without a word."""
        if self._line:
            self._line.kill()
            self._line.wait()
            self._line = None
        Path(self._socket).unlink(missing_ok=True)

    @property
    def _socket(self) -> str:
        return f"{self._sockets}/line"

    def _ssh(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "30",
            "ControlPath": self._socket,
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", *words, "-i", str(self._key), "-p", str(self._ports[22]), "root@127.0.0.1"]


def document(text: str) -> dict[str, Any]:
    """The JSON object that TEXT begins with; what a command said on its other output comes behind it."""
    return json.JSONDecoder().raw_decode(text)[0]


def new_key(directory: Path) -> Path:
    """A key pair made for a test; the path of its private half."""
    file = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "keelboot-test", "-f", file], check=True)
    return file
