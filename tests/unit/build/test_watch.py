import os
import signal
import threading
import time
from pathlib import Path

import pytest

from keelboot.build.watch import watch
from keelboot.failure import MissingTool


def test_hears_both_outputs_and_the_end() -> None:
    heard: list[bytes] = []
    ended = watch(["sh", "-c", "echo out; echo err >&2; exit 3"], purpose="try", echo=heard.append)
    assert (ended.status, ended.output) == (3, "out\nerr")
    assert b"".join(heard) == b"out\nerr\n"


def test_keeps_the_end_of_a_long_story() -> None:
    ended = watch(["seq", "5000"], purpose="try", echo=lambda _: None)
    assert ended.lines[-1] == "5000"
    assert len(ended.lines) == 200


def test_a_missing_program_leaves_no_descriptor() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(MissingTool):
        watch(["no-such-program"], purpose="try", echo=lambda _: None)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_interruption_ends_children_that_do_not_hear_it(tmp_path: Path) -> None:
    script = 'sh -c "trap : INT; while :; do sleep 0.05; done" & echo $! >"$1/pid"; trap "exit 0" INT; wait'
    interrupt = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        watch(["sh", "-c", script, "sh", str(tmp_path)], purpose="try", echo=lambda _: None)
    status = Path("/proc", (tmp_path / "pid").read_text().strip(), "status")
    deadline = time.monotonic() + 60
    while status.exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.02)


def test_an_interruption_ends_the_program_too(tmp_path: Path) -> None:
    script = 'echo $$ >"$1/pid"; trap "echo asked >$1/end; exit 0" INT; echo ready; while :; do sleep 0.05; done'
    interrupt = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        watch(["sh", "-c", script, "sh", str(tmp_path)], purpose="try", echo=lambda _: None)
    assert (tmp_path / "end").read_text() == "asked\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
