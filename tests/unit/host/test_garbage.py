"""What goes, and that all the rest stays: the store, the state and the ESP of a machine in a directory."""

from dataclasses import replace
from pathlib import Path

from keelboot.assembly.record import State, reference_of
from keelboot.boot import esp
from keelboot.host import garbage, kept, records
from keelboot.store.pull import pull
from keelboot.store.references import listing
from small_images import snapshot
from small_machines import boots, everything, faults, machine, staged, version, with_versions


def test_two_good_versions_and_nothing_but_what_they_need(tmp_path: Path) -> None:
    sysroot, digests = with_versions(tmp_path, 4, kernel=True)
    found = garbage.collect(sysroot, digests[3])
    assert boots(sysroot) == [digests[3].hex[:8], digests[2].hex[:8]]
    assert found.deployments == tuple(sorted(digest.hex for digest in digests[:2]))
    assert {one.digest for one in found.kept} == set(digests[2:])
    assert [record.digest for record in records.deployments(sysroot)] == sorted(digests[2:], key=lambda one: one.hex)
    assert len(found.kernels) == 2
    assert len(list((sysroot.esp / "EFI/keelboot").iterdir())) == 2
    assert {one.reference for one in listing(sysroot.store)} == {reference_of(one) for one in digests[2:]}
    assert faults(sysroot) == []
    assert garbage.collect(sysroot, digests[3]).nothing


def test_what_is_left_is_as_if_the_others_had_never_been(tmp_path: Path) -> None:
    sysroot, digests = with_versions(tmp_path, 3)
    garbage.collect(sysroot, digests[2])
    (tmp_path / "fresh").mkdir()
    fresh = machine(tmp_path / "fresh")
    for number in (2, 3):
        staged(fresh, version(tmp_path, number), tries=None)
    assert snapshot(sysroot.store) == snapshot(fresh.store)


def test_a_dry_run_tells_the_same_and_changes_nothing(tmp_path: Path) -> None:
    sysroot, digests = with_versions(tmp_path, 3, kernel=True)
    before = everything(sysroot)
    told = garbage.collect(sysroot, digests[2], dry_run=True)
    assert everything(sysroot) == before
    assert told.deployments
    assert told.store.objects
    assert garbage.collect(sysroot, digests[2]) == told


def test_nothing_goes_while_a_version_has_still_to_prove_itself(tmp_path: Path) -> None:
    sysroot, [first, second] = with_versions(tmp_path, 2)
    third = staged(sysroot, version(tmp_path, 3), parent=second).digest
    for booted in (second, third):
        assert garbage.collect(sysroot, booted).nothing
        assert boots(sysroot) == [f"{third.hex[:8]}+3", second.hex[:8], first.hex[:8]]


def test_pinned_stays(tmp_path: Path) -> None:
    sysroot, digests = with_versions(tmp_path, 3)
    records.write(sysroot, replace(records.read(sysroot, digests[0]), pinned=True))
    assert garbage.collect(sysroot, digests[2]).nothing
    records.write(sysroot, replace(records.read(sysroot, digests[0]), pinned=False))
    assert garbage.collect(sysroot, digests[2]).deployments == (digests[0].hex,)


def test_a_version_that_failed_goes_with_its_boot_record(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    failed = staged(sysroot, version(tmp_path, 2, kernel=True), parent=first)
    records.write(sysroot, replace(failed, state=State.BAD))
    sysroot.boots.mkdir()
    for digest in (first, failed.digest):
        (sysroot.boots / digest.hex).touch()
    found = garbage.collect(sysroot, first)
    assert (found.deployments, found.boots) == ((failed.digest.hex,), (failed.digest.hex,))
    assert boots(sysroot) == [first.hex[:8]]
    assert [path.name for path in sysroot.boots.iterdir()] == [first.hex]


def test_of_two_staged_versions_the_newer_stays(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    older = staged(sysroot, version(tmp_path, 2), parent=first).digest
    newer = staged(sysroot, version(tmp_path, 3), parent=first).digest
    assert garbage.due(sysroot, first)
    garbage.collect(sysroot, first)
    assert boots(sysroot) == [f"{newer.hex[:8]}+3", first.hex[:8]]
    assert records.find(sysroot, older) is None
    assert not garbage.due(sysroot, first)


def test_what_was_only_downloaded_stays_until_the_next_boot(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    staged(sysroot, version(tmp_path, 2), parent=first, download_only=True)
    assert garbage.collect(sysroot, first).nothing
    sysroot.downloaded.unlink()
    assert len(garbage.collect(sysroot, first).deployments) == 1


def test_a_version_that_came_with_the_disk_has_no_reference_and_stays(tmp_path: Path) -> None:
    sysroot, digests = with_versions(tmp_path, 2)
    for path in (sysroot.store / "refs").iterdir():
        if digests[0].hex in path.name:
            path.unlink()
    garbage.collect(sysroot, digests[1])
    assert faults(sysroot) == []
    assert set(kept.newest_entries(sysroot)) == set(digests)


def test_a_lost_record_costs_the_booted_version_nothing(tmp_path: Path) -> None:
    sysroot, [first, second] = with_versions(tmp_path, 2)
    (sysroot.deployment(second) / "origin.json").write_bytes(b"{")
    (sysroot.deployment(second) / "etc/upper/mine").touch()
    garbage.collect(sysroot, second)
    assert boots(sysroot) == [second.hex[:8], first.hex[:8]]
    assert (sysroot.deployment(second) / "etc/upper/mine").exists()


def test_an_entry_of_nothing_goes(tmp_path: Path) -> None:
    sysroot, [first, second] = with_versions(tmp_path, 2)
    text = (sysroot.entries / esp.entries(sysroot.esp)[0].file_name).read_text()
    bogus = sysroot.entries / f"keelboot-000007-{'0' * 64}.conf"
    bogus.write_text(text)
    assert garbage.collect(sysroot, second).entries == (bogus.name,)
    assert boots(sysroot) == [second.hex[:8], first.hex[:8]]


def test_what_is_not_keelboots_stays(tmp_path: Path) -> None:
    sysroot, digests = with_versions(tmp_path, 3)
    (sysroot.entries / "debian.conf").write_text("title Debian\nlinux /vmlinuz\ninitrd /initrd\n")
    (sysroot.deployments / "notes").mkdir()
    garbage.collect(sysroot, digests[2])
    assert (sysroot.entries / "debian.conf").exists()
    assert (sysroot.deployments / "notes").exists()


def test_an_image_that_somebody_pulled_stays(tmp_path: Path) -> None:
    sysroot, digests = with_versions(tmp_path, 1)
    source = version(tmp_path, 9)
    pull(sysroot.store, source)
    assert garbage.collect(sysroot, digests[0]).nothing
    assert str(source) in {one.reference for one in listing(sysroot.store)}
