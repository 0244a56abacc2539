"""Versions whose tries ran out, on plain directories: what is remembered, whatever moment the power fails."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from keelboot.assembly.record import State
from keelboot.boot import esp
from keelboot.boot.entries import Tries
from keelboot.boot.esp import Listed
from keelboot.failure import Failure
from keelboot.host import bless, failed, garbage, records, trial
from keelboot.host.boots import Line, Stage
from keelboot.host.failed import KEPT, FailedVersion
from keelboot.host.sysroot import Sysroot
from keelboot.image.refusal import Refused
from keelboot.image.tree import ObjectId
from small_machines import staged, version, with_versions

NOW = 1_800_000_000.0


def tried(sysroot: Sysroot, digest: ObjectId, done: int, left: int = 0) -> None:
    """What the loader does to the entry of DIGEST."""
    [listed] = [one for one in esp.entries(sysroot.esp) if one.digest == digest]
    counted = replace(listed.entry, tries=Tries(left=left, done=done))
    (sysroot.entries / listed.file_name).rename(sysroot.entries / counted.file_name)


def lines(sysroot: Sysroot, digest: ObjectId, *stages: str) -> None:
    """What boots leave: one for each of STAGES, a stage and perhaps a text."""
    sysroot.boots.mkdir(exist_ok=True)
    with (sysroot.boots / digest.hex).open("ab") as file:
        for number, words in enumerate(stages):
            stage, _, text = words.partition(" ")
            file.write(Line(f"{number:08x}", 1_700_000_000 + number, Stage(stage), text).encode())


@pytest.fixture
def failing(tmp_path: Path) -> tuple[Sysroot, ObjectId, ObjectId]:
    """A machine that runs its first version, as the second one's tries are used up."""
    sysroot, [first] = with_versions(tmp_path, 1)
    second = staged(sysroot, version(tmp_path, 2), parent=first).digest
    tried(sysroot, second, done=3)
    lines(sysroot, second, "initramfs", "unhealthy the required check shop failed\nit is closed", "root")
    return sysroot, first, second


def settle(sysroot: Sysroot, booted: ObjectId, **more: object) -> list[FailedVersion]:
    return trial.settle(sysroot, booted, NOW, **({"pstore": ()} | more))  # type: ignore[arg-type]


def test_a_version_that_failed_is_remembered_with_the_reason(failing: tuple[Sysroot, ObjectId, ObjectId]) -> None:
    sysroot, first, second = failing
    record = records.read(sysroot, second)
    [told] = settle(sysroot, first)
    assert told == FailedVersion(
        digest=second,
        manifest_digest=record.manifest_digest,
        image=record.image,
        first="2023-11-14T22:13:20Z",
        last="2023-11-14T22:13:22Z",
        tries=3,
        stage="root",
        reason="the required check shop failed",
        detail="it is closed",
        entry=f"keelboot-000002-{second.hex}",
    )
    assert trial.failures(sysroot) == [told]
    assert records.read(sysroot, second).state is State.BAD
    assert [one.digest for one in esp.entries(sysroot.esp)] == [first]
    assert trial.history(sysroot, second) == []
    assert settle(sysroot, first) == []


def test_the_file_is_as_the_format_says(failing: tuple[Sysroot, ObjectId, ObjectId]) -> None:
    sysroot, first, second = failing
    settle(sysroot, first)
    value = json.loads(sysroot.failures.read_text())
    assert value["version"] == 1
    assert value["failures"][0]["composefs"] == second.hex
    assert {"manifest-digest", "image", "first", "last", "tries", "stage", "reason", "detail"} < set(
        value["failures"][0]
    )


def test_what_runs_is_not_judged(failing: tuple[Sysroot, ObjectId, ObjectId]) -> None:
    sysroot, _, second = failing
    assert settle(sysroot, second) == []
    assert len(esp.entries(sysroot.esp)) == 2


