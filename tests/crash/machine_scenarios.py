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
from dataclasses import dataclass, replace
from pathlib import Path

from keelboot.assembly.settings import Settings
from keelboot.boot import esp
from keelboot.boot.entries import Tries
from keelboot.failure import Failure
from keelboot.host import bless as blessing
from keelboot.host import (
    command_line,
    facts,
    garbage,
    kept,
    mounts,
    namespace,
    records,
    rollback,
    status,
    trial,
    upgrade,
)
from keelboot.host.boots import Stage
from keelboot.host.sysroot import Sysroot
from keelboot.host.upgrade import Wish
from keelboot.image.reference import Reference
from keelboot.image.tree import ObjectId
from small_machines import bless, boots, everything, faults, staged, version

MARK = "done"
NOW = 1_800_000_000.0
_CODES = {"ENOSPC": (0, 8), "EDQUOT": (0, 8), "EIO": (0, 1), "EMFILE": (0, 1), "EROFS": (0, 9), "EACCES": (0, 9)}


def _nothing_more(_: Path, __: Sysroot, ___: ObjectId) -> None:
    pass


@dataclass(frozen=True)
class Scenario:
    """ACT is what is interrupted, of a machine that runs the last of VERSIONS good ones and was made ready by FIRST.

    NEW tells from machines before and now whether what ACT commits is there; until it is, they boot the same.
    """

    versions: int
    act: Callable[[Path, Sysroot, ObjectId], object]
    new: Callable[[Sysroot, Sysroot], bool]
    first: Callable[[Path, Sysroot, ObjectId], object] = _nothing_more


def _wish(directory: Path, *, download_only: bool = False) -> Wish:
    return Wish(source=Reference.parse(f"oci:{directory}/v9"), jobs=1, download_only=download_only)


def _first(directory: Path, sysroot: Sysroot, _: ObjectId) -> object:
    return staged(sysroot, Reference.parse(f"oci:{directory}/v9"), tries=None)


def _next(directory: Path, sysroot: Sysroot, booted: ObjectId) -> object:
    return upgrade.update(sysroot, booted, _wish(directory))


def _download(directory: Path, sysroot: Sysroot, booted: ObjectId) -> object:
    return upgrade.update(sysroot, booted, _wish(directory, download_only=True))


def _downloaded(directory: Path, sysroot: Sysroot, booted: ObjectId) -> object:
    return upgrade.from_downloaded(sysroot, booted) if kept.downloaded(sysroot) else _next(directory, sysroot, booted)


def _back(_: Path, sysroot: Sysroot, booted: ObjectId) -> object:
    # Done again it would be taken back: that is what an operator sees and decides.
    if rollback.plan(sysroot, booted).takes_back:
        return None
    return rollback.rollback(sysroot, booted)


def _collect(_: Path, sysroot: Sysroot, booted: ObjectId) -> object:
    return garbage.collect(sysroot, booted)


def _arguments(_: Path, sysroot: Sysroot, __: ObjectId) -> object:
    return command_line.apply(sysroot, Settings(kargs=("mine=1",)))


def _tried(directory: Path, sysroot: Sysroot, booted: ObjectId, *, left: int) -> ObjectId:
    """The next version was staged, and the loader tried it until so many tries were LEFT."""
    digest = staged(sysroot, Reference.parse(f"oci:{directory}/v9"), parent=booted).digest
    [listed] = [one for one in esp.entries(sysroot.esp) if one.digest == digest]
    counted = replace(listed.entry, tries=Tries(left=left, done=3 - left))
    (sysroot.entries / listed.file_name).rename(sysroot.entries / counted.file_name)
    trial.note(sysroot, digest, Stage.INITRAMFS)
    return digest


def _exhausted(directory: Path, sysroot: Sysroot, booted: ObjectId) -> None:
    _tried(directory, sysroot, booted, left=0)


def _settle(_: Path, sysroot: Sysroot, booted: ObjectId) -> None:
    trial.settle(sysroot, booted, NOW, pstore=())


def _on_trial(directory: Path, sysroot: Sysroot, booted: ObjectId) -> None:
    runs = _tried(directory, sysroot, booted, left=2)
    (sysroot.deployment(runs) / "etc/upper").mkdir(parents=True)  # by its first boot
    (sysroot.run / "trial").touch()


