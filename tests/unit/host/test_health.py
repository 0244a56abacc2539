"""Health checks: which are found, in what order, what overrides what, and that none of them can stop the machine."""

import os
import socket
import time
from pathlib import Path

import pytest

from keelboot.failure import InvalidSettings
from keelboot.host import checks, health, journal
from keelboot.host.checks import Found, Settings

USR, ETC = "usr/lib/keelboot/health.d", "etc/keelboot/health.d"


def script(root: Path, path: str, text: str, mode: int = 0o755) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def run(root: Path) -> health.Report:
    return health.check(root, system=False)


def results(root: Path) -> dict[str, tuple[bool, bool, str]]:
    return {check.name: (check.required, check.passed, check.output) for check in run(root).checks}


def test_a_machine_without_checks_is_healthy(tmp_path: Path) -> None:
    report = run(tmp_path)
    assert report.passed
    assert report.checks == ()
    assert report.reason == ""


def test_checks_run_in_the_order_of_their_names_wherever_they_are(tmp_path: Path) -> None:
    for number, directory in enumerate(sorted(checks.directories(), reverse=True)):
        script(tmp_path, f"{directory}/{number:02}-x.sh", "#!/bin/sh\necho $0\n")
    report = run(tmp_path)
    assert [check.name for check in report.checks] == [f"{number:02}-x.sh" for number in range(10)]
    assert [check.required for check in report.checks] == ["wanted.d" not in check.output for check in report.checks]
    assert report.passed


def test_a_required_check_decides_and_a_wanted_one_is_told(tmp_path: Path) -> None:
    script(tmp_path, f"{USR}/wanted.d/10-moon", "#!/bin/sh\necho cloudy >&2\nexit 7\n")
    assert run(tmp_path).passed
    script(tmp_path, f"{USR}/20-shop", "#!/bin/sh\necho closed\nexit 1\n")
    script(tmp_path, "etc/greenboot/check/required.d/30-door", "#!/bin/sh\nexit 4\n")
    report = run(tmp_path)
    assert not report.passed
    assert report.reason == "the required checks 20-shop, 30-door failed\nclosed"
    assert results(tmp_path) == {
        "10-moon": (False, False, "cloudy"),
        "20-shop": (True, False, "closed"),
        "30-door": (True, False, "exit status 4"),
    }
    assert report.value()["passed"] is False


def test_etc_overrides_and_masks_usr(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        script(tmp_path, f"{USR}/required.d/{name}", "#!/bin/sh\necho usr\nexit 1\n")
    script(tmp_path, f"{ETC}/required.d/a", "#!/bin/sh\necho etc\n")
    (tmp_path / ETC / "required.d/b").symlink_to("/dev/null")
    script(tmp_path, f"{ETC}/wanted.d/c", "#!/bin/sh\necho another\n")
    report = run(tmp_path)
    assert [(check.name, check.output) for check in report.checks] == [("a", "etc"), ("c", "another"), ("c", "usr")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/nonexistent/sh\n", "cannot be run"),
        ("no program at all", "cannot be run"),
        ("#!/bin/sh\nkill -9 $$\n", "ended by signal 9"),
        ("#!/bin/sh\nexec >&- 2>&-\nexit 1\n", "exit status 1"),
    ],
)
def test_a_check_that_breaks_has_failed(text: str, said: str, tmp_path: Path) -> None:
    script(tmp_path, f"{USR}/x", text)
    [check] = run(tmp_path).checks
    assert not check.passed
    assert said in check.output


def test_files_that_are_no_checks(tmp_path: Path) -> None:
    script(tmp_path, f"{USR}/.hidden", "#!/bin/sh\nexit 1\n")
    script(tmp_path, f"{USR}/old~", "#!/bin/sh\nexit 1\n")
    (tmp_path / USR / "dangling").symlink_to("nowhere")
    (tmp_path / USR / "other.d").mkdir()
    script(tmp_path, f"{USR}/README", "about these checks", 0o644)
    assert results(tmp_path) == {"README": (False, False, f"/{USR}/README may not be run")}
    assert run(tmp_path).passed


def test_only_the_end_of_much_output_is_kept(tmp_path: Path) -> None:
    script(tmp_path, f"{USR}/x", "#!/bin/sh\nseq 200000\nexit 1\n")
    [check] = run(tmp_path).checks
    assert check.output.endswith("\n199999\n200000")
    assert len(check.output) <= health.OUTPUT_KEPT


