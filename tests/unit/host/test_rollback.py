"""Back and forth between versions, on plain directories."""

from dataclasses import replace
from pathlib import Path

import pytest

from keelboot.assembly.record import State
from keelboot.assembly.settings import Settings
from keelboot.boot import esp
from keelboot.failure import Failure
from keelboot.host import command_line, records, rollback
from small_machines import boots, faults, staged, version, with_versions


def test_the_version_before_boots_next_and_a_second_call_takes_it_back(tmp_path: Path) -> None:
    sysroot, [first, second] = with_versions(tmp_path, 2)
    assert boots(sysroot) == [second.hex[:8], first.hex[:8]]
    assert rollback.rollback(sysroot, second).digest == first
    assert boots(sysroot) == [first.hex[:8], second.hex[:8]]
    assert records.read(sysroot, second).rolled_back
    assert rollback.rollback(sysroot, second).digest == second
    assert boots(sysroot) == [second.hex[:8], first.hex[:8]]
    assert not records.read(sysroot, second).rolled_back
    assert faults(sysroot) == []


def test_each_entry_is_new_and_the_last_but_one_generation_is_gone(tmp_path: Path) -> None:
    sysroot, [first, second] = with_versions(tmp_path, 2)
    options = {one.digest: one.entry.options for one in esp.entries(sysroot.esp)}
    rollback.rollback(sysroot, second)
    names = [one.file_name for one in esp.entries(sysroot.esp)]
    assert names == [f"keelboot-000003-{first.hex}.conf", f"keelboot-000002-{second.hex}.conf"]
    assert esp.entries(sysroot.esp)[0].entry.version == "000003-1"
    assert {one.digest: one.entry.options for one in esp.entries(sysroot.esp)} == options


def test_arguments_that_have_not_proved_themselves_are_not_made_permanent(tmp_path: Path) -> None:
    sysroot, [first, second] = with_versions(tmp_path, 2)
    command_line.apply(sysroot, Settings(kargs=("mine=1",)))
    rollback.rollback(sysroot, second)
    assert rollback.rollback(sysroot, second).digest == second
    assert boots(sysroot) == [second.hex[:8], first.hex[:8]]
    assert "mine=1" not in esp.entries(sysroot.esp)[0].entry.options


def test_what_is_staged_is_dropped(tmp_path: Path) -> None:
    sysroot, [first, second] = with_versions(tmp_path, 2)
    third = staged(sysroot, version(tmp_path, 3), parent=second)
    plan = rollback.plan(sysroot, second)
    assert (plan.target, plan.takes_back, plan.dropped) == (first, False, third.digest)
    rollback.rollback(sysroot, second)
    assert boots(sysroot) == [first.hex[:8], second.hex[:8]]


def test_what_was_downloaded_is_dropped(tmp_path: Path) -> None:
    sysroot, [_, second] = with_versions(tmp_path, 2)
    third = staged(sysroot, version(tmp_path, 3), parent=second, download_only=True)
    assert rollback.plan(sysroot, second).dropped == third.digest
    rollback.rollback(sysroot, second)
    assert not sysroot.downloaded.exists()


def test_after_going_back_the_way_leads_forward(tmp_path: Path) -> None:
    sysroot, [first, second] = with_versions(tmp_path, 2)
    rollback.rollback(sysroot, second)
    assert rollback.rollback(sysroot, first).digest == second, "the first one runs now"
    assert boots(sysroot) == [second.hex[:8], first.hex[:8]]


@pytest.mark.parametrize("state", [State.BAD, State.STAGED])
def test_nobody_goes_back_to_what_did_not_prove_itself(state: State, tmp_path: Path) -> None:
    sysroot, [first, second] = with_versions(tmp_path, 2)
    records.write(sysroot, replace(records.read(sysroot, first), state=state))
    with pytest.raises(Failure, match="no other version"):
        rollback.rollback(sysroot, second)
    assert boots(sysroot) == [second.hex[:8], first.hex[:8]]


def test_a_version_without_its_kernel_is_refused(tmp_path: Path) -> None:
    sysroot, [_, second] = with_versions(tmp_path, 2, kernel=True)
    target = esp.entries(sysroot.esp)[1]
    (sysroot.esp / target.entry.initrd.lstrip("/")).write_bytes(b"")
    with pytest.raises(Failure, match="missing or damaged"):
        rollback.rollback(sysroot, second)


def test_an_entry_that_is_lost_is_made_again(tmp_path: Path) -> None:
    sysroot, [first, _] = with_versions(tmp_path, 2)
    before = esp.entries(sysroot.esp)[1]
    esp.remove_entry(sysroot.esp, before.file_name)
    rollback.promote(sysroot, records.read(sysroot, first), tries=2)
    [made, _] = esp.entries(sysroot.esp)
    assert made.digest == first
    assert made.entry.options == before.entry.options
    assert made.entry.file_name.endswith("+2-0.conf")