def _bless(_: Path, sysroot: Sysroot, __: ObjectId) -> None:
    blessing.bless(sysroot, esp.entries(sysroot.esp)[0].digest)


def _blessed(_: Sysroot, now: Sysroot) -> bool:
    return not esp.entries(now.esp)[0].on_trial


def _more(before: Sysroot, now: Sysroot) -> bool:
    return len(boots(now)) > len(boots(before))


def _less(before: Sysroot, now: Sysroot) -> bool:
    return len(boots(now)) < len(boots(before))


SCENARIOS = {
    "install": Scenario(0, _first, _more),
    "upgrade": Scenario(1, _next, _more),
    "rollback": Scenario(2, _back, lambda before, now: boots(now)[0] != boots(before)[0]),
    "host-gc": Scenario(3, _collect, _less),
    "download": Scenario(1, _download, lambda _, now: kept.downloaded(now) is not None),
    "downloaded": Scenario(1, _downloaded, _more, first=_download),
    "kargs": Scenario(1, _arguments, _more),
    "settle": Scenario(1, _settle, _less, first=_exhausted),
    "bless": Scenario(1, _bless, _blessed, first=_on_trial),
}


def machine(directory: Path) -> Sysroot:
    return Sysroot(directory / "root", directory / "esp", directory / "run")


def runs(directory: Path, name: str) -> ObjectId:
    """The deployment that the machine of the scenario runs; before `bless` what it ran before."""
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
        scenario.first(directory, sysroot, runs(directory, name))
        end = directory / f"end-{name}/machine"
        shutil.copytree(seed, end, symlinks=True)
        act(directory, name, machine(end))
        settle(directory, name, machine(end))


def act(directory: Path, name: str, sysroot: Sysroot) -> None:
    """Do what the scenario is about, as the command does it: while nobody else changes the machine."""
    with namespace.locked(sysroot):
        SCENARIOS[name].act(directory, sysroot, runs(directory, name))


def settle(directory: Path, name: str, sysroot: Sysroot) -> None:
    """Remove what nothing needs; a machine that was just installed runs what it boots."""
    booted = runs(directory, name) if SCENARIOS[name].versions else esp.entries(sysroot.esp)[0].digest
    garbage.collect(sysroot, booted)


def work(name: str, directory: Path, target: Path) -> int:
    try:
        act(directory, name, machine(target))
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
    before, end = (machine(directory / f"{which}-{name}/machine") for which in ("seed", "end"))
    code, fault = int(os.environ.get("KILLPOINT_EXIT", "-1")), os.environ.get("KILLPOINT_FAULT", "")
    done = code == 0 or MARK in os.environ.get("POWERCUT_MARKS", "").split(",")
    assert fault in ("", "none", "kill") or code in _CODES[fault], f"exit code {code} for {fault}"
    assert boots(sysroot) or not scenario.versions, "it does not boot"
    new = scenario.new(before, sysroot)
    assert new or not done, f"it is done, and boots {boots(sysroot)}"
    assert new or boots(sysroot) == boots(before), boots(sysroot)
    # After a cut of the power objects that nothing names may be damaged; the next try replaces them.
    assert faults(sysroot, needed=not fault) == [], faults(sysroot, needed=not fault)
    if scenario.versions:
        assert records.find(sysroot, runs(directory, name)), "the record of what runs is gone"
        _tell(sysroot, runs(directory, name))
    if done:
        settle(directory, name, sysroot)
        _compare(sysroot, end)
    act(directory, name, sysroot)
    settle(directory, name, sysroot)
    assert faults(sysroot) == [], faults(sysroot)
    _compare(sysroot, end)
    assert [path.name for path in sysroot.state.rglob(".*")] == []


def _tell(sysroot: Sysroot, booted: ObjectId) -> None:
    """`status` works without repair, and knows what runs."""
    found = facts.gather(sysroot, mounts.parse(f"29 1 0:25 / / ro - overlay composefs:{booted.hex} ro\n"))
    assert not found.warnings, found.warnings
    assert status.document(found)["status"]["booted"]


def _compare(sysroot: Sysroot, end: Sysroot) -> None:
    assert boots(sysroot) == boots(end), boots(sysroot)
    have, want = everything(sysroot), everything(end)
    assert have == want, sorted(name for name in {**have, **want} if have.get(name) != want.get(name))


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
