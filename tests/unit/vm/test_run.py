"""The verb itself, on a disk with nothing on it: the firmware runs for seconds before it gives up."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keelboot.cli.main import verb_parser
from keelboot.cli.run import execute, split
from keelboot.cli.terminal import Terminal
from keelboot.failure import Failure, MissingTool
from keelboot.vm import firmware


def can_boot() -> bool:
    try:
        firmware.require_sound_tcg(firmware.qemu())
        firmware.find_firmware()
    except MissingTool:
        return False
    return True


needs_qemu = pytest.mark.skipif(not can_boot(), reason="QEMU 10 or OVMF is not installed")
SOURCE = str(Path(sys.modules["keelboot"].__path__[0]).parent)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    file = tmp_path / "blank.img"
    with file.open("wb") as disk:
        disk.truncate(1 << 20)
    return file


def start(*words: str | Path, temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "keelboot.cli.main", "run", "--accel", "tcg", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": SOURCE, "TMPDIR": str(temporary)},
    )


def child(parent: int) -> int:
    """QEMU's process, as soon as there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if "qemu" in Path(f"/proc/{pid}/comm").read_text():
                return int(pid)
        time.sleep(0.02)
    raise AssertionError("no QEMU was started")


@needs_qemu
@pytest.mark.parametrize(
    ("option", "number", "status"),
    [
        ("--ssh", signal.SIGINT, 130),
        ("--console", signal.SIGTERM, 143),
        ("--ssh", signal.SIGHUP, 129),
        ("--console", signal.SIGKILL, -9),
    ],
)
def test_whatever_ends_it_leaves_nothing(disk: Path, option: str, number: signal.Signals, status: int) -> None:
    if number == signal.SIGKILL and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    temporary = disk.with_name("tmp")
    temporary.mkdir()
    process = start(option, disk, temporary=temporary)
    qemu = child(process.pid)
    time.sleep(0.3)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{qemu}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{qemu}").exists()
    assert process.returncode == status
    assert "Traceback" not in err
    assert list(temporary.iterdir()) == []
    assert disk.stat().st_size == 1 << 20


@needs_qemu
def test_a_blank_disk_is_a_boot_that_failed(disk: Path, tmp_path: Path) -> None:
    process = start("--log", tmp_path / "log", disk, temporary=tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (12, "")
    # Which of the two it says first depends on the firmware's version and on how fast it gets there.
    assert "the firmware found nothing to boot" in err or "the firmware found no bootable device" in err
    assert b"BdsDxe" in (tmp_path / "log").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["none.img"], 1, "keelboot disk IMAGE -o none.img"),
        (["-p", "80x", "blank.img"], 2, "8080:80"),
        (["--memory", "12M", "blank.img"], 2, "256M at least"),
        (["--memory", "lots", "blank.img"], 2, "like 20G or 512M"),
        (["--cpus", "0", "blank.img"], 2, "above 0"),
        (["--display", "gtk,gl=on", "blank.img"], 2, "not a display"),
        (["--console", "blank.img", "--", "true"], 2, "both want this terminal"),
        (["--persist", "localhost/web"], 1, "keelboot disk localhost/web -o"),
        (["--ssh", "--ssh-key", "nokey", "blank.img"], 1, "nokey"),
    ],
)
@needs_qemu
def test_what_cannot_be_is_refused_before_anything_boots(disk: Path, words: list[str], code: int, said: str) -> None:
    own, passed_on = split([str(disk) if word == "blank.img" else word for word in words])
    arguments = verb_parser("run").parse_args(["--accel", "tcg", *own])
    arguments.passed_on = passed_on
    with pytest.raises(Failure) as caught:
        execute(arguments, Terminal())
    assert caught.value.exit_code == code
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--ssh", "web"], (["--ssh", "web"], [])),
        (["--ssh", "web", "--", "ls", "--", "-l"], (["--ssh", "web"], ["ls", "--", "-l"])),
        (["web", "--"], (["web"], [])),
    ],
)
def test_the_command_is_what_follows_the_first_dashes(words: list[str], expected: tuple[list[str], list[str]]) -> None:
    assert split(words) == expected