def test_what_may_still_be_tried_is_left_alone(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    second = staged(sysroot, version(tmp_path, 2), parent=first).digest
    tried(sysroot, second, done=2, left=1)
    assert settle(sysroot, first) == []
    assert records.read(sysroot, second).state is State.STAGED


class CutError(Exception):
    """The power fails."""


@pytest.mark.parametrize("step", trial.STEPS)
def test_cut_after(step: str, failing: tuple[Sysroot, ObjectId, ObjectId]) -> None:
    """Settling again ends the same, and counts no try twice."""
    sysroot, first, second = failing

    def reached(name: str) -> None:
        if name == step:
            raise CutError

    with pytest.raises(CutError):
        settle(sysroot, first, reached=reached)
    settle(sysroot, first)
    [told] = trial.failures(sysroot)
    assert (told.tries, told.reason) == (3, "the required check shop failed")
    assert records.read(sysroot, second).state is State.BAD
    assert [one.digest for one in esp.entries(sysroot.esp)] == [first]


def test_what_cannot_be_written_is_a_failure_like_any_other(failing: tuple[Sysroot, ObjectId, ObjectId]) -> None:
    sysroot, first, second = failing
    (sysroot.boots / first.hex).mkdir()
    with pytest.raises(Failure, match="cannot write the machine's state"):
        bless.bless(sysroot, first)
    (sysroot.boots / second.hex).unlink()
    (sysroot.state / "failures.json").mkdir()
    with pytest.raises(Failure, match="cannot write the machine's state"):
        settle(sysroot, first)


def test_a_version_that_fails_again_stands_there_once(
    failing: tuple[Sysroot, ObjectId, ObjectId], tmp_path: Path
) -> None:
    sysroot, first, second = failing
    [before] = settle(sysroot, first)
    (tmp_path / "again").mkdir()
    assert staged(sysroot, version(tmp_path / "again", 2), parent=first).digest == second
    tried(sysroot, second, done=3)
    lines(sysroot, second, "initramfs", "initramfs", "root", "initramfs")
    [after] = settle(sysroot, first)
    assert (after.tries, after.first, after.stage) == (6, before.first, "root")
    assert trial.failures(sysroot) == [after]


def test_a_deployment_without_a_record_is_remembered_too(failing: tuple[Sysroot, ObjectId, ObjectId]) -> None:
    sysroot, first, second = failing
    (sysroot.deployment(second) / "origin.json").write_text("{")
    (sysroot.boots / second.hex).unlink()
    [told] = settle(sysroot, first)
    assert (told.digest, told.image, told.stage) == (second, "", "")
    assert told.first == told.last == "2027-01-15T08:00:00Z"


def test_a_damaged_list_is_begun_anew(failing: tuple[Sysroot, ObjectId, ObjectId]) -> None:
    sysroot, first, _ = failing
    sysroot.failures.write_text('{"version": 1, "failures": [{')
    assert trial.failures(sysroot) == []
    assert len(settle(sysroot, first)) == 1
    assert len(trial.failures(sysroot)) == 1


def test_a_panic_that_pstore_kept_is_told(failing: tuple[Sysroot, ObjectId, ObjectId], tmp_path: Path) -> None:
    sysroot, first, second = failing
    (sysroot.boots / second.hex).unlink()
    kept = tmp_path / "pstore/7180000"
    kept.mkdir(parents=True)
    trace = "".join(f"<4>[ 2.1] frame {number}\n" for number in range(99))
    (kept / "dmesg.txt").write_text(f"<6>[ 1.0] fine\n<0>[ 2.0] Kernel panic - not syncing: VFS: No root\n{trace}")
    old = tmp_path / "pstore/6000000"
    old.mkdir()
    (old / "dmesg.txt").write_text("Kernel panic - not syncing: long ago\n")
    long_ago = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 1000
    os.utime(old / "dmesg.txt", (long_ago, long_ago))
    [told] = settle(sysroot, first, pstore=(tmp_path / "nowhere", tmp_path / "pstore"))
    assert told.reason == "the kernel panicked: VFS: No root"
    assert told.detail.splitlines()[0] == "[ 1.0] fine"


def test_a_boot_adds_its_lines(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    trial.note(sysroot, first, Stage.INIT)
    trial.note(sysroot, first, "unhealthy", "two\nlines")
    [boot] = trial.history(sysroot, first)
    assert boot.lines[0].boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert abs(boot.started - time.time()) < 60
    assert (boot.stage, boot.end and boot.end.text) == (Stage.INIT, "two\nlines")


def test_a_boot_record_does_not_grow_for_ever(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    trial.trim(sysroot, first)
    for _ in range(40):
        trial.note(sysroot, first, "unhealthy", "x" * 4000)
    trial.note(sysroot, first, Stage.INIT)
    trial.trim(sysroot, first)
    assert (sysroot.boots / first.hex).stat().st_size < 70_000
    assert trial.history(sysroot, first)[-1].stage is Stage.INIT


def test_gc_removes_what_was_being_written_when_the_power_failed(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    trial.note(sysroot, first, Stage.INIT)
    drafts = [sysroot.boots / f".{first.hex}.0123456789abcdef"]
    drafts += [sysroot.state / f".{name}.0123456789abcdef" for name in ("failures.json", "host.json", "factory-reset")]
    for draft in drafts:
        draft.touch()
    garbage.collect(sysroot, first)
    assert not any(draft.exists() for draft in drafts)
    assert len(trial.history(sysroot, first)) == 1


def test_only_so_many_failures_are_kept() -> None:
    known: list[FailedVersion] = []
    for number in range(KEPT + 5):
        known = failed.added(known, FailedVersion(digest=ObjectId(f"{number:064x}"), tries=1))
    assert len(known) == KEPT
    assert known[-1].digest == ObjectId(f"{KEPT + 4:064x}")
    assert failed.decode(failed.encode(known)) == known


def test_members_of_a_newer_keelboot_survive() -> None:
    value = json.loads(failed.encode([FailedVersion(digest=ObjectId("a" * 64))]))
    value["failures"][0]["colour"] = "red"
    [read] = failed.decode(json.dumps(value).encode())
    again = failed.added([read], FailedVersion(digest=ObjectId("a" * 64)))
    assert json.loads(failed.encode(again))["failures"][0]["colour"] == "red"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "failures": [{"composefs": "x", "tries": 1}]}']
)
def test_a_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        failed.decode(text.encode())


# -- blessing --------------------


@pytest.fixture
def proved(tmp_path: Path) -> tuple[Sysroot, ObjectId]:
    """A machine that runs its second version, in its first try, and is healthy."""
    sysroot, [first] = with_versions(tmp_path, 1)
    second = staged(sysroot, version(tmp_path, 2), parent=first).digest
    tried(sysroot, second, done=1, left=2)
    (sysroot.run / "trial").touch()
    return sysroot, second


def entry_of(sysroot: Sysroot, digest: ObjectId) -> Listed:
    [listed] = [one for one in esp.entries(sysroot.esp) if one.digest == digest]
    return listed


def test_a_healthy_version_is_kept(proved: tuple[Sysroot, ObjectId]) -> None:
    sysroot, second = proved
    assert bless.due(sysroot, second)
    assert trial.on_trial(sysroot)
    assert bless.bless(sysroot, second)
    assert entry_of(sysroot, second).file_name == f"keelboot-000002-{second.hex}.conf"
    assert records.read(sysroot, second).state is State.GOOD
    assert [line.stage for boot in trial.history(sysroot, second) for line in boot.lines] == [Stage.GOOD]
    assert not trial.on_trial(sysroot)
    assert not bless.due(sysroot, second)
    assert not bless.bless(sysroot, second)


@pytest.mark.parametrize("step", bless.STEPS)
def test_blessing_cut_after(step: str, proved: tuple[Sysroot, ObjectId]) -> None:
    """The next boot, which may not be on trial any more, finishes it."""
    sysroot, second = proved

    def reached(name: str) -> None:
        if name == step:
            raise CutError

    with pytest.raises(CutError):
        bless.bless(sysroot, second, reached=reached)
    if not entry_of(sysroot, second).on_trial:
        (sysroot.run / "trial").unlink(missing_ok=True)
    if bless.due(sysroot, second):
        bless.bless(sysroot, second)
    assert not entry_of(sysroot, second).on_trial
    assert records.read(sysroot, second).state is State.GOOD


def test_a_version_that_was_rolled_back_from_is_taken_for_good_once_it_boots(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    records.write(sysroot, replace(records.read(sysroot, first), rolled_back=True))
    assert bless.due(sysroot, first)
    assert not bless.bless(sysroot, first)
    assert not records.read(sysroot, first).rolled_back
