"""Kernel arguments of a machine in a directory: what boots next, and what a cut leaves."""

from pathlib import Path

import pytest

from keelboot.assembly.settings import Settings
from keelboot.boot import esp
from keelboot.failure import Failure
from keelboot.host import command_line, garbage, records
from small_machines import bless, boots, faults, machine, staged, version, with_versions


class Cut(Exception):  # noqa: N818 - it is none
    pass


def test_the_next_boot_tries_them_and_falls_back_to_the_same_version(tmp_path: Path) -> None:
    sysroot, [first, second] = with_versions(tmp_path, 2)
    wanted = Settings(kargs=("mine=1",))
    done = command_line.apply(sysroot, wanted)
    assert done.changed
    assert boots(sysroot) == [f"{second.hex[:8]}+3", second.hex[:8], first.hex[:8]]
    newest, before, _ = esp.entries(sysroot.esp)
    assert newest.entry.options == f"{before.entry.options} mine=1"
    assert newest.entry.linux == before.entry.linux
    assert newest.generation == 3
    assert records.settings(sysroot) == wanted
    assert faults(sysroot) == []
    bless(sysroot, second)
    garbage.collect(sysroot, second)
    assert boots(sysroot) == [second.hex[:8], first.hex[:8]]
    assert esp.entries(sysroot.esp)[0].entry.options.endswith(" mine=1")


def test_gc_keeps_what_the_loader_returns_to_until_the_new_arguments_have_proved_themselves(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    command_line.apply(sysroot, Settings(kargs=("mine=1",)))
    assert garbage.collect(sysroot, first).nothing
    assert boots(sysroot) == [f"{first.hex[:8]}+3", first.hex[:8]]
    bless(sysroot, first)
    assert len(garbage.collect(sysroot, first).entries) == 1
    assert boots(sysroot) == [first.hex[:8]]


def test_what_boots_already_is_not_tried_again(tmp_path: Path) -> None:
    sysroot, _ = with_versions(tmp_path, 1)
    command_line.apply(sysroot, Settings(kargs=("mine=1",)))
    before = boots(sysroot)
    assert not command_line.apply(sysroot, Settings(kargs=("mine=1",))).changed
    assert boots(sysroot) == before


def test_a_version_on_trial_has_one_entry(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    second = staged(sysroot, version(tmp_path, 2), parent=first).digest
    command_line.apply(sysroot, Settings(kargs=("mine=1",)))
    assert boots(sysroot) == [f"{second.hex[:8]}+3", first.hex[:8]]
    assert "mine=1" in esp.entries(sysroot.esp)[0].entry.options


def test_an_upgrade_has_them(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    command_line.apply(sysroot, Settings(kargs=("mine=1",)))
    bless(sysroot, first)
    staged(sysroot, version(tmp_path, 2), parent=first, settings=records.settings(sysroot))
    assert esp.entries(sysroot.esp)[0].entry.options.endswith(" mine=1")


@pytest.mark.parametrize("step", command_line.STEPS)
def test_cut_after(step: str, tmp_path: Path) -> None:
    """Something good boots whatever happens, and doing it again ends the same."""
    sysroot, [_, second] = with_versions(tmp_path, 2)

    def reached(name: str) -> None:
        if name == step:
            raise Cut

    wanted = Settings(kargs=("mine=1",))
    with pytest.raises(Cut):
        command_line.apply(sysroot, wanted, reached=reached)
    assert faults(sysroot) == []
    command_line.apply(sysroot, wanted)
    assert boots(sysroot)[:2] == [f"{second.hex[:8]}+3", second.hex[:8]]
    assert records.settings(sysroot) == wanted


@pytest.mark.parametrize("step", command_line.STEPS)
def test_cut_after_for_a_version_on_trial(step: str, tmp_path: Path) -> None:
    """It has one entry in the end: applying them again or gc removes the other."""
    sysroot, [first] = with_versions(tmp_path, 1)
    second = staged(sysroot, version(tmp_path, 2), parent=first).digest

    def reached(name: str) -> None:
        if name == step:
            raise Cut

    wanted = Settings(kargs=("mine=1",))
    with pytest.raises(Cut):
        command_line.apply(sysroot, wanted, reached=reached)
    assert faults(sysroot) == []
    assert boots(sysroot)[0] == f"{second.hex[:8]}+3"
    command_line.apply(sysroot, wanted)
    garbage.collect(sysroot, first)
    assert boots(sysroot) == [f"{second.hex[:8]}+3", first.hex[:8]]
    assert "mine=1" in esp.entries(sysroot.esp)[0].entry.options


def test_a_machine_without_a_deployment(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no boot entry"):
        command_line.plan(machine(tmp_path), Settings())
