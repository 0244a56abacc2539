"""What is done to a machine while it is killed, refused or cut off from power, and who judges what is left.

    machine_scenarios.py prepare DIR              images, machines to start from and machines to end in
    machine_scenarios.py work NAME DIR MACHINE    the work that is interrupted
    machine_scenarios.py judge NAME DIR MACHINE   exit 0 if MACHINE boots old or new, and doing it again ends the same

A machine is a directory with root/, esp/ and run/. The ESP lies on the same filesystem here: what FAT adds to it is for
a virtual machine. KILLPOINT_* and POWERCUT_* are as in scenarios.py.
"""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keelboot.boot import esp
from keelboot.failure import Failure
from keelboot.host import garbage, records, rollback
from keelboot.host.sysroot import Sysroot
from keelboot.image.reference import Reference
from keelboot.image.tree import ObjectId
from small_machines import bless, boots, everything, faults, staged, version

MARK = "done"
_CODES = {"ENOSPC": (0, 8), "EDQUOT": (0, 8), "EIO": (0, 1), "EMFILE": (0, 1), "EROFS": (0, 9), "EACCES": (0, 9)}


@dataclass(frozen=True)
class Scenario:
    """ACT is what is interrupted, of a machine that runs the last of VERSIONS good ones; NEW says how that is seen."""

    versions: int
    act: Callable[[Path, Sysroot, ObjectId], object]
    new: Callable[[list[str], list[str]], bool]  # the entries before and now -> whether it is done


def _next(directory: Path, sysroot: Sysroot, booted: ObjectId) -> object:
    return staged(sysroot, Reference.parse(f"oci:{directory}/v9"), parent=booted)


def _first(directory: Path, sysroot: Sysroot, _: ObjectId) -> object:
    return staged(sysroot, Reference.parse(f"oci:{directory}/v9"), tries=None)


def _back(_: Path, sysroot: Sysroot, booted: ObjectId) -> object:
    # Done again it would be taken back: that is what an operator sees and decides.
    if rollback.plan(sysroot, booted).takes_back:
        return None
    return rollback.rollback(sysroot, booted)


def _collect(_: Path, sysroot: Sysroot, booted: ObjectId) -> object:
    return garbage.collect(sysroot, booted)


SCENARIOS = {
    "install": Scenario(0, _first, lambda _, now: len(now) == 1),
    "upgrade": Scenario(1, _next, lambda before, now: len(now) > len(before)),
    "rollback": Scenario(2, _back, lambda before, now: now[0] != before[0]),
    "host-gc": Scenario(3, _collect, lambda before, now: len(now) < len(before)),
}


def machine(directory: Path) -> Sysroot:
    return Sysroot(directory / "root", directory / "esp", directory / "run")


def runs(directory: Path, name: str) -> ObjectId:
    """The deployment that the machine of the scenario runs."""
    file = directory / f"runs-{name}"
    return ObjectId(file.read_text() if file.exists() else "0" * 64)


def prepare(directory: Path) -> None:
    """Make seed-NAME/machine and end-NAME/machine for every scenario."""
    version(directory, 9, kernel=True)
    for name, scenario in SCENARIOS.items():
        seed = directory / f"seed-{name}/machine"
        for part in ("root", "esp", "run"):
            (seed / part).mkdir(parents=True)
        sysroot = machine(seed)
        parent: ObjectId | None = None
        for number in range(1, scenario.versions + 1):
            source = version(directory, number, kernel=True)
            parent = staged(sysroot, source, parent=parent, tries=3 if parent else None).digest
            bless(sysroot, parent)
        if parent:
            (directory / f"runs-{name}").write_text(parent.hex)
        end = directory / f"end-{name}/machine"
        shutil.copytree(seed, end, symlinks=True)
        scenario.act(directory, machine(end), runs(directory, name))
        settle(directory, name, machine(end))


def settle(directory: Path, name: str, sysroot: Sysroot) -> None:
    """Remove what nothing needs; a machine that was just installed runs what it boots."""
    booted = runs(directory, name) if SCENARIOS[name].versions else esp.entries(sysroot.esp)[0].digest
    garbage.collect(sysroot, booted)


def work(name: str, directory: Path, target: Path) -> int:
    try:
        SCENARIOS[name].act(directory, machine(target), runs(directory, name))
    except Failure as failure:
        print(failure, file=sys.stderr)
        return failure.exit_code
    if "POWERCUT" in os.environ:
        os.spawnlp(os.P_WAIT, os.environ["POWERCUT"], os.environ["POWERCUT"], "mark", MARK)
    return 0


def judge(name: str, directory: Path, target: Path) -> None:
    """Raises AssertionError, and Failure in one line, as the tools show the last."""
    try:
        _judge(name, directory, target)
    except Failure as failure:
        raise AssertionError(" ".join(str(failure).split())) from failure


def _judge(name: str, directory: Path, target: Path) -> None:
    scenario, sysroot = SCENARIOS[name], machine(target)
    code, fault = int(os.environ.get("KILLPOINT_EXIT", "-1")), os.environ.get("KILLPOINT_FAULT", "")
    done = code == 0 or MARK in os.environ.get("POWERCUT_MARKS", "").split(",")
    assert fault in ("", "none", "kill") or code in _CODES[fault], f"exit code {code} for {fault}"
    before, now = boots(machine(directory / f"seed-{name}/machine")), boots(sysroot)
    assert (now == [] and not scenario.versions) or now, "it does not boot"
    assert not done or scenario.new(before, now), f"it is done, and boots {now}"
    if not scenario.new(before, now) and name != "host-gc":
        assert now == before, now
    # After a cut of the power objects that nothing names may be damaged; the next try replaces them.
    assert faults(sysroot, needed=not fault) == [], faults(sysroot, needed=not fault)
    if scenario.versions:
        assert records.find(sysroot, runs(directory, name)), "the record of what runs is gone"
    scenario.act(directory, sysroot, runs(directory, name))
    settle(directory, name, sysroot)
    assert faults(sysroot) == [], faults(sysroot)
    end = machine(directory / f"end-{name}/machine")
    assert boots(sysroot) == boots(end), boots(sysroot)
    assert everything(sysroot) == everything(end), set(everything(sysroot).items()) ^ set(everything(end).items())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["prepare", place]:
            prepare(Path(place))
        case ["work", chosen, place, target]:
            sys.exit(work(chosen, Path(place), Path(target)))
        case ["judge", chosen, place, target]:
            judge(chosen, Path(place), Path(target))
        case _:
            sys.exit(__doc__)