def test_a_check_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    script(tmp_path, "etc/keelboot/health.toml", "timeout-seconds = 0.5\n", 0o644)
    script(tmp_path, f"{USR}/x", f"#!/bin/sh\necho waiting\nsleep 100 &\necho $! >{tmp_path}/pid\nsleep 100\n")
    began = time.monotonic()
    [check] = run(tmp_path).checks
    assert time.monotonic() - began < 30
    assert not check.passed
    assert check.output == "it was stopped after 0 s\nwaiting"
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _lives(child)


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_check_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    script(tmp_path, f"{USR}/x", f"#!/bin/sh\nsleep 60 &\necho $! >{tmp_path}/pid\necho fine\n")
    began = time.monotonic()
    [check] = run(tmp_path).checks
    os.kill(int((tmp_path / "pid").read_text()), 9)
    assert time.monotonic() - began < 30
    assert (check.passed, check.output) == (True, "fine")


def test_settings_of_image_and_machine_are_read_together() -> None:
    assert checks.settings([]) == Settings()
    assert checks.settings(
        [
            ("usr/a", b'required-services = ["nginx", "ssh.service"]\ntimeout-seconds = 5\n'),
            ("etc/a", b'required-services = ["nginx", "shop@1.service"]\ntimeout-seconds = 7.5\n'),
        ]
    ) == Settings(services=("nginx.service", "ssh.service", "shop@1.service"), timeout=7.5)


@pytest.mark.parametrize(
    "text",
    [
        b"required-services",
        b"\xff",
        b'required-services = "nginx"',
        b"required-services = [1]",
        b'required-services = ["-rf"]',
        b'required-services = ["a b"]',
        b'required-services = [""]',
        b"timeout-seconds = 0",
        b"timeout-seconds = true",
        b'timeout-seconds = "5"',
        b"timeout-seconds = nan",
        b"timeout = 5",
    ],
)
def test_bad_settings_are_refused_and_are_a_failed_check(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"health\.toml"):
        checks.settings([("etc/keelboot/health.toml", text)])
    (tmp_path / "etc/keelboot").mkdir(parents=True)
    (tmp_path / "etc/keelboot/health.toml").write_bytes(text)
    script(tmp_path, f"{USR}/x", "#!/bin/sh\n")
    report = run(tmp_path)
    assert [(check.name, check.passed) for check in report.checks] == [("health.toml", False), ("x", True)]
    assert not report.passed


def test_jobs_that_systemd_still_works_on() -> None:
    jobs = """\
 165 keelboot-health.service  start running
 166 boot-complete.target     start waiting
 170 keelboot-bless.service   start waiting
 201 slow.service             start running
 202 after-slow.service       start waiting
"""
    assert checks.waited_for(jobs, health.OWN_UNITS) == ["slow.service"]
    assert checks.waited_for("No jobs running.\n", health.OWN_UNITS) == []


def test_masks_hide_only_their_own_directory() -> None:
    found = [Found(USR, "x"), Found(f"{USR}/wanted.d", "x"), Found(f"{ETC}/wanted.d", "x", masked=True)]
    assert [one.path for one in checks.scripts(found, checks.directories())] == [f"{USR}/x"]


def test_a_message_reaches_the_journal_whole(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        journal.send("two\nlines", "ab" * 16, priority=4, path=tmp_path / "socket", KEELBOOT_REASON="x")
        data = listener.recv(65536)
    assert data.startswith(b"MESSAGE\n" + (9).to_bytes(8, "little") + b"two\nlines\n")
    assert b"MESSAGE_ID\n" + (32).to_bytes(8, "little") + b"ab" * 16 + b"\n" in data
    assert b"KEELBOOT_REASON\n" in data
    journal.send("nobody listens", "ab" * 16, priority=4, path=tmp_path / "nowhere")


@pytest.mark.parametrize(("passed", "said"), [(True, "green"), (False, "red")])
def test_greenboots_programs_run_afterwards_and_decide_nothing(passed: bool, said: str, tmp_path: Path) -> None:
    for colour in ("green", "red"):
        script(tmp_path, f"etc/greenboot/{colour}.d/10-tell.sh", f"#!/bin/sh\necho {colour}; exit 1\n")
    (found,) = health.afterwards(tmp_path, passed=passed)
    assert (found.output, found.required, found.passed) == (said, False, False)
