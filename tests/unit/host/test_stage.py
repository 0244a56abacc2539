"""From an image to the next boot, on plain directories."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from keelboot.assembly.record import State
from keelboot.assembly.settings import Settings
from keelboot.boot import esp
from keelboot.failure import CannotFinish, Failure, InvalidImage, OutOfSpace
from keelboot.host import records, signatures, space, stage
from keelboot.host.admission import Terms
from keelboot.image.reference import Reference
from keelboot.store.references import listing
from small_images import write_layout
from small_machines import boots, faults, machine, staged, version, with_versions


def test_the_first_version_needs_to_prove_nothing(tmp_path: Path) -> None:
    sysroot = machine(tmp_path)
    source = version(tmp_path, 1)
    record = staged(sysroot, source, tries=None)
    assert boots(sysroot) == [record.digest.hex[:8]]
    assert (record.state, record.parent, record.image, record.image_version) == (State.GOOD, None, str(source), "1")
    assert sorted(path.name for path in (sysroot.deployment(record.digest) / "etc").iterdir()) == ["upper", "work"]
    [entry] = esp.entries(sysroot.esp)
    assert entry.file_name == f"keelboot-000001-{record.digest.hex}.conf"
    assert entry.entry.version == "000001-1"
    assert entry.entry.options.startswith(f"composefs={record.digest.hex} ")
    assert entry.boot_digest == record.boot_digest
    assert (sysroot.esp / entry.entry.linux.lstrip("/")).read_bytes() == b"kernel" * 9000
    assert faults(sysroot) == []
    assert [one.reference for one in listing(sysroot.store)] == [f"deployment:{record.digest.hex}"]


def test_the_next_version_is_on_trial_and_takes_its_parents_etc_at_its_first_boot(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    record = staged(sysroot, version(tmp_path, 2), parent=first)
    assert boots(sysroot) == [f"{record.digest.hex[:8]}+3", first.hex[:8]]
    assert (record.state, record.parent) == (State.STAGED, first)
    assert not (sysroot.deployment(record.digest) / "etc").exists()
    assert records.read(sysroot, record.digest) == record
    assert len(list((sysroot.esp / "EFI/keelboot").iterdir())) == 1, "both versions have the same kernel"
    assert faults(sysroot) == []


def test_only_what_changed_is_added(tmp_path: Path) -> None:
    sysroot, _ = with_versions(tmp_path, 1)
    before = {path for path in (sysroot.store / "objects").rglob("*") if path.is_file()}
    record = staged(sysroot, version(tmp_path, 2), parent=records.deployments(sysroot)[0].digest)
    added = {path for path in (sysroot.store / "objects").rglob("*") if path.is_file()} - before
    # The file, the composefs image, the layer's record, manifest, config, the image's record.
    assert len(added) == 6
    assert record.digest.path in {f"{path.parent.name}/{path.name}" for path in added}


def test_arguments_of_image_and_machine_are_brought_together(tmp_path: Path) -> None:
    kargs = {
        "usr/lib/bootc": None,
        "usr/lib/bootc/kargs.d": None,
        "usr/lib/bootc/kargs.d/a.toml": b'kargs = ["a=1", "b"]\n',
    }
    record = staged(
        sysroot := machine(tmp_path),
        version(tmp_path, 1, files=kargs),
        settings=Settings(kargs=("mine",), kargs_deleted=("b",)),
        tries=None,
    )
    [entry] = esp.entries(sysroot.esp)
    assert entry.entry.options.endswith(" a=1 mine")
    assert " b" not in entry.entry.options
    assert record.arguments == ("a=1", "b")


def test_a_filesystem_without_verity_says_so_in_the_entry(tmp_path: Path) -> None:
    sysroot = machine(tmp_path)
    record = staged(sysroot, version(tmp_path, 1), verified=False)
    [entry] = esp.entries(sysroot.esp)
    assert entry.entry.options.startswith(f"composefs=?{record.digest.hex} ")
    assert not entry.verified


def test_what_is_only_downloaded_does_not_boot(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    record = staged(sysroot, version(tmp_path, 2, kernel=True), parent=first, download_only=True)
    assert boots(sysroot) == [first.hex[:8]]
    assert sysroot.downloaded.read_text().strip() == record.digest.hex
    shutil.rmtree(tmp_path / "v2")
    with stage.stored(sysroot, records.read(sysroot, record.digest)) as candidate:
        admitted = signatures.admit_downloaded(sysroot, first, record, Terms())
        again = stage.commit(sysroot, candidate, admitted, parent=first)
    assert again.digest == record.digest
    assert again.boot_digest == record.boot_digest
    assert boots(sysroot) == [f"{record.digest.hex[:8]}+3", first.hex[:8]]
    assert not sysroot.downloaded.exists()
    assert faults(sysroot) == []


def test_a_version_that_failed_starts_from_its_parents_etc_again(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    source = version(tmp_path, 2)
    record = staged(sysroot, source, parent=first)
    directory = sysroot.deployment(record.digest)
    (directory / "etc/upper").mkdir(parents=True)
    (directory / "etc/upper/stale").touch()
    records.write(sysroot, records.read(sysroot, record.digest))
    [failed, _] = esp.entries(sysroot.esp)
    esp.remove_entry(sysroot.esp, failed.file_name)
    staged(sysroot, source, parent=first)
    assert sorted(path.name for path in directory.iterdir()) == ["origin.json"]
    assert boots(sysroot) == [f"{record.digest.hex[:8]}+3", first.hex[:8]]


def test_a_pin_outlives_staging_again(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    source = version(tmp_path, 2)
    record = staged(sysroot, source, parent=first)
    records.write(sysroot, replace(record, pinned=True, unknown={"later": 1}))
    assert staged(sysroot, source, parent=first).pinned
    assert records.read(sysroot, record.digest).unknown == {"later": 1}


def absurd(directory: Path) -> Reference:
    """An image that says one of its layers has 999 TiB."""
    source = version(directory, 7)
    blobs = Path(source.location) / "blobs/sha256"
    index = json.loads((blobs.parent.parent / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    manifest["layers"][1]["size"] = 999 << 40
    data = json.dumps(manifest).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    index["manifests"][0] |= {"digest": f"sha256:{digest}", "size": len(data)}
    (blobs.parent.parent / "index.json").write_text(json.dumps(index))
    return source


def test_an_absurd_claim_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    source = absurd(tmp_path)
    for blob in (Path(source.location) / "blobs/sha256").iterdir():
        if blob.stat().st_size > 4096:
            blob.unlink()
    with pytest.raises(OutOfSpace, match="Insufficient free space"):
        staged(sysroot, source, parent=first)
    assert boots(sysroot) == [first.hex[:8]]


def test_layers_that_are_there_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(space, "require_store", lambda *words: seen.append(words[2]))
    sysroot = machine(tmp_path)
    staged(sysroot, version(tmp_path, 1), tries=None)
    staged(sysroot, version(tmp_path, 2), tries=None)
    assert 0 < seen[1] < 2000 < seen[0]


def test_a_store_that_cannot_be_made_is_a_failure_like_any_other(tmp_path: Path) -> None:
    sysroot = machine(tmp_path)
    sysroot.root.rmdir()
    sysroot.root.touch()
    with pytest.raises(Failure, match="cannot use the store"):
        staged(sysroot, version(tmp_path, 1), tries=None)


def test_a_full_esp_leaves_every_entry_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    monkeypatch.setattr(esp, "free", lambda _: 5000)
    with pytest.raises(OutOfSpace, match="on the ESP"):
        staged(sysroot, version(tmp_path, 2, kernel=True), parent=first)
    assert boots(sysroot) == [first.hex[:8]]
    assert [record.digest for record in records.deployments(sysroot)] == [first]
    assert faults(sysroot) == []


def test_unused_kernels_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    old = sysroot.esp / "EFI/keelboot" / ("0" * 64)
    old.mkdir()
    monkeypatch.setattr(esp, "free", lambda _: 5000 if old.exists() else 5_000_000)
    staged(sysroot, version(tmp_path, 2, kernel=True), parent=first)
    assert len(boots(sysroot)) == 2


@pytest.mark.parametrize(
    ("labels", "why"), [({}, "label containers.bootc=1"), ({"containers.bootc": "0"}, "label containers.bootc=1")]
)
def test_what_is_not_bootable_is_refused_before_a_layer_is_read(
    labels: dict[str, str], why: str, tmp_path: Path
) -> None:
    sysroot = machine(tmp_path)
    source = write_layout(tmp_path / "plain", {"usr": None, "usr/file": b"x" * 99}, labels=labels)
    with pytest.raises(CannotFinish, match=why):
        staged(sysroot, source)
    assert not sysroot.store.exists()


def test_what_has_no_kernel_is_refused_and_never_named(tmp_path: Path) -> None:
    sysroot = machine(tmp_path)
    files = {"usr": None, "boot": None, "sysroot": None, "usr/file": b"x" * 99}
    source = write_layout(tmp_path / "plain", files, labels={"containers.bootc": "1"})
    with pytest.raises(CannotFinish, match="no kernel"):
        staged(sysroot, source)
    assert listing(sysroot.store) == []
    assert esp.entries(sysroot.esp) == []


def test_another_architecture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysroot = machine(tmp_path)
    source = version(tmp_path, 1)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6", "1", "aarch64")))
    with pytest.raises(CannotFinish, match="for amd64, and this machine is arm64"):
        staged(sysroot, source)


def test_a_damaged_kernel_in_the_store_is_not_given_to_the_loader(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    for path in (sysroot.store / "objects").rglob("*"):
        if path.is_file() and path.read_bytes() == b"kernel" * 9000:
            path.write_bytes(b"kernel" * 8999 + b"melted")
    with pytest.raises(InvalidImage, match="damaged"):
        staged(sysroot, version(tmp_path, 2), parent=first)
    assert boots(sysroot) == [first.hex[:8]]
