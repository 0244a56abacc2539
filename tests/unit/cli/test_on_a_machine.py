"""The verbs that change a machine, on one that is a directory: what dry runs do not do, and who hears of changes."""

import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import BOOTABLE
from keelboot.boot import esp
from keelboot.cli import bootc, internals, main
from keelboot.host import facts, failed, kept, mounts, namespace, published, space, stage, status, trial
from keelboot.host.failed import FailedVersion
from keelboot.host.sysroot import Sysroot
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.image.tree import ObjectId
from small_images import Files, layer_blobs, snapshot, write_layout
from small_machines import bless, machine, staged, version

LONG_AGO = 1_000_000_000


@dataclass
class Machine:
    """It has three versions and runs the last; a fourth is `new`, and the tag that is followed leads to a fifth."""

    sysroot: Sysroot
    versions: list[ObjectId]
    directory: Path

    @property
    def booted(self) -> ObjectId:
        return self.versions[-1]

    @property
    def watched(self) -> Path:
        return self.sysroot.root / published.WATCHED

    @property
    def new(self) -> str:
        return f"oci:{self.directory}/v4"

    def heard(self) -> bool:
        """Whether who watches heard of a change since this was asked last."""
        changed = self.watched.exists() and self.watched.stat().st_mtime != LONG_AGO
        self.watched.mkdir(parents=True, exist_ok=True)
        os.utime(self.watched, (LONG_AGO, LONG_AGO))
        return changed

    def all(self) -> dict[str, str]:
        """Every file of it."""
        return {
            str(path / name): what
            for path in (self.sysroot.root, self.sysroot.esp, self.sysroot.run)
            for name, what in snapshot(path).items()
        }


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ObjectId]]:
    """The machine that every test gets a copy of, beside the images."""
    directory = tmp_path_factory.mktemp("template")
    sysroot = machine(directory)
    digests: list[ObjectId] = []
    for number in (1, 2, 3):
        parent = digests[-1] if digests else None
        with open_image(version(directory, number)) as image:
            new = stage.stage(
                sysroot, image, source=f"oci:{directory}/tag", parent=parent, tries=3 if parent else None, jobs=1
            )
        digests.append(new.digest)
        bless(sysroot, new.digest)
    version(directory, 4)
    version(directory, 5)
    (directory / "tag").symlink_to("v5")
    return directory, digests


