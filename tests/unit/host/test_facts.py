"""Facts of machines that are directories: healthy ones, and damaged in every way that status has to survive."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bootc_schema import faults
from keelboot.boot import esp
from keelboot.boot.entries import Entry, Generation, Tries
from keelboot.durable import replacing
from keelboot.host import cached, facts, failed, mounts, published, records, status
from keelboot.host.failed import FailedVersion
from keelboot.host.mounts import Mount
from keelboot.host.record import Record, State
from keelboot.host.status import Cached, Facts
from keelboot.host.sysroot import Sysroot
from keelboot.image.tree import ObjectId

A, B, C = (ObjectId(letter * 64) for letter in "abc")


def record(digest: ObjectId, version: str) -> Record:
    return Record(
        digest=digest,
        image="docker://registry.example.org/web:1",
        manifest_digest=f"sha256:{digest.hex}",
        image_version=version,
        architecture="amd64",
        boot_digest="e" * 64,
    )


def entry(digest: ObjectId, generation: int, tries: Tries | None = None) -> Entry:
    return Entry(
        id=Generation(generation, digest).id,
        title="Debian",
        version=f"{generation:06}",
        sort_key="keelboot",
        linux="/EFI/keelboot/k/vmlinuz",
        initrd="/EFI/keelboot/k/initrd",
        options=f"composefs={digest.hex} rw quiet",
        tries=tries,
    )


def running(digest: ObjectId | None) -> list[Mount]:
    source = f"composefs:{digest.hex}" if digest else "/dev/vda2"
    return mounts.parse(f"29 1 0:25 / / ro - overlay {source} ro\n")


@pytest.fixture
def machine(tmp_path: Path) -> Sysroot:
    """It runs B, can go back to A, and has C staged."""
    sysroot = Sysroot(tmp_path / "root", tmp_path / "esp", tmp_path / "run")
    sysroot.state.mkdir(parents=True)
    for directory in (sysroot.esp, sysroot.run, sysroot.boots):
        directory.mkdir()
    for digest, version, state in ((A, "1", State.GOOD), (B, "2", State.GOOD), (C, "3", State.STAGED)):
        records.create(sysroot, replace(record(digest, version), state=state), first=True)
    for digest, generation, tries in ((A, 1, None), (B, 2, None), (C, 3, Tries(left=3))):
        esp.add_entry(sysroot.esp, entry(digest, generation, tries))
    return sysroot


def told(sysroot: Sysroot, booted: ObjectId | None = B) -> tuple[Facts, list[str | None]]:
    """The facts, and who is what in the document; that is valid whatever the facts are."""
    found = facts.gather(sysroot, running(booted))
    document = status.document(found)
    assert faults(document) == []
    assert json.loads(json.dumps(document)) == document
    slots = [document["status"][name] for name in ("staged", "booted", "rollback")]
    return found, [slot and slot["image"] and slot["image"]["version"] for slot in slots]


def test_a_healthy_machine(machine: Sysroot) -> None:
    found, slots = told(machine)
    assert slots == ["3", "2", "1"]
    assert found.warnings == []
    assert found.booted == B
    assert [choice.left for choice in found.choices or ()] == [3, None, None]
    assert (found.failures, found.downloaded, found.cached, found.updates) == ((), None, None, None)


def test_what_a_machine_remembers(machine: Sysroot) -> None:
    failure = FailedVersion(digest=C, reason="the check web failed", tries=3)
    machine.failures.write_bytes(failed.encode([failure]))
    machine.downloaded.write_text(f"{A.hex}\n")
    boot = "0c8a5e7e-7f0c-4a53-9a6c-2a0b8f0f5d11"
    (machine.boots / B.hex).write_text(f"{boot} 1767225600 initramfs\n{boot} 1767225660 good\n")
    update = Cached(image="docker://registry.example.org/web:1", manifest_digest="sha256:" + "9" * 64, version="9")
    cached.write(machine, update)
    found, _ = told(machine)
    assert found.failures == [failure]
    assert found.downloaded == A
    assert found.deployed == "2026-01-01T00:00:00Z"
    assert found.cached == update
    assert status.document(found)["status"]["booted"]["cachedUpdate"]["version"] == "9"


def test_what_changed_in_etc(machine: Sysroot) -> None:
    upper = machine.deployment(B) / "etc/upper"
    assert told(machine)[0].drift == 0
    (upper / "motd").write_text("changed")
    (upper / "nginx").mkdir()
    (upper / "nginx/nginx.conf").write_text("changed")
    assert (told(machine)[0].drift or 0) >= 2


def test_no_deployment_runs(machine: Sysroot) -> None:
    found = facts.gather(machine, running(None))
    assert status.document(found)["status"]["booted"] is None


def damage(path: Callable[[Sysroot], Path], content: bytes | None) -> Callable[[Sysroot], None]:
    def do(sysroot: Sysroot) -> None:
        if content is None:
            path(sysroot).unlink()
        else:
            path(sysroot).parent.mkdir(parents=True, exist_ok=True)
            path(sysroot).write_bytes(content)

    return do


def no_esp(sysroot: Sysroot) -> None:
    sysroot.entries.rename(sysroot.esp / "elsewhere")


def record_is_a_directory(sysroot: Sysroot) -> None:
    path = sysroot.deployment(A) / "origin.json"
    path.unlink()
    path.mkdir()


def deployment_is_a_file(sysroot: Sysroot) -> None:
    (sysroot.deployments / ("d" * 64)).write_text("what?")


def nothing_left(sysroot: Sysroot) -> None:
    sysroot.state.rename(sysroot.root / "elsewhere")
    no_esp(sysroot)


def of(name: str) -> Callable[[Sysroot], Path]:
    return lambda sysroot: sysroot.deployment({"A": A, "B": B, "C": C}[name]) / "origin.json"


@pytest.mark.parametrize(
    ("break_it", "slots", "warning"),
    [
        (damage(of("A"), None), ["3", "2", None], "a" * 64),
        (damage(of("A"), b"{"), ["3", "2", None], "a" * 64),
        (damage(of("A"), b""), ["3", "2", None], "a" * 64),
        (damage(of("A"), b"\xff" * 100), ["3", "2", None], "a" * 64),
        (damage(of("A"), json.dumps({"version": 2}).encode()), ["3", "2", None], "a" * 64),
        (damage(of("B"), None), ["3", None, "1"], "the deployment that runs, bbbbbbbbbbbb, has no record"),
        (damage(of("C"), None), [None, "2", "1"], "cccccccccccc, which is no deployment"),
        (record_is_a_directory, ["3", "2", None], "a" * 64),
        (deployment_is_a_file, ["3", "2", "1"], "d" * 64),
        (damage(lambda sysroot: sysroot.deployments / ".gone-1/x", b""), ["3", "2", "1"], None),
        (
            damage(lambda sysroot: sysroot.entries / "keelboot-bogus.conf", b"title x\n"),
            ["3", "2", "1"],
            "keelboot-bogus.conf is not",
        ),
        (
            damage(lambda sysroot: sysroot.entries / "keelboot-\u2603.conf", b"\xff\n"),
            ["3", "2", "1"],
            r"keelboot-\u2603.conf is not",
        ),
        (
            damage(lambda sysroot: sysroot.entries / f"keelboot-000009-{'f' * 64}.conf", b"linux /x\ninitrd /y\n"),
            ["3", "2", "1"],
            "ffffffffffff, which is no deployment",
        ),
        (
            damage(lambda sysroot: sysroot.failures, b"["),
            ["3", "2", "1"],
            "failures.json cannot be read: it is not JSON",
        ),
        (damage(lambda sysroot: sysroot.downloaded, b"what?"), ["3", "2", "1"], None),
        (damage(lambda sysroot: sysroot.state / "update.json", b"[]"), ["3", "2", "1"], None),
        (damage(lambda sysroot: sysroot.boots / B.hex, b"\x00what?\n"), ["3", "2", "1"], None),
        (no_esp, [None, "2", None], "bbbbbbbbbbbb is kept but has no boot entry"),
        (nothing_left, [None, None, None], "has no record"),
    ],
)
def test_damage_is_told_and_survived(
    break_it: Callable[[Sysroot], None], slots: list[str | None], warning: str | None, machine: Sysroot
) -> None:
    break_it(machine)
    found, seen = told(machine)
    assert seen == slots
    if warning is None:
        assert found.warnings == []
    else:
        assert any(warning in text for text in found.warnings), found.warnings


def test_without_an_esp_the_records_tell(machine: Sysroot) -> None:
    found, slots = told(Sysroot(machine.root, Path("/nonexistent"), machine.run))
    assert found.choices is None
    assert slots == ["3", "2", "1"]


@pytest.mark.parametrize(("options", "told"), [("rw", False), ("ro", True)])
def test_a_filesystem_that_an_error_made_read_only(options: str, told: bool, machine: Sysroot) -> None:
    """Everybody's mount of it is read-only; that the filesystem itself is, is told."""
    store = mounts.parse(f"31 29 0:25 / /sysroot ro,relatime - ext4 /dev/vda2 {options}\n")
    document = status.document(facts.gather(machine, [*running(B), *store]))
    assert document["status"]["readOnly"] is told


