import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from keelboot.cli.terminal import Terminal

WORK = """
from keelboot.cli.terminal import Terminal
terminal = Terminal()
with terminal.progress.step("outer", total=4) as outer:
    outer.advance(4)
    with terminal.progress.step("inner") as inner:
        inner.advance(1)
        terminal.note("a remark")
"""


def test_results_and_remarks_go_apart(capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.out("result")
    terminal.note("remark")
    terminal.echo(b"bytes \xff\n")
    with terminal.progress.step("a step", total=10) as step:
        step.advance(10)
    out, err = capfd.readouterr()
    assert out == "result\n"
    assert err.startswith("keelboot: remark\nbytes ")
    assert err.endswith("keelboot: a step\n")


def test_quiet_leaves_only_the_result(capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(quiet=True)
    terminal.out("result")
    terminal.note("remark")
    terminal.echo(b"bytes")
    with terminal.progress.step("a step"):
        pass
    assert capfd.readouterr() == ("result\n", "")


def test_a_terminal_gets_bars_one_inside_another() -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3] / "src"), "TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", WORK], stderr=follower, env=environment, check=False)
    os.close(follower)
    shown = os.read(leader, 65536).decode()
    os.close(leader)
    assert done.returncode == 0, shown
    assert "\x1b[" in shown
    assert "100%" in shown
    assert "a remark" in shown
    assert "inner" in shown
