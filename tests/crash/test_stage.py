"""Staging, rolling back and collecting cut after each step: by a child process that ends there, so that no cleaning up
runs. keelboot.host.stage, rollback and garbage have a row for each of these.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from keelboot.boot import esp
from keelboot.host import bless, garbage, records, rollback, signatures, stage
from keelboot.host.admission import Terms
from keelboot.host.sysroot import Sysroot
from keelboot.image.transports import open_image
from small_machines import boots, everything, faults, machine, staged, version, with_versions

Cut = Callable[[str], None]


def cut(after: str, during: Callable[[Cut], object]) -> None:
    """Run DURING in a child that ends when it reaches AFTER."""
    child = os.fork()
    if not child:
        try:
            during(lambda step: os._exit(9) if step == after else None)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, f"{after} was not reached"


@pytest.mark.parametrize("step", stage.STEPS)
def test_stage_cut_after(step: str, tmp_path: Path) -> None:
    """No entry ever names what is not there; before the last step the old version boots; staging again finishes."""
    sysroot, [first] = with_versions(tmp_path, 1)
    source = version(tmp_path, 2, kernel=True)
    cut(step, lambda reached: staged(sysroot, source, parent=first, reached=reached))
    assert faults(sysroot) == []
    new = boots(sysroot)[:-1]
    assert boots(sysroot)[-1] == first.hex[:8]
    assert len(new) == (step == "entry")
    if step != "entry":
        record = staged(sysroot, source, parent=first)
        assert boots(sysroot) == [f"{record.digest.hex[:8]}+3", first.hex[:8]]
    assert faults(sysroot) == []
    (tmp_path / "twin").mkdir()
    twin, _ = with_versions(tmp_path / "twin", 1)
    staged(twin, source, parent=first)
    garbage.collect(sysroot, first)
    assert everything(sysroot) == everything(twin)


@pytest.mark.parametrize("step", stage.STEPS)
def test_stage_cut_after_and_given_up(step: str, tmp_path: Path) -> None:
    """What a cut leaves goes with the next gc, but for a version that was staged completely."""
    sysroot, [first] = with_versions(tmp_path, 1)
    before = everything(sysroot)
    source = version(tmp_path, 2, kernel=True)
    cut(step, lambda reached: staged(sysroot, source, parent=first, reached=reached))
    garbage.collect(sysroot, first)
    assert faults(sysroot) == []
    assert (everything(sysroot) == before) == (step != "entry")


@pytest.mark.parametrize("step", stage.STEPS)
def test_the_first_version_cut_after(step: str, tmp_path: Path) -> None:
    """An installation: nothing boots before the last step, and installing again finishes."""
    sysroot = machine(tmp_path)
    source = version(tmp_path, 1)
    cut(step, lambda reached: staged(sysroot, source, tries=None, reached=reached))
    assert faults(sysroot) == []
    assert len(boots(sysroot)) == (step == "entry")
    record = staged(sysroot, source, tries=None)
    assert boots(sysroot)[0] == record.digest.hex[:8]
    garbage.collect(sysroot, record.digest)
    assert boots(sysroot) == [record.digest.hex[:8]]
    assert faults(sysroot) == []


@pytest.mark.parametrize(
    "step", [step for step in stage.STEPS if step not in ("contents", "records", "kernel", "entry")]
)
def test_a_download_cut_after(step: str, tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    source = version(tmp_path, 2)
    cut(step, lambda reached: staged(sysroot, source, parent=first, download_only=True, reached=reached))
    assert boots(sysroot) == [first.hex[:8]]
    record = staged(sysroot, source, parent=first, download_only=True)
    with stage.stored(sysroot, record) as candidate:
        stage.commit(sysroot, candidate, signatures.admit_downloaded(sysroot, first, record, Terms()), parent=first)
    assert boots(sysroot) == [f"{record.digest.hex[:8]}+3", first.hex[:8]]
    assert faults(sysroot) == []


@pytest.mark.parametrize("with_staged", [True, False], ids=["staged", "none staged"])
@pytest.mark.parametrize("step", rollback.STEPS)
def test_rollback_cut_after(step: str, with_staged: bool, tmp_path: Path) -> None:
    """The entry decides; what a cut leaves behind it goes with gc, and nothing boots that was not meant to."""
    sysroot, [first, second] = with_versions(tmp_path, 2)
    if with_staged:
        staged(sysroot, version(tmp_path, 3), parent=second)
    before = boots(sysroot)
    cut(step, lambda reached: rollback.rollback(sysroot, second, reached=reached))
    assert records.read(sysroot, second).rolled_back
    assert faults(sysroot) == []
    if step == "mark":
        assert boots(sysroot) == before
        assert bless.due(sysroot, second), "its next boot takes the mark away"
        rollback.rollback(sysroot, second)
    assert boots(sysroot)[0] == first.hex[:8]
    garbage.collect(sysroot, first)
    assert boots(sysroot) == [first.hex[:8], second.hex[:8]]
    assert faults(sysroot) == []


@pytest.mark.parametrize("step", rollback.STEPS)
def test_taking_a_rollback_back_cut_after(step: str, tmp_path: Path) -> None:
    sysroot, [first, second] = with_versions(tmp_path, 2)
    rollback.rollback(sysroot, second)
    cut(step, lambda reached: rollback.rollback(sysroot, second, reached=reached))
    if step == "mark":
        rollback.rollback(sysroot, second)
    assert boots(sysroot)[0] == second.hex[:8]
    garbage.collect(sysroot, second)
    assert boots(sysroot) == [second.hex[:8], first.hex[:8]]
    assert records.read(sysroot, second).rolled_back == (step not in ("mark", "records"))
    assert bless.due(sysroot, second) == (step not in ("mark", "records")), "its next boot takes the mark away"


@pytest.mark.parametrize("step", garbage.STEPS)
def test_gc_cut_after(step: str, tmp_path: Path) -> None:
    """What is kept is never touched, and the next gc ends where one without a cut does."""
    sysroot, digests = with_versions(tmp_path, 3, kernel=True)
    sysroot.boots.mkdir()
    for digest in digests:
        (sysroot.boots / digest.hex).touch()
    twin = Sysroot(tmp_path / "twin/root", tmp_path / "twin/esp", tmp_path / "twin/run")
    for one, other in ((sysroot.root, twin.root), (sysroot.esp, twin.esp)):
        shutil.copytree(one, other, symlinks=True)
    garbage.collect(twin, digests[2])
    cut(step, lambda reached: garbage.collect(sysroot, digests[2], reached=reached))
    assert boots(sysroot) == [digests[2].hex[:8], digests[1].hex[:8]]
    assert faults(sysroot) == []
    garbage.collect(sysroot, digests[2])
    assert everything(sysroot) == everything(twin)


def test_a_cut_in_the_middle_of_removing_a_deployment(tmp_path: Path) -> None:
    sysroot, digests = with_versions(tmp_path, 3)
    (sysroot.deployments / ".gone-1234").mkdir()
    (sysroot.deployments / ".draft-1234/etc").mkdir(parents=True)
    assert len(records.rests(sysroot)) == 2
    assert records.damaged(sysroot) == []
    garbage.collect(sysroot, digests[2])
    assert records.rests(sysroot) == []


@pytest.mark.parametrize("number", range(1, 12))
def test_stage_cut_at_a_rename(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between the steps: right before each name that appears in state and on the ESP."""
    sysroot, [first] = with_versions(tmp_path, 1)
    source = version(tmp_path, 2, kernel=True)
    count = iter(range(1, 100))

    def ending(kind: str) -> None:
        original = getattr(os, kind)

        def renaming(*words: object, **named: object) -> None:
            if next(count) == number:
                os._exit(9)
            original(*words, **named)

        monkeypatch.setattr(os, kind, renaming)

    with monkeypatch.context():
        for kind in ("rename", "fsync"):
            ending(kind)
        with open_image(source) as image:
            cut("never", lambda _: stage.stage(sysroot, image, parent=first, jobs=1))
    monkeypatch.undo()
    assert faults(sysroot) == []
    assert boots(sysroot) == [first.hex[:8]]
    record = staged(sysroot, source, parent=first)
    assert boots(sysroot) == [f"{record.digest.hex[:8]}+3", first.hex[:8]]
    garbage.collect(sysroot, first)
    assert esp.drafts(sysroot.esp) == []
    assert faults(sysroot) == []
