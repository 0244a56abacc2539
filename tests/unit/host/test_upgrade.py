"""Which version is staged, and which is not, whatever the machine has already: on plain directories."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import BOOTABLE
from keelboot.assembly.record import State
from keelboot.failure import EtcConflict, Failure, OutOfSpace, Unhealthy
from keelboot.host import cached, failed, records, rollback, space, stage, upgrade
from keelboot.host.failed import FailedVersion
from keelboot.host.sysroot import Sysroot
from keelboot.host.upgrade import Outcome, Result, Wish
from keelboot.image.reference import Reference
from keelboot.image.tree import ObjectId
from small_images import layer_blobs, write_layout
from small_machines import bless, boots, faults, version, with_versions


def update(sysroot: Sysroot, booted: ObjectId, source: Reference, **options: bool) -> Outcome:
    return upgrade.update(sysroot, booted, Wish(source=source, jobs=1, **options))  # type: ignore[arg-type]


def moved(tmp_path: Path, number: int, **options: object) -> Reference:
    """The tag that the first version came from leads to version NUMBER now."""
    new = version(tmp_path, number, **options)  # type: ignore[arg-type]
    target = tmp_path / "v1"
    for path in Path(new.location).rglob("*"):
        if path.is_file():
            place = target / path.relative_to(new.location)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return Reference.parse(f"oci:{target}")


def fail(sysroot: Sysroot, digest: ObjectId) -> None:
    """What the next boot does after the tries of DIGEST ran out."""
    record = records.read(sysroot, digest)
    known = FailedVersion(
        digest=digest, manifest_digest=record.manifest_digest, image=record.image, tries=3, reason="no init", last="now"
    )
    sysroot.failures.write_bytes(failed.encode([known]))
    records.write(sysroot, replace(record, state=State.BAD))
    for path in sysroot.entries.iterdir():
        if digest.hex in path.name:
            path.unlink()


def test_the_same_tag_with_another_image_is_staged(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    followed = upgrade.require_followed(sysroot, first)
    assert update(sysroot, first, followed).result is Result.UNCHANGED
    outcome = update(sysroot, first, moved(tmp_path, 2))
    assert outcome.result is Result.STAGED
    assert outcome.record
    assert (outcome.record.parent, outcome.record.image_version) == (first, "2")
    assert boots(sysroot) == [f"{outcome.record.digest.hex[:8]}+3", first.hex[:8]]
    again = update(sysroot, first, followed)
    assert (again.result, again.remarks) == (Result.UNCHANGED, ("It is staged already: a restart boots it.",))
    assert faults(sysroot) == []


def test_a_newer_one_takes_the_place_of_what_is_staged(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    update(sysroot, first, moved(tmp_path, 2))
    third = update(sysroot, first, moved(tmp_path, 3)).record
    assert upgrade.tidy(sysroot, first) == ""
    assert third
    assert boots(sysroot) == [f"{third.digest.hex[:8]}+3", first.hex[:8]]
    assert len(records.deployments(sysroot)) == 2


def test_what_is_staged_says_what_is_followed(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    other = version(tmp_path, 2)
    assert update(sysroot, first, other, switching=True).result is Result.STAGED
    assert upgrade.followed(sysroot, first) == str(other)


@pytest.mark.parametrize("which", ["booted", "rollback", "staged"])
def test_switching_to_a_version_that_is_there_is_an_error(which: str, tmp_path: Path) -> None:
    sysroot, [first, second] = with_versions(tmp_path, 2)
    number = {"rollback": 1, "booted": 2, "staged": 3}[which]
    if which == "staged":
        update(sysroot, second, version(tmp_path, 3), switching=True)
    (tmp_path / "copy").mkdir()
    before = boots(sysroot)
    with pytest.raises(Failure, match="on this machine already"):
        update(sysroot, second, version(tmp_path / "copy", number), switching=True)
    assert boots(sysroot) == before
    assert first.hex[:8] in before


def test_upgrading_to_a_version_that_is_there_does_nothing(tmp_path: Path) -> None:
    sysroot, [first, second] = with_versions(tmp_path, 2)
    rollback.rollback(sysroot, second)
    outcome = update(sysroot, first, version(tmp_path, 2))
    assert outcome.result is Result.UNCHANGED
    assert "keelboot rollback" in outcome.remarks[0]
    assert boots(sysroot) == [first.hex[:8], second.hex[:8]]


def test_the_same_content_under_another_manifest_is_found_when_it_is_read(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    files = {"usr": None, "usr/version": b"1\n" * 99}
    labels = {"containers.bootc": "1", "org.opencontainers.image.version": "other label, same root"}
    source = write_layout(tmp_path / "again", dict(BOOTABLE), files, labels=labels)
    assert update(sysroot, first, source).result is Result.UNCHANGED
    with pytest.raises(Failure, match="on this machine already"):
        update(sysroot, first, source, switching=True)
    assert boots(sysroot) == [first.hex[:8]]


def test_a_version_that_failed_is_only_tried_again_by_hand(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    source = moved(tmp_path, 2)
    record = update(sysroot, first, source).record
    assert record
    fail(sysroot, record.digest)
    passed_over = update(sysroot, first, source, automatic=True)
    assert passed_over.result is Result.REFUSED
    assert "3 times" in passed_over.remarks[0]
    with pytest.raises(Unhealthy, match="no init"):
        update(sysroot, first, source)
    upgrade.tidy(sysroot, first)
    with pytest.raises(Unhealthy, match="no init"):
        update(sysroot, first, source)
    assert boots(sysroot) == [first.hex[:8]]
    assert update(sysroot, first, source, retry_failed=True).result is Result.STAGED
    assert boots(sysroot) == [f"{record.digest.hex[:8]}+3", first.hex[:8]]
    assert records.read(sysroot, record.digest).state is State.STAGED


def test_downloaded_and_staged_later_without_the_source(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    source = moved(tmp_path, 2)
    outcome = update(sysroot, first, source, download_only=True)
    assert outcome.result is Result.DOWNLOADED
    assert boots(sysroot) == [first.hex[:8]]
    Path(source.location).rename(tmp_path / "elsewhere")
    later = upgrade.from_downloaded(sysroot, first)
    assert later.record
    assert later.result is Result.STAGED
    assert boots(sysroot) == [f"{later.record.digest.hex[:8]}+3", first.hex[:8]]
    with pytest.raises(Failure, match="nothing to stage"):
        upgrade.from_downloaded(sysroot, first)


def test_a_restart_forgets_a_download_and_it_can_be_staged_all_the_same(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    source = moved(tmp_path, 2)
    update(sysroot, first, source, download_only=True)
    sysroot.downloaded.unlink()
    assert update(sysroot, first, source, download_only=True).result is Result.DOWNLOADED
    assert update(sysroot, first, source).result is Result.STAGED
    assert not sysroot.downloaded.exists()


def test_what_is_staged_can_be_held_back(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    source = moved(tmp_path, 2)
    update(sysroot, first, source)
    assert update(sysroot, first, source, download_only=True).result is Result.DOWNLOADED
    assert boots(sysroot) == [first.hex[:8]]
    assert upgrade.from_downloaded(sysroot, first).result is Result.STAGED


def test_holding_back_what_is_staged_cut_between_its_two_steps(tmp_path: Path) -> None:
    """It still boots next, and holding it back again finishes."""
    sysroot, [first] = with_versions(tmp_path, 1)
    source = moved(tmp_path, 2)
    second = update(sysroot, first, source).record
    assert second
    stage.note_downloaded(sysroot, second.digest)
    assert boots(sysroot) == [f"{second.digest.hex[:8]}+3", first.hex[:8]]
    assert upgrade.tidy(sysroot, first) == ""
    assert update(sysroot, first, source, download_only=True).result is Result.DOWNLOADED
    assert boots(sysroot) == [first.hex[:8]]
    assert upgrade.from_downloaded(sysroot, first).result is Result.STAGED


def test_a_directory_for_a_file_in_etc_is_refused_before_anything_is_staged(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    (sysroot.deployment(first) / "etc/upper/app/own").mkdir(parents=True)
    source = moved(tmp_path, 2, files={"etc": None, "etc/app": b"a file"})
    with pytest.raises(EtcConflict, match=r"Merge conflicts found in etc: .*/etc/app"):
        update(sysroot, first, source)
    assert boots(sysroot) == [first.hex[:8]]
    assert len(records.deployments(sysroot)) == 1


def test_files_that_both_sides_changed_are_told(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    (sysroot.deployment(first) / "etc/upper/os-release").write_text("mine")
    source = moved(tmp_path, 2, files={"etc": None, "etc/os-release": b'ID=debian\nPRETTY_NAME="New"\n'})
    assert update(sysroot, first, source).both == ("os-release",)


def test_var_needs_room_for_what_the_image_brings_and_the_machine_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    seed = ("usr/share", "usr/share/factory", "usr/share/factory/var", "usr/share/factory/var/lib")
    files = dict.fromkeys(seed) | {f"{seed[-1]}/have": b"h" * 5000, f"{seed[-1]}/need": b"n" * 7000}
    var = tmp_path / "var"
    (var / "lib").mkdir(parents=True)
    (var / "lib/have").symlink_to("nowhere")
    wish = Wish(source=moved(tmp_path, 2, files=files), jobs=1, var=var)
    needed: list[int] = []
    count = space.missing_in_var
    monkeypatch.setattr(space, "missing_in_var", lambda *words: needed.append(count(*words)) or 1 << 62)
    with pytest.raises(OutOfSpace, match="Insufficient free space in"):
        upgrade.update(sysroot, first, wish)
    assert needed == [7000]
    assert boots(sysroot) == [first.hex[:8]]
    monkeypatch.undo()
    assert upgrade.update(sysroot, first, wish).result is Result.STAGED


def test_check_tells_what_there_is_and_what_is_missing(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    followed = upgrade.require_followed(sysroot, first)
    offer = upgrade.check(sysroot, first, Wish(source=followed))
    assert (offer.changed, offer.version) == (False, "1")
    assert cached.read(sysroot) is None
    before = boots(sysroot)
    offer = upgrade.check(sysroot, first, Wish(source=moved(tmp_path, 2)))
    assert (offer.changed, offer.version, offer.layers, offer.missing_layers) == (True, "2", 2, 1)
    assert offer.missing_size < 2000
    remembered = cached.read(sysroot)
    assert remembered
    assert (remembered.version, remembered.manifest_digest) == ("2", offer.manifest_digest)
    assert boots(sysroot) == before
    update(sysroot, first, followed)
    assert cached.read(sysroot) is None, "it is no news once it is staged"


def test_the_same_image_compressed_otherwise_is_not_fetched(tmp_path: Path) -> None:
    """As it is after `podman push`: the registry's manifest is another one than that in podman's own store."""
    sysroot, [first] = with_versions(tmp_path, 1)
    files = {"usr": None, "usr/version": b"1\n" * 99}
    labels = {"containers.bootc": "1", "org.opencontainers.image.version": "1"}
    source = write_layout(tmp_path / "pushed", dict(BOOTABLE), files, labels=labels, compress=False)
    for blob in layer_blobs(tmp_path / "pushed"):
        blob.unlink()
    assert not upgrade.check(sysroot, first, Wish(source=source)).changed
    assert update(sysroot, first, source).result is Result.UNCHANGED


def test_a_lost_record_of_what_runs_does_not_hinder_a_switch(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    (sysroot.deployment(first) / "origin.json").unlink()
    assert update(sysroot, first, version(tmp_path, 2), switching=True).result is Result.STAGED
    assert upgrade.followed(sysroot, first) == str(version(tmp_path, 2))
    assert update(sysroot, first, version(tmp_path, 1), switching=True).result is Result.UNCHANGED
    assert records.read(sysroot, first).image_version == "1", "it is put back"


def test_a_lost_record_is_told_where_it_is_needed(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    (sysroot.deployment(first) / "origin.json").unlink()
    with pytest.raises(Failure, match="is lost"):
        upgrade.require_followed(sysroot, first)


def test_three_versions_in_a_row_with_what_each_leaves(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    booted = [first]
    for number in (2, 3, 4):
        record = update(sysroot, booted[-1], moved(tmp_path, number)).record
        assert record
        upgrade.tidy(sysroot, booted[-1])
        assert boots(sysroot)[1] == booted[-1].hex[:8], "what runs is the way back"
        bless(sysroot, record.digest)
        booted.append(record.digest)
        upgrade.tidy(sysroot, record.digest)
        assert faults(sysroot) == []
    assert boots(sysroot) == [booted[3].hex[:8], booted[2].hex[:8]]
    assert json.loads((sysroot.deployment(booted[3]) / "origin.json").read_bytes())["parent"] == booted[2].hex
