"""Versions that fail in every way a version can, and what becomes of the machine: it runs a good one, by itself.

A disk has several bad versions and a good one, newest first, as if each had been staged by an upgrade; the loader goes
through them. So one run answers for all; the power is cut in the middle of the very first try of a kernel that panics.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from boot.computer import Computer, new_key
from boot.conftest import Built, Keelboot, succeeded
from boot.variants import Variant, disk_of
from keelboot.host.trial import FAILED_ID

pytestmark = [pytest.mark.machine, pytest.mark.timeout(2400)]

SOURCE = Path(__file__).resolve().parents[2] / "src"
INIT = "usr/lib/systemd/systemd"
CORE = "usr/lib/x86_64-linux-gnu/systemd/libsystemd-core-257.so"
UNITS = "usr/lib/systemd/system"
CHECKS = "usr/lib/keelboot/health.d"
# Newest first: so they are tried.
FIVE = (
    Variant(name="panic", arguments=("rdinit=/nonexistent",), tries=2),
    Variant(name="no-init", files={INIT: None}),
    Variant(
        name="unhealthy",
        files={f"{CHECKS}/required.d/50-shop.sh": b"#!/bin/sh\necho the shop is closed >&2\nexit 3\n"},
    ),
    Variant(
        name="hangs",
        files={
            f"{UNITS}/endless.service": b"[Service]\nType=oneshot\nExecStart=/usr/bin/sleep infinity\n"
            b"[Unit]\nBefore=multi-user.target\n",
            f"{UNITS}/keelboot-trial.timer.d/10-soon.conf": b"[Timer]\nOnBootSec=\nOnBootSec=120s\n",
        },
        links={f"{UNITS}/multi-user.target.wants/endless.service": "../endless.service"},
    ),
    # The last one: the version that runs next finds what the firmware kept of its panic.
    Variant(name="damaged", longer=(CORE,), damaged=CORE),
)
MOUNT = "usr/lib/keelboot/mount-root"  # in the initramfs
MORE = (
    Variant(
        name="frozen",
        initramfs={MOUNT: b'#!/bin/sh\nfor one in /proc/[0-9]*; do kill -STOP "${one##*/}"; done\n'},
    ),
    Variant(name="endless", initramfs={MOUNT: b"#!/bin/sh\nsleep 10000\n"}, arguments=("rd.keelboot.timeout=40",)),
    Variant(name="no-initramfs", initrd="/EFI/keelboot/none/initrd"),
    Variant(name="swapped", swapped=True),
    Variant(
        name="no-shop",
        files={
            "usr/lib/keelboot/health.toml": b'required-services = ["shop.service"]\n',
            f"{UNITS}/shop.service": b"[Service]\nExecStart=/usr/bin/false\n",
        },
        links={f"{UNITS}/multi-user.target.wants/shop.service": "../shop.service"},
    ),
    Variant(name="hung-init", files={INIT: b"#!/bin/sh\nwhile :; do sleep 1000; done\n"}),
)
GOOD = Variant(
    name="good",
    files={
        "usr/lib/version-two": b"two\n",
        f"{CHECKS}/required.d/10-web.sh": b"#!/bin/sh\nsystemctl is-active nginx\n",
        "usr/lib/keelboot/health.toml": b'required-services = ["nginx.service"]\n',
        "usr/lib/greenboot/check/required.d/30-green.sh": b"#!/bin/sh\necho green\n",
        f"{CHECKS}/wanted.d/20-moon.sh": b"#!/bin/sh\necho it is cloudy\nexit 1\n",
    },
    tries=3,
)
# How often each is tried, how far it comes, and what is told of it.
REASONS = {
    "panic": (2, "", "did not get as far as the disk"),
    "no-initramfs": (1, "", "did not get as far as the disk"),
    "frozen": (1, "", "did not get as far as the disk"),
    "endless": (1, "", "was not done after 40 seconds, and still waited for keelboot-root.service"),
    "swapped": (1, "initramfs", "its initramfs refused to boot: the image is not the one that was asked for"),
    "no-init": (1, "root", "its init did not start"),
    "no-shop": (1, "up", "the required check shop.service failed"),
    "unhealthy": (1, "up", "the required check 50-shop.sh failed"),
    "hangs": (1, "init", "endless.service was still waited for"),
    "hung-init": (1, "root", "its init did not start"),
    "damaged": (1, "root", "the kernel panicked: Attempted to kill init"),
}
PRINTED = {"unhealthy": "the shop is closed"}


# Emulated, the second processor of a machine that restarts is without a timer once in a hundred times, and it hangs
# before its initramfs, where no watchdog is yet.
OPTIONS = ("--timeout", "1800", "--cpus", "1")


@dataclass(frozen=True)
class Ended:
    """What the machine was like when it had come to rest after the versions BAD, and its disk afterwards."""

    bad: tuple[Variant, ...]
    digests: dict[str, str]
    failures: dict[str, dict[str, Any]]
    answers: dict[str, str]
    entries: list[str]
    seconds: float


@pytest.fixture(scope="module", params=[FIVE, pytest.param(MORE, marks=pytest.mark.long)], ids=["five", "more"])
def ended(
    request: pytest.FixtureRequest, keelboot: Keelboot, built: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ended]:
    bad: tuple[Variant, ...] = request.param
    place = tmp_path_factory.mktemp("trial")
    file, key = place / "trial.img", new_key(place)
    succeeded(keelboot("disk", built.name, "-o", file, "--ssh-key", key.with_suffix(".pub")))
    with disk_of(file, built.name) as disk:
        versions = {one.name: disk.add(one, 100 - number).hex for number, one in enumerate((*bad, GOOD))}
        digests = versions | {"first": disk.digest.hex}
        began = time.monotonic()
        if bad[0].tries > 1:
            _cut_in_the_first_panic(file, place / "cut.log")
            assert next(name for name in disk.entries() if versions["panic"] in name).endswith("+1-1.conf")
        with Computer(file, key=key, log=place / "trial.log", options=OPTIONS) as computer:
            _until_it_rests(computer, versions["good"])
            seconds = time.monotonic() - began
            answers = {name: str(computer.ask(command).text) for name, command in QUESTIONS.items()}
        yield Ended(bad, digests, _by_name(answers["failures"]), answers, disk.entries(), seconds)
    file.unlink()


QUESTIONS = {
    "failures": "cat /sysroot/state/failures.json",
    "status": "keelboot status --json",
    "version": "cat /usr/lib/version-two",
    "root": "grep ' / ' /proc/mounts | tail -n 1",
    "watched": "journalctl -b -o cat --no-pager | "
    "grep -e 'a watchdog runs' -e '^Starting systemd-udevd' -e '^Mounting sysroot' | head -n 3",
    "journal": f"journalctl -b -o cat MESSAGE_ID={FAILED_ID}",
    "trial": "ls /run/keelboot/trial 2>&1; systemctl is-active keelboot-trial.timer keelboot-bless.service",
    "boots": 'cd /sysroot/state/boots && for f in *; do sed -n "/./s/^/$f /p" $f; done',
    "records": "cd /sysroot/state/deploy && grep -H '\"state\"' */origin.json",
    "health": "keelboot health",
    "health json": "keelboot health --json",
    "made ill": "mkdir -p /etc/keelboot/health.d && cd /etc/keelboot/health.d && "
    "printf '#!/bin/sh\\necho ouch; exit 1\\n' >x.sh && chmod +x x.sh && keelboot health; echo status $?",
    "healed": "ln -sf /dev/null /etc/keelboot/health.d/x.sh && keelboot health >/dev/null; echo status $?",
    "complaints": "journalctl -b -p err --no-pager -o cat",
    "units": "systemctl --failed --plain --no-legend; systemctl is-enabled systemd-bless-boot.service",
    "store": "touch /sysroot/x; mount | grep -c /run/keelboot/esp",
}


def _cut_in_the_first_panic(file: Path, log: Path) -> None:
    """Boot until the kernel has panicked, and cut the power: QEMU is killed with who started it."""
    log.touch()
    argv = [sys.executable, "-m", "keelboot.cli.main", "run", "--persist", "--log", log, file]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(SOURCE)}) as run:
        deadline = time.monotonic() + 120
        while b"Kernel panic" not in log.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.2)
        run.kill()
    assert b"Kernel panic" in log.read_bytes()


def _until_it_rests(computer: Computer, digest: str) -> None:
    """Wait until DIGEST runs and its boot is over; a bad version may have answered on the way there."""
    computer.hang_up()
    deadline = time.monotonic() + 1500
    running = ""
    while f"composefs={digest}" not in running:
        assert time.monotonic() < deadline, "the good version did not come up"
        time.sleep(1)  # between two questions to a machine that is down
        with suppress(subprocess.TimeoutExpired):
            running = computer.ask("cat /proc/cmdline", within=60).text
    computer.dial()
    computer.ask("systemctl is-system-running --wait")


def _by_name(failures: str) -> dict[str, dict[str, Any]]:
    return {one["image"].split("/")[-1].split(":")[0]: one for one in json.loads(failures)["failures"]}


def test_a_good_version_runs_in_the_end_and_is_kept(ended: Ended) -> None:
    assert ended.answers["root"].startswith(f"composefs:{ended.digests['good']} / overlay ro,")
    assert ended.answers["version"] == "two"
    assert f"keelboot-0000{100 - len(ended.bad)}-{ended.digests['good']}.conf" in ended.entries
    assert f'{ended.digests["good"]}/origin.json:  "state": "good"' in ended.answers["records"]


def test_the_version_before_it_stays(ended: Ended) -> None:
    assert f"keelboot-000001-{ended.digests['first']}.conf" in ended.entries


def test_no_bad_version_is_left_to_boot(ended: Ended) -> None:
    assert len(ended.entries) == 2


def test_each_failure_is_told(ended: Ended) -> None:
    assert set(ended.failures) == {one.name for one in ended.bad}
    found = {name: (told["tries"], told["stage"]) for name, told in ended.failures.items()}
    assert found == {one.name: REASONS[one.name][:2] for one in ended.bad}
    for name, told in ended.failures.items():
        assert told["composefs"] == ended.digests[name]
        assert REASONS[name][2] in told["reason"]
        assert PRINTED.get(name, "") in told["detail"]
        assert told["first"] <= told["last"]


def test_the_journal_and_the_status_tell_it(ended: Ended) -> None:
    # A bad version that comes up far enough has already told of those that were tried before it, in its own journal.
    last = ended.bad[-1].name
    told = [line for line in ended.answers["journal"].splitlines() if f"example/{last}:latest failed: " in line]
    assert REASONS[last][2] in told[0]
    assert ended.failures[last]["reason"] in ended.answers["status"]


def test_nothing_is_on_trial_any_more(ended: Ended) -> None:
    flag, timer, bless = ended.answers["trial"].splitlines()
    assert "No such file" in flag
    assert (timer, bless) == ("inactive", "active")


def test_it_was_watched_from_the_first_moment_of_the_initramfs(ended: Ended) -> None:
    first, second, third = ended.answers["watched"].splitlines()
    assert first.endswith("this boot is on trial, and a watchdog runs: iTCO_wdt")
    assert second.startswith("Starting systemd-udevd")
    assert third.startswith("Mounting sysroot")


def test_the_boot_record_has_every_stage(ended: Ended) -> None:
    lines = [line.split() for line in ended.answers["boots"].splitlines() if line.startswith(ended.digests["good"])]
    assert [line[3] for line in lines] == ["initramfs", "root", "init", "up", "good"]


def test_health_is_told_when_asked(ended: Ended) -> None:
    report = json.loads(ended.answers["health json"])
    assert report["passed"] is True
    results = {check["name"]: (check["required"], check["passed"]) for check in report["checks"]}
    assert results == {
        "systemd": (True, True),
        "nginx.service": (True, True),
        "10-web.sh": (True, True),
        "30-green.sh": (True, True),
        "20-moon.sh": (False, False),
    }
    assert "it is cloudy" in ended.answers["health"]
    assert "status 19" in ended.answers["made ill"]
    assert "ouch" in ended.answers["made ill"]
    assert ended.answers["healed"].endswith("status 0")


def test_nothing_complains(ended: Ended) -> None:
    assert [line for line in ended.answers["complaints"].splitlines() if "keelboot" in line] == []
    assert ended.answers["units"] == "masked"


def test_nobody_else_sees_the_esp_or_writes_the_store(ended: Ended) -> None:
    assert "Read-only file system" in ended.answers["store"]
    assert "0" in ended.answers["store"].splitlines()


def test_it_takes_minutes_and_no_operator(ended: Ended) -> None:
    assert ended.seconds < 1500
