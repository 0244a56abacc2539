"""What keeps the watchdog quiet in the initramfs: for how long, and what is said and done when that is over.

The script runs as it is, but for the places it looks at; only the restart itself is a note of its being asked for.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

SCRIPTS = files("keelboot.initramfs").joinpath("dracut/90keelboot")
DIGEST = "ab" * 32
# What it tells of jobs, and a note of whatever else it is asked for.
SYSTEMCTL = """#!/bin/sh
case $1 in
    list-jobs) printf ' 7 dev-sda.device start running\\n12 x.service start waiting\\n' ;;
    *) echo "$@" >>"$0.asked" ;;
esac
"""


class Initramfs:
    """A directory with what the scripts use of a machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("dev", "run/keelboot", "run/systemd/ask-password", "proc", "bin", "sysroot/state"):
            (root / name).mkdir(parents=True)
        (root / "dev/watchdog0").touch()
        (root / "dev/kmsg").touch()
        (root / "proc/cmdline").write_text(f"quiet composefs={DIGEST} rd.keelboot.timeout=2\n")
        systemctl = root / "bin/systemctl"
        systemctl.write_text(SYSTEMCTL)
        systemctl.chmod(0o755)
        for name in ("watch-try", "note-failure"):
            text = SCRIPTS.joinpath(f"{name}.sh").read_text()
            for place in ("/dev/watchdog0", "/dev/kmsg", "/run/", "/proc/cmdline", "/sysroot"):
                text = text.replace(place, f"{root}{place}")
            text = text.replace("/usr/lib/keelboot/note-failure", str(root / "note-failure"))
            text = text.replace("each=10", "each=1").replace("mount -o", "true -o")
            (root / name).write_text(text)

    def keep(self) -> subprocess.Popen[bytes]:
        """Start to keep the watchdog quiet."""
        path = f"{self.root / 'bin'}:{os.environ['PATH']}"
        return subprocess.Popen(["dash", self.root / "watch-try", "keep"], env={"PATH": path}, start_new_session=True)

    def on_trial(self) -> None:
        (self.root / "run/keelboot/trial").touch()

    @property
    def fed(self) -> int:
        return (self.root / "dev/watchdog0").stat().st_size

    def wait_until_fed(self, times: int, keeping: subprocess.Popen[bytes]) -> None:
        """Wait while KEEPING, which may not end before that, feeds the watchdog."""
        began = time.monotonic()
        while self.fed < times:
            assert keeping.poll() is None
            assert time.monotonic() - began < 60
            time.sleep(0.1)

    @property
    def asked(self) -> str:
        file = self.root / "bin/systemctl.asked"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def initramfs(tmp_path: Path) -> Iterator[Initramfs]:
    return Initramfs(tmp_path)


def test_a_boot_that_is_not_on_trial_is_left_alone(initramfs: Initramfs) -> None:
    assert initramfs.keep().wait(60) == 0
    assert (initramfs.fed, initramfs.asked) == (0, "")


def test_when_its_time_is_over_the_reason_is_noted_and_it_restarts(initramfs: Initramfs) -> None:
    initramfs.on_trial()
    assert initramfs.keep().wait(60) == 0
    assert initramfs.fed == 2, "once each second"
    assert initramfs.asked == "reboot --force --force\n"
    reason = "it was not done after 2 seconds, and still waited for dev-sda.device"
    assert reason in (initramfs.root / "dev/kmsg").read_text()
    [line] = (initramfs.root / "sysroot/state/boots" / DIGEST).read_text().split("\n")[1:-1]
    assert line.split(" ", 2)[2].strip() == f"refused {reason}"


def test_time_in_which_a_password_is_asked_for_does_not_count(initramfs: Initramfs) -> None:
    initramfs.on_trial()
    asking = initramfs.root / "run/systemd/ask-password"
    for name in ("ask.a", "ask.b"):
        (asking / name).touch()
    keeping = initramfs.keep()
    initramfs.wait_until_fed(5, keeping)
    for name in ("ask.a", "ask.b"):
        (asking / name).unlink()
    assert keeping.wait(60) == 0
    assert initramfs.fed >= 6, "the fifth second, or the one after, was the first that counted"
    assert initramfs.asked


def test_who_asked_for_a_shell_is_not_thrown_out(initramfs: Initramfs) -> None:
    initramfs.on_trial()
    with (initramfs.root / "proc/cmdline").open("a") as file:
        file.write("rd.shell=0 rd.shell=1\n")
    keeping = initramfs.keep()
    initramfs.wait_until_fed(5, keeping)
    os.killpg(keeping.pid, 15)
    assert keeping.wait(60) != 0
    assert initramfs.asked == ""


def test_killed_it_leaves_the_watchdog_running(initramfs: Initramfs) -> None:
    """What stops a watchdog is a V before it is closed (Linux, watchdog-api)."""
    initramfs.on_trial()
    keeping = initramfs.keep()
    initramfs.wait_until_fed(1, keeping)
    os.killpg(keeping.pid, 15)
    assert keeping.wait(60) != 0
    assert b"V" not in (initramfs.root / "dev/watchdog0").read_bytes()
    assert initramfs.asked == ""
