"""A shell in a running machine, over `keelboot run --ssh` as a user has it: one boot answers many questions."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

_SOURCE = Path(__file__).resolve().parents[2] / "src"
_END = "--- answered "


class Guest:
    """A machine that runs from a disk or an image until the context is left; what it writes is kept with --persist."""

    def __init__(self, what: Path | str, *options: str, log: Path) -> None:
        self.http_port = _free_port()
        self.errors = log.with_suffix(".stderr")
        self._started = time.monotonic()
        argv = [sys.executable, "-m", "keelboot.cli.main", "run", "--ssh", "--log", str(log), *options]
        with self.errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [*argv, "-p", f"{self.http_port}:80", str(what), "--", "sh"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": str(_SOURCE)},
            )

    def __enter__(self) -> Self:
        self.ask("true")
        self.seconds_to_shell = time.monotonic() - self._started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.close()
            status = self._process.wait(120)
        finally:
            self._process.stdout.close()
            self._process.kill()
            self._process.wait()
        if kind is None:
            assert status == 0, self.errors.read_text()

    def ask(self, command: str) -> tuple[int, str]:
        """Run COMMAND in the machine's shell: its exit status and what it printed on both outputs."""
        assert self._process.stdin
        assert self._process.stdout
        # In a subshell, so that `exit` and `set` end with the question.
        self._process.stdin.write(f"( {command}\n) 2>&1 </dev/null; status=$?; echo; echo '{_END}'$status\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.startswith(_END):
                return int(line.removeprefix(_END)), "".join(lines)[:-1].rstrip("\n")
            lines.append(line)
        raise AssertionError(f"the machine went away: {self.errors.read_text()}")

    def told(self, command: str) -> str:
        """What COMMAND printed; it has to succeed."""
        status, text = self.ask(command)
        assert status == 0, f"{command}: {status}: {text}"
        return text

    def page(self) -> str:
        """What the machine's web server answers through the forwarded port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/", timeout=60) as response:
            return response.read().decode()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