@pytest.fixture
def own(template: tuple[Path, list[ObjectId]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    directory, digests = template
    for name in ("root", "esp", "run"):
        shutil.copytree(directory / name, tmp_path / name, symlinks=True)
    sysroot = Sysroot(tmp_path / "root", tmp_path / "esp", tmp_path / "run")
    made = Machine(sysroot, digests, directory)
    for how in ("reading", "changing", "noting"):
        monkeypatch.setattr(namespace, how, lambda *_: nullcontext(sysroot))
    monkeypatch.setattr(namespace, "require_root", lambda: None)
    monkeypatch.setattr(namespace, "require_booted", lambda: made.booted)
    monkeypatch.setattr(namespace, "booted_digest", lambda: made.booted)
    seen = mounts.parse(f"29 1 0:25 / / ro - overlay composefs:{made.booted.hex} ro\n")
    monkeypatch.setattr(facts, "mounted", lambda: seen)
    monkeypatch.setattr(internals, "MACHINE", sysroot)
    return made


def call(*words: str) -> int:
    return main.main(words)


DRY_RUNS = [
    "upgrade",
    "upgrade --download-only",
    "upgrade --automatic",
    "upgrade --apply",
    "switch NEW",
    "switch NEW --apply",
    "rollback",
    "rollback --apply",
    "pin",
    "pin rollback",
    "unpin",
    "gc",
    "fsck",
    "fsck --repair",
    "kargs set console=ttyS1",
    "factory-reset",
    "factory-reset --cancel",
    "install remove-old-root",
]


@pytest.mark.parametrize("typed", DRY_RUNS)
def test_a_dry_run_changes_nothing(typed: str, own: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    (own.sysroot.root / "old").write_text("a file of the system before")
    own.heard()
    before = own.all()
    assert call(*typed.replace("NEW", own.new).split(), "--dry-run") == 0
    assert capsys.readouterr().out
    assert own.all() == before
    assert not own.heard()


def test_a_dry_run_of_what_was_downloaded(own: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("upgrade", "--download-only", "--quiet") == 0
    own.heard()
    before = own.all()
    capsys.readouterr()
    assert call("upgrade", "--from-downloaded", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["changed"], told["version"], told["missingSize"]) == (True, "5", 0)
    assert own.all() == before
    assert not own.heard()
    assert call("upgrade", "--from-downloaded", "--quiet") == 0
    assert own.heard()


CHANGES = [
    "upgrade",
    "upgrade --download-only",
    "switch NEW",
    "rollback",
    "pin",
    "pin rollback",
    "gc",
    "kargs set console=ttyS1",
]


@pytest.mark.parametrize("typed", CHANGES)
def test_who_watches_hears_of_each_change_and_of_nothing_else(
    typed: str, own: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """As bootc's operator watches /ostree/bootc, and then asks for the status."""
    words = typed.replace("NEW", own.new).split()
    assert not own.watched.exists()
    assert call(*words, "--quiet") == 0
    assert own.heard()
    if typed not in ("rollback", "upgrade --download-only"):  # the one is taken back, the other done again
        assert call(*words, "--quiet") == 0
        assert not own.heard(), capsys.readouterr()


@pytest.mark.parametrize("typed", ["upgrade --check", "fsck", "fsck --repair", "kargs list", "status --json"])
def test_what_changes_nothing_is_not_told(typed: str, own: Machine) -> None:
    own.heard()
    assert call(*typed.split()) == 0
    assert not own.heard()


def test_steps_of_a_boot_are_told(own: Machine) -> None:
    assert internals.boot() == 0
    assert own.heard()
    new = staged(own.sysroot, Reference.parse(own.new), parent=own.booted)
    [entry] = [own.sysroot.entries / one.file_name for one in esp.entries(own.sysroot.esp) if one.digest == new.digest]
    name = entry.name.partition("+")[0]
    entry.rename(entry.with_name(f"{name}+0-3.conf"))  # as the loader leaves it
    own.heard()
    assert internals.boot() == 0
    assert own.heard()
    assert [one.digest for one in trial.failures(own.sysroot)] == [new.digest]
    assert internals.collect() == 0
    assert own.heard()
    assert internals.collect() == 0
    assert not own.heard()


def test_a_disk_that_cannot_be_written_ends_no_boot(
    own: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is noted about a boot is worth less than the boot: users get a status, and the checks run."""
    monkeypatch.setattr(trial, "note", lambda *_: Path("/nonexistent/boots").stat())
    assert internals.boot() == 0
    assert "this boot's record cannot be written" in capsys.readouterr().out
    shown = published.read(own.sysroot.run)
    assert shown
    assert shown["status"]["booted"]["image"]["version"] == "3"


def test_a_version_that_failed_is_offered_with_a_warning_and_not_rehearsed(
    own: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("upgrade", "--check", "--json") == 0
    offered = json.loads(capsys.readouterr().out)
    assert (offered["changed"], offered["remark"]) == (True, None)
    known = FailedVersion(
        digest=ObjectId("ab" * 32),
        manifest_digest=offered["manifestDigest"],
        image=offered["image"],
        tries=3,
        reason="the required check nginx failed",
    )
    own.sysroot.failures.write_bytes(failed.encode([known]))
    assert call("upgrade", "--check", "--json") == 0
    assert "the required check nginx failed" in json.loads(capsys.readouterr().out)["remark"]
    assert call("upgrade", "--dry-run") == 19
    assert call("upgrade", "--dry-run", "--retry-failed") == 0


def test_what_staging_left_halfway_is_offered_again(own: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("upgrade", "--quiet") == 0
    capsys.readouterr()
    assert call("upgrade", "--check", "--json") == 0
    assert json.loads(capsys.readouterr().out)["changed"] is False
    [first, *_] = esp.entries(own.sysroot.esp)
    esp.remove_entry(own.sysroot.esp, first.file_name)
    assert call("upgrade", "--check", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["changed"], told["missingLayers"]) == (True, 0)


def test_switching_by_a_dry_run_is_judged_like_switching(own: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    own.heard()
    before = own.all()
    assert call("switch", f"oci:{own.directory}/v2", "--dry-run") == 1
    assert "on this machine already" in capsys.readouterr().err
    assert own.all() == before


def test_progress_of_an_upgrade_is_bootcs(own: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    assert call("upgrade", "--progress-fd", str(writer)) == 0
    os.close(writer)
    with open(reader, "rb") as pipe:
        lines = [json.loads(line) for line in pipe]
    assert lines[0] == {"type": "Start", "version": "0.1.0"}
    tasks = list(dict.fromkeys(line["task"] for line in lines[1:]))
    assert tasks == ["pulling", "importing", "staging"]
    assert "Queued for next boot: " in capsys.readouterr().out
    assert kept.newest_entries(own.sysroot)
    assert status.document(facts.gather(own.sysroot, facts.mounted()))["status"]["staged"]["image"]["version"] == "5"


def spoilt(directory: Path, kind: str) -> str:
    """What `switch` gets instead of an image that is fine."""
    whole: Files = {**BOOTABLE, "usr/version": b"9"}
    labels = {"containers.bootc": "1"}
    place = directory / kind
    if kind == "nothing":
        return f"oci:{place}"
    if kind == "no registry":
        return "docker://127.0.0.1:1/web:1"
    if kind == "no image":
        place.mkdir()
        (place / "file").write_text("hello")
    elif kind == "no label":
        write_layout(place, whole)
    elif kind == "no kernel":
        write_layout(place, {"usr": None, "boot": None, "sysroot": None, "etc": None}, labels=labels)
    elif kind == "damaged":
        write_layout(place, whole, labels=labels)
        [layer] = layer_blobs(place)
        data = bytearray(layer.read_bytes())
        data[len(data) // 2] ^= 1
        layer.write_bytes(data)
    elif kind == "not an archive":
        place.write_bytes(os.urandom(20000))
        return f"oci-archive:{place}"
    else:
        write_layout(place, whole | {"usr/lib/modules/6.12.1/vmlinuz": b"another kernel" * 900}, labels=labels)
    return f"oci:{place}"


@pytest.mark.parametrize("face", [main.KEELBOOT, bootc.FACE], ids=lambda face: face.command)
@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("nothing", 4, "nothing"),
        ("no image", 5, "no image"),
        ("not an archive", 5, "not an archive"),
        ("damaged", 5, "damaged"),
        ("no label", 6, "the label containers.bootc=1"),
        ("no kernel", 6, "no kernel"),
        ("architecture", 6, "it is an image for 'amd64', not for arm64"),
        ("full store", 8, "Insufficient free space"),
        ("full ESP", 8, "Insufficient free space on the ESP"),
        ("full /var", 8, "Insufficient free space in /var"),
        ("no registry", 24, "Connection refused"),
    ],
)
def test_bad_input_leaves_the_machine_as_it_was(
    kind: str,
    code: int,
    said: str,
    face: main.Face,
    own: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own.heard()
    before = own.all()
    source = spoilt(tmp_path, kind)
    if kind == "architecture":
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6", "1", "aarch64")))
    elif kind == "full store":
        monkeypatch.setattr(space, "missing", lambda *_: 1 << 60)
    elif kind == "full ESP":
        monkeypatch.setattr(esp, "free", lambda _: 5000)
    elif kind == "full /var":
        monkeypatch.setattr(space, "missing_in_var", lambda *_: 1 << 60)
    transport, _, place = source.partition(":")
    words = [f"--transport={transport}", place] if transport != "docker" else ["--transport=registry", source[9:]]
    assert main.main(["switch", *words], face) == (code if face is main.KEELBOOT else 1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "Traceback" not in captured.err
    if face is bootc.FACE:
        assert captured.err.splitlines()[-1].startswith("error: cannot ") or said.startswith("Insufficient")
    assert not own.heard()
    monkeypatch.undo()
    # What was fetched may lie in the store until the next gc, and nothing names it.
    new = {name for name, what in own.all().items() if before.get(name) != what}
    assert all("/composefs/objects/" in name for name in new), new
    assert before.keys() <= own.all().keys()
