"""The power fails at every flush while versions come and go on the ESP: what is left there boots the old or the new.

A machine keeps a log of what it asks its disk to write, while each verb that changes the ESP runs once, and a version
passes its trial. The log is replayed here: everything up to a flush, and after it nothing, a random part, or a random
part with each request cut at a sector.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from boot import writelog
from boot.computer import new_key
from boot.conftest import Built, Keelboot, succeeded
from boot.esp_judge import Step, look
from boot.partitions import partitions
from boot.registry import serving
from boot.workbench import Workbench

ROOT = Path(__file__).resolve().parents[2]
POWERCUT = ROOT.parent / "shared/tools/powercut"
pytestmark = [
    pytest.mark.machine,
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not POWERCUT.exists(), reason="../shared/tools/powercut is not here"),
]
CONTEXT = Path(__file__).with_name("cuts")
TRIAL = "trial"
# Each is one step; "" restarts the machine, which tries what is staged and finds it good.
STEPS = {
    "switch": "keelboot switch docker://{registry}/cuts:2",
    TRIAL: "",
    "kargs": "keelboot kargs set example=1",
    "switch-again": "keelboot switch docker://{registry}/cuts:3",
    "rollback": "keelboot rollback",
    "gc": "keelboot gc",
}


@dataclass(frozen=True)
class Replayed:
    """What every point came to, and powercut's own words."""

    points: list[dict[str, Any]]
    said: str

    @property
    def survived(self) -> int:
        return sum(not point["faults"] for point in self.points)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("cuts")
    yield directory
    for image in directory.glob("*.img"):
        image.unlink()


@pytest.fixture(scope="module")
def recorded(keelboot: Keelboot, built: Built, place: Path) -> Path:
    """A directory with the ESP's part of what a machine wrote in all its steps, and what each step may lead to."""
    for version in (2, 3):
        words = ("build", "-t", f"localhost/keelboot-test/cuts:{version}", "--build-arg", f"VERSION={version}")
        succeeded(keelboot(*words, CONTEXT, timeout=1200))
    key, disk = new_key(place), place / "machine.img"
    succeeded(keelboot("disk", built.name, "-o", disk, "--ssh-key", key.with_suffix(".pub")))
    partition = partitions(disk)["esp"]
    before = partition.extract(place / "before.img")
    marks = lived(Workbench(disk, key=key, log=place / "machine.log", writes=writelog.prepare(place / "writes.img")))
    writelog.cut_out(place / "writes.img", partition, before, place, marks)
    (place / "steps.json").write_text(json.dumps([asdict(step) for step in steps(place, before)]))
    return place


def lived(machine: Workbench) -> list[tuple[int, str]]:
    """Have MACHINE go through all steps; returns how long its log was at the beginning and after each."""
    (place := machine.log.parent / "registry").mkdir()
    with serving(place) as registry, machine:
        for version in (2, 3):
            registry.push(f"localhost/keelboot-test/cuts:{version}", f"cuts:{version}")
        machine.told(registry.trust())
        machine.told("systemctl is-system-running --wait; sync")
        marks = [(writelog.length(machine.writes), "start")]
        for name, command in STEPS.items():
            if command:
                machine.told(command.format(registry=registry.inside))
            else:
                machine.reboot()
            marks.append((writelog.length(machine.writes), name))
    return marks


def steps(place: Path, before: Path) -> Iterator[Step]:
    """What the loader boots before and after each step; the last is that the machine is switched off."""
    seen = {name: look(image) for name, image in writelog.states(place, before)}
    assert list(seen) == ["", *STEPS]
    assert not any(one.faults for one in seen.values())
    values = list(seen.values())
    for name, old, new in zip([*STEPS, "off"], values, [*values[1:], values[-1]], strict=True):
        # FAT may lose a name that is being changed: the loader counts a try down, and a good version loses its counter.
        also = [*values[0].usable, old.head.replace("+3-0", "+2-1")] if name == TRIAL else []
        yield Step(name, old.head, new.head, old.names, new.names, also)


@pytest.fixture(scope="module")
def replayed(recorded: Path) -> Replayed:
    results = recorded / "results.jsonl"
    check = (
        f"'{sys.executable}' '{Path(__file__).with_name('esp_judge.py')}' '{{}}' '{recorded}/steps.json' '{results}'"
    )
    done = subprocess.run(
        [sys.executable, POWERCUT, "replay", "--dir", recorded, "--fs", "none", "--check", check],
        env={"PYTHONPATH": f"{ROOT}/src:{ROOT}/tests", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert results.exists(), done.stdout + done.stderr
    return Replayed([json.loads(line) for line in results.read_text().splitlines()], done.stdout + done.stderr)


def test_every_cut_leaves_a_machine_that_boots(replayed: Replayed) -> None:
    points = replayed.points
    print(f"power cuts on the ESP: {replayed.survived} of {len(points)} survived")
    print("by step and outcome:", dict(Counter(f"{point['step']} {point['outcome']}" for point in points)))
    print("with more for fsck.fat than the mark of being mounted:", sum("lost" in point for point in points))
    assert f"{len(points)} points, 0 failed" in replayed.said, replayed.said


def test_there_were_enough_of_them(replayed: Replayed) -> None:
    assert len(replayed.points) > 100
    for step in STEPS:
        outcomes = {point["outcome"] for point in replayed.points if point["step"] == step}
        assert {"old", "new"} <= outcomes, step