def test_published_for_everyone(machine: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "mounted", lambda: running(B))
    before = os.umask(0o077)
    try:
        facts.publish(replace(machine, run=machine.run / "new"))
    finally:
        os.umask(before)
    run = machine.run / "new"
    assert (run / "host.json").stat().st_mode & 0o777 == 0o644
    document = published.read(run)
    assert document is not None
    assert document["status"]["staged"]["image"]["version"] == "3"
    assert (run / "staged").exists()
    esp.remove_entry(machine.esp, entry(C, 3, Tries(left=3)).file_name)
    facts.publish(replace(machine, run=run))
    assert not (run / "staged").exists()


def test_what_cannot_be_published_is_no_failure(machine: Sysroot, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (machine.root / "ostree").write_text("not a directory")
    facts.publish(replace(machine, run=tmp_path / "file/run"))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (None, []),
        (b"", []),
        (b"[]", []),
        (b'{"checks": 1}', []),
        (b'{"checks": [{"name": "web"}]}', []),
        (b'{"checks": [{"name": "web", "required": true, "passed": false}]}', ["web"]),
        (b'{"checks": [{"name": "web", "required": false, "passed": false}]}', []),
        (b'{"checks": [{"name": "web", "required": true, "passed": true}]}', []),
    ],
)
def test_what_came_of_this_boots_checks(content: bytes | None, names: list[str], machine: Sysroot) -> None:
    if content is not None:
        (machine.run / "health.json").write_bytes(content)
    assert status.document(facts.gather(machine, running(B)))["status"]["keelboot"]["unhealthy"] == names


def test_what_fleet_agents_watch(tmp_path: Path) -> None:
    published.touch(tmp_path)
    watched = tmp_path / "ostree/bootc"
    os.utime(watched, (0, 0))
    published.touch(tmp_path)
    assert watched.stat().st_mtime
    assert published.is_watched(tmp_path / "ostree")
    assert not published.is_watched(tmp_path / "usr")
    (tmp_path / "ostree/repo").mkdir()  # of a system that OSTree deployed
    assert not published.is_watched(tmp_path / "ostree")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"version": 2, "host": {"status": {}}}', b'{"version":1,"host":1}']
)
def test_what_was_not_published_whole_is_nothing(content: bytes, tmp_path: Path) -> None:
    assert published.read(tmp_path) is None
    with replacing(tmp_path / "host.json") as file:
        file.write(content)
    assert published.read(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{}", b'{"image": 1, "manifest-digest": "x"}', b'{"image": "x"}', b"\xff"])
def test_a_note_of_an_update_may_be_lost(content: bytes, machine: Sysroot) -> None:
    assert cached.read(machine) is None
    (machine.state / "update.json").write_bytes(content)
    assert cached.read(machine) is None
