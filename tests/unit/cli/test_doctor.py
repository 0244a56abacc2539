import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from keelboot.build.mirror import Target
from keelboot.cli import main, tools
from keelboot.cli.tools import Found, Tool

Keelboot = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("version", "oldest", "too_old"),
    [
        ("4.3.1", (4, 3), False),
        ("4.2.9", (4, 3), True),
        ("10.0.2", (10, 0), False),
        ("9.2", (10, 0), True),
        ("", (1,), False),
    ],
)
def test_versions_are_compared_as_numbers(version: str, oldest: tuple[int, ...], too_old: bool) -> None:
    assert Found(Tool("x", "x", (), oldest=oldest), "/x", version).too_old is too_old


def test_every_verb_that_is_named_exists() -> None:
    assert {verb for tool in tools.TOOLS for verb in tool.verbs} <= main.VERBS.keys()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let this machine be another."""

    def be(release: tuple[str, str], targets: Sequence[Target] = (), *, apt: bool = True) -> None:
        monkeypatch.setattr(tools.mirror, "release", lambda: release)
        monkeypatch.setattr(tools.mirror, "configured", lambda: list(targets))
        monkeypatch.setattr(tools.command, "find", lambda _: Path("/usr/bin/apt-get") if apt else None)

    return be


BOOKWORM = Target("http://a.invalid/debian", "bookworm")


def test_install_on_a_machine_with_apt(machine: Callable[..., None]) -> None:
    machine(("debian", "trixie"))
    assert tools.install(["podman", "qemu-utils"], root=False) == [
        "sudo apt-get update",
        "sudo apt-get install --no-install-recommends podman qemu-utils",
    ]
    assert tools.install([], root=True) == []


def test_debian_12_gets_qemu_from_its_own_mirror_s_backports(machine: Callable[..., None]) -> None:
    machine(("debian", "bookworm"), [BOOKWORM])
    lines = tools.install(["podman", "qemu-system-x86"], root=True)
    assert "'URIs: http://a.invalid/debian' 'Suites: bookworm-backports'" in lines[0]
    assert lines[1:] == [
        "apt-get update",
        "apt-get install --no-install-recommends podman",
        "apt-get install --no-install-recommends -t bookworm-backports qemu-system-x86",
    ]
    machine(("debian", "bookworm"), [BOOKWORM, Target("http://a.invalid/debian", "bookworm-backports")])
    assert tools.install(["qemu-utils"], root=True) == [
        "apt-get update",
        "apt-get install --no-install-recommends -t bookworm-backports qemu-utils",
    ]


def test_elsewhere_nothing_is_made_up(machine: Callable[..., None]) -> None:
    machine(("fedora", ""), apt=False)
    assert tools.install(["podman"], root=True) == []


def test_missing_tools_are_told_with_their_packages(keelboot: Keelboot, tmp_path: Path) -> None:
    done = keelboot("doctor", "--json", env={"PATH": str(tmp_path)})
    told = json.loads(done.stdout)
    assert done.returncode == 3
    assert told["ok"] is False
    assert {"podman", "mmdebstrap", "mtools"} <= set(told["missingPackages"])
    assert {tool["program"] for tool in told["tools"] if tool["path"] is None} >= {"podman", "mmdebstrap"}


def test_the_text_says_the_same_as_the_json(keelboot: Keelboot) -> None:
    text, told = keelboot("doctor"), keelboot("doctor", "--json")
    assert text.returncode == told.returncode in {0, 3}
    facts = json.loads(told.stdout)
    assert all(tool["program"] in text.stdout for tool in facts["tools"])
    assert all(check["name"] in text.stdout for check in facts["checks"])
    assert all(line in text.stdout for line in facts["install"])
    assert ("Everything needed is here" in text.stdout) == facts["ok"]
