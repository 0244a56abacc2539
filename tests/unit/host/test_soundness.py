"""What is damaged is found, and mended from the image that it came from."""

from pathlib import Path

import pytest

from keelboot.boot import esp
from keelboot.host import soundness
from small_machines import faults, version, with_versions


def test_a_sound_machine(tmp_path: Path) -> None:
    sysroot, [_, second] = with_versions(tmp_path, 2)
    found = soundness.examine(sysroot, second, jobs=1)
    assert found.sound
    assert found.store.objects > 10


def test_objects_and_kernels_are_mended(tmp_path: Path) -> None:
    sysroot, [_, second] = with_versions(tmp_path, 2, kernel=True)
    objects = [path for path in (sysroot.store / "objects").rglob("*") if path.is_file()]
    for path in objects[::3]:
        path.write_bytes(b"rot")
    for listed in esp.entries(sysroot.esp):
        (sysroot.esp / listed.entry.linux.lstrip("/")).write_bytes(b"rot")
    assert len(soundness.examine(sysroot, second, jobs=1).findings) == 2
    done = soundness.mend(sysroot, second, jobs=1)
    assert done.sound, done.findings + done.store.findings
    assert len(done.mended) >= 2 + len(objects[::3])
    assert faults(sysroot) == []


def test_a_version_that_came_with_the_disk_is_mended_too(tmp_path: Path) -> None:
    """It has no reference in the store, and no records of layers."""
    sysroot, [first] = with_versions(tmp_path, 1)
    for directory in ("refs", "layers"):
        for path in (sysroot.store / directory).iterdir():
            path.unlink()
    large = next(
        path for path in (sysroot.store / "objects").rglob("*") if path.is_file() and path.stat().st_size > 1 << 20
    )
    large.write_bytes(b"rot")
    assert not soundness.examine(sysroot, first, jobs=1).sound
    assert soundness.mend(sysroot, first, jobs=1).sound
    assert large.stat().st_size > 1 << 20


def test_without_the_image_it_says_why(tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    next(path for path in (sysroot.store / "objects").rglob("*") if path.is_file()).write_bytes(b"rot")
    Path(version(tmp_path, 1).location).rename(tmp_path / "gone")
    done = soundness.mend(sysroot, first, jobs=1)
    assert not done.sound
    assert "could not be used" in done.remarks[0]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("record", "no record that can be read"),
        ("settings", "the machine's kernel arguments are lost"),
        ("entry", "damaged, or not keelboot's"),
        ("no entry", "what runs has no boot entry"),
        ("image", "the store does not have its image"),
    ],
)
def test_what_is_wrong_outside_the_store_is_told(damage: str, told: str, tmp_path: Path) -> None:
    sysroot, [first] = with_versions(tmp_path, 1)
    match damage:
        case "record":
            (sysroot.deployment(first) / "origin.json").write_bytes(b"{")
        case "settings":
            sysroot.settings.write_bytes(b"[]")
        case "entry":
            (sysroot.entries / "keelboot-000009-x.conf").touch()
        case "no entry":
            next(sysroot.entries.iterdir()).unlink()
        case "image":
            (sysroot.store / "images" / first.hex).unlink()
    assert told in " ".join(one.why for one in soundness.examine(sysroot, first, jobs=1).findings)
