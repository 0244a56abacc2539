"""A factory reset cut before each of its commands: the shell functions of the initramfs, in a machine of directories.

docs/formats/deployment.md, "Factory reset", has a row for each state that this leaves.
"""

import re
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

SCRIPT = files("keelboot.initramfs").joinpath("dracut/90keelboot/mount-root.sh").read_text()
FUNCTIONS = "".join(
    found[0]
    for name in ("reset_etc", "reset_var")
    if (found := re.search(rf"^{name}\(\) {{\n.*?^}}\n", SCRIPT, re.MULTILINE | re.DOTALL))
)
# Each command that changes something counts, and the one with the number $2 is where the power fails.
CUT = """
set -eu
store=$1/sysroot new=$1/new at=$2
step() { at=$((at - 1)); [ "$at" != 0 ] || exit 9; }
for command in mkdir mv rm sync; do eval "$command() { step; command $command \\"\\$@\\"; }"; done
"""
# What the script does between the two: the deployment that boots gets an /etc of its own.
BOOT = """
reset_etc
mkdir -p "$store/state/deploy/aa/etc/upper"
reset_var
"""
DEPLOYMENTS = ("aa", "bb")


def boot(place: Path, cut_at: int = 0) -> bool:
    """Whether the machine came up; it does not if the power failed."""
    done = subprocess.run(["sh", "-c", CUT + FUNCTIONS + BOOT, "sh", place, str(cut_at)], check=False)
    assert done.returncode in (0, 9)
    return done.returncode == 0


def machine(place: Path) -> Path:
    for name in DEPLOYMENTS:
        mine = place / f"sysroot/state/deploy/{name}/etc/upper/mine"
        mine.parent.mkdir(parents=True)
        mine.touch()
        (place / f"sysroot/state/deploy/{name}/origin.json").touch()
    for name in ("data/database", ".hidden/file", "..odd/file", "lost+found/kept"):
        (place / "new/var" / name).parent.mkdir(parents=True)
        (place / "new/var" / name).touch()
    (place / "sysroot/state/factory-reset").touch()
    return place


def remembered(place: Path) -> list[str]:
    """What is still there of the machine before."""
    return sorted(
        path.name
        for top in ("sysroot/state/deploy", "new/var")
        for path in (place / top).rglob("*")
        if path.name in {"mine", "database", "file"}
    )


def test_it_counts_what_it_cuts() -> None:
    assert FUNCTIONS.count("\n}\n") == 2


@pytest.mark.parametrize("step", range(1, 15))
def test_cut_before(step: int, tmp_path: Path) -> None:
    place = machine(tmp_path)
    mark = place / "sysroot/state/factory-reset"
    assert not boot(place, step), "there are fewer steps: every one was cut"
    assert mark.exists() or remembered(place) == [], "it is said to be done, and is not"
    assert boot(place)
    assert not mark.exists()
    assert remembered(place) == []
    assert not (place / "sysroot/state/reset").exists()
    assert (place / "new/var/lost+found/kept").exists()
    assert sorted(path.name for path in (place / "sysroot/state/deploy").iterdir()) == list(DEPLOYMENTS)
    assert (place / "sysroot/state/deploy/bb/origin.json").exists()


def test_all_of_its_steps_are_cut(tmp_path: Path) -> None:
    assert boot(machine(tmp_path), 15)
