"""Whatever happens to a store, checking finds it, says where, and whose image it concerns; repair undoes it."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from keelboot.image.reference import Reference
from keelboot.store.check import Report, check
from keelboot.store.garbage import clean
from keelboot.store.naming import name_of
from keelboot.store.pull import Pulled, pull
from keelboot.store.references import drop
from keelboot.store.repair import repair
from keelboot.store.repository import Lock, opened
from small_images import snapshot

Checked = Callable[[], Report]
Damage = Callable[[Path, Pulled], None]
SMALL = name_of(b"j" * 65, "sha256").path
LARGE = name_of(bytes(range(256)) * 10_000, "sha256").path


def flip(file: Path, bit: int) -> None:
    with file.open("r+b") as opened_file:
        opened_file.seek(bit // 8)
        byte = opened_file.read(1)[0]
        opened_file.seek(bit // 8)
        opened_file.write(bytes([byte ^ 1 << bit % 8]))


def files(store: Path) -> list[Path]:
    return [path for path in sorted((store / "objects").rglob("*")) if path.is_file()]


def links(store: Path) -> list[Path]:
    return [path for path in sorted(store.rglob("*")) if path.is_symlink()]


@pytest.mark.usefixtures("full")
def test_a_sound_store(checked: Checked, store: Path) -> None:
    before = snapshot(store)
    report = checked()
    assert (report.findings, report.bad, report.strays, report.drafts, report.unneeded) == ((), frozenset(), (), 0, 0)
    assert report.objects == len(files(store))
    assert report.size == sum(file.stat().st_size for file in files(store))
    assert snapshot(store) == before


@pytest.mark.usefixtures("full")
def test_both_numbers_of_jobs_find_the_same(store: Path) -> None:
    for number, file in enumerate(files(store)):
        if number % 2:
            file.write_bytes(b"")
    with opened(store, Lock.SHARED) as repository:
        one, two = check(repository, jobs=1), check(repository, jobs=2)
    assert one == two
    assert len(one.findings) >= len(files(store)) // 2


def ways_to_damage(store: Path, number: int, file: Path, rng: random.Random) -> list[Callable[[], object]]:
    """What may become of FILE, the store's object of that NUMBER; the fourth changes nothing where all is zeros."""
    size = file.stat().st_size
    return [
        lambda: flip(file, rng.randrange(8 * size)),
        lambda: flip(file, 8 * size - 1),
        lambda: os.truncate(file, rng.randrange(size)),
        lambda: file.write_bytes(bytes(size)),
        file.unlink,
        lambda: file.chmod(0o600),
        lambda: file.rename(file.with_name("0" * len(file.name))),
        lambda: shutil.move(files(store)[number - 1], file),
    ]


@pytest.mark.usefixtures("full")
def test_each_object_flipped_cut_emptied_lost_moved(store: Path, checked: Checked, changed: Reference) -> None:
    """Every object of the store in turn, each in six ways: found, told whose it is, healed to the byte."""
    whole = snapshot(store)
    rng = random.Random(1)
    tried = 0
    for number, file in enumerate(files(store)):
        ways = ways_to_damage(store, number, file, rng)
        for way in ways:
            if way is ways[3] and not file.read_bytes().strip(b"\0"):
                continue
            way()
            found = checked()
            path = str(file.relative_to(store))
            assert path in [finding.path for finding in found.findings]
            assert str(changed) in {name for finding in found.findings for name in finding.references}
            repaired = repair(store, changed, jobs=1)
            assert repaired.after.findings == ()
            assert path in [finding.path for finding in repaired.healed]
            assert snapshot(store) == whole
            tried += 1
    assert tried >= 80


@pytest.mark.usefixtures("full")
def test_each_bit_of_each_link_and_of_meta_json(store: Path, checked: Checked, changed: Reference) -> None:
    whole = snapshot(store)
    rng = random.Random(1)
    for link in links(store):
        target = str(link.readlink()).encode()
        for bit in rng.sample(range(8 * len(target)), 12):
            damaged = bytearray(target)
            damaged[bit // 8] ^= 1 << bit % 8
            if 0 in damaged:
                continue
            link.unlink()
            link.symlink_to(os.fsdecode(bytes(damaged)))
            found = checked()
            paths = [finding.path for finding in found.findings]
            assert any(path.startswith(("objects/", str(link.relative_to(store)))) for path in paths), damaged
            assert repair(store, changed).after.findings == ()
            assert snapshot(store) == whole


@pytest.mark.parametrize("damage", ["lost", "cut", "flipped"])
@pytest.mark.usefixtures("full")
def test_meta_json_is_written_again(damage: str, store: Path, changed: Reference) -> None:
    whole = snapshot(store)
    match damage:
        case "lost":
            (store / "meta.json").unlink()
        case "cut":
            os.truncate(store / "meta.json", 10)
        case "flipped":
            flip(store / "meta.json", 50)
    repaired = repair(store, changed)
    assert [finding.path for finding in repaired.healed] == ["meta.json"]
    assert snapshot(store) == whole


def put(path: str, content: bytes = b"x") -> Damage:
    return lambda store, _: (store / path).write_bytes(content) and None


def image_of(pulled: Pulled) -> str:
    assert pulled.record.composefs
    return pulled.record.composefs.object.hex


# What is done to the store, and what is found; all of it is mended to the byte.
OTHERS: dict[str, tuple[Damage, str]] = {
    "stray among objects": (lambda store, _: (store / f"objects/{SMALL[:2]}/notes").touch(), "no object has this name"),
    "stray beside objects": (lambda store, _: (store / "objects/notes").touch(), "no object has this name"),
    "stray directory": (lambda store, _: (store / "objects/xy").mkdir(), ""),
    "object is a directory": (
        lambda store, _: ((store / "objects" / SMALL).unlink(), (store / "objects" / SMALL).mkdir()),
        "it is no file",
    ),
    "object is a link": (
        lambda store, _: (
            (store / "objects" / SMALL).unlink(),
            (store / "objects" / SMALL).symlink_to(store / "objects" / LARGE),
        ),
        "it is no file",
    ),
    "object is a fifo": (
        lambda store, _: ((store / "objects" / SMALL).unlink(), os.mkfifo(store / "objects" / SMALL)),
        "it is no file",
    ),
    "stray image": (put("images/notes"), "no image has this name"),
    "stray layer": (put("layers/notes"), "no layer has this name"),
    "stray reference": (put("refs/a b"), "no reference has this name"),
    "image lost": (lambda store, pulled: (store / "images" / image_of(pulled)).unlink(), "it is missing"),
    "image is a file": (
        lambda store, pulled: (
            (store / "images" / image_of(pulled)).unlink(),
            (store / "images" / image_of(pulled)).touch(),
        ),
        "it leads to another object",
    ),
    "image of another name": (
        lambda store, _: (store / "images" / ("0" * 64)).symlink_to(f"../objects/{LARGE}"),
        "it leads to another object",
    ),
    "what is mounted is no image": (
        lambda store, _: (store / "images" / LARGE.replace("/", "")).symlink_to(f"../objects/{LARGE}"),
        "missing or damaged",
    ),
    "layer lost": (lambda store, pulled: (store / "layers" / str(pulled.record.diff_ids[0])).unlink(), "it is missing"),
    "layers swapped": (
        lambda store, pulled: swap(*(store / "layers" / str(diff_id) for diff_id in pulled.record.diff_ids)),
        "something else than this layer's record",
    ),
    "layer leads to content": (
        lambda store, pulled: relink(store / "layers" / str(pulled.record.diff_ids[0]), LARGE),
        "something else than this layer's record",
    ),
    "layer nobody needs leads nowhere": (
        lambda store, _: (store / "layers" / f"sha256:{'0' * 64}").symlink_to("nowhere"),
        "it leads to no object",
    ),
    "reference leads to content": (
        lambda store, _: relink(next((store / "refs").iterdir()), SMALL),
        "something else than an image's record",
    ),
}  # fmt: skip


def relink(link: Path, path: str) -> None:
    link.unlink()
    link.symlink_to(f"../objects/{path}")


def swap(one: Path, two: Path) -> None:
    first, second = one.readlink(), two.readlink()
    one.unlink()
    two.unlink()
    one.symlink_to(second)
    two.symlink_to(first)


@pytest.mark.parametrize("source", ["image", "store"])
@pytest.mark.parametrize("what", OTHERS)
def test_other_damage(
    what: str, source: str, store: Path, full: Pulled, checked: Checked, changed: Reference, tmp_path: Path
) -> None:
    whole = snapshot(store)
    if source == "store":
        shutil.copytree(store, tmp_path / "twin", symlinks=True)
    damage, why = OTHERS[what]
    damage(store, full)
    found = checked()
    if why:
        assert why in " ".join(finding.why for finding in found.findings)
        assert found.findings
    repaired = repair(store, changed if source == "image" else tmp_path / "twin")
    assert repaired.after.findings == ()
    assert set(repaired.healed) == set(found.findings)
    assert snapshot(store) == whole


@pytest.mark.usefixtures("full")
def test_strays_beside_the_directories_are_told_and_kept(store: Path, checked: Checked) -> None:
    (store / "notes").touch()
    assert [finding.path for finding in checked().findings] == ["notes"]
    assert (store / "notes").exists()


@pytest.mark.usefixtures("full")
def test_all_at_once_from_another_store(
    store: Path, changed: Reference, base: Reference, tmp_path: Path, checked: Checked
) -> None:
    """Nothing is left but names of references: all comes back, and only what belongs there."""
    pull(tmp_path / "twin", changed)
    pull(tmp_path / "twin", base)
    whole = snapshot(store)
    for file in files(store):
        file.unlink()
    for link in links(store):
        link.unlink()
        if link.parent.name == "refs":
            link.symlink_to("gone")
    assert checked().findings
    assert repair(store, tmp_path / "twin").after.findings == ()
    assert snapshot(store) == whole


@pytest.mark.usefixtures("full")
def test_all_objects_at_once_from_an_image(store: Path, changed: Reference) -> None:
    whole = snapshot(store)
    for file in files(store):
        file.write_bytes(b"")
    repaired = repair(store, changed)
    assert repaired.after.findings == ()
    assert snapshot(store) == whole


@pytest.mark.usefixtures("full", "checked")
def test_another_image_heals_what_they_share(store: Path, base: Reference, changed: Reference) -> None:
    """Nothing of the other image stays; what it does not have is still told."""
    whole = snapshot(store)
    flip(store / "objects" / LARGE, 77)
    flip(store / "objects" / name_of(b"new" * 3000, "sha256").path, 3)
    repaired = repair(store, base)
    assert [finding.path for finding in repaired.healed] == [f"objects/{LARGE}"]
    assert [finding.path for finding in repaired.after.findings] == [f"objects/{name_of(b'new' * 3000, 'sha256').path}"]
    assert repaired.after.findings[0].references == (str(changed),)
    assert snapshot(store).keys() >= whole.keys()
    assert repair(store, changed).after.findings == ()
    assert snapshot(store) == whole


@pytest.mark.usefixtures("full")
def test_damage_that_concerns_nobody_is_gc_s_to_remove(
    store: Path, base: Reference, changed: Reference, checked: Checked
) -> None:
    pull(store, base)
    drop(store, str(changed))
    new = store / "objects" / name_of(b"new" * 3000, "sha256").path
    new.write_bytes(b"")
    (finding,) = checked().findings
    assert finding.references == ()
    clean(store)
    assert checked().findings == ()
    assert not new.exists()


@pytest.mark.usefixtures("full")
def test_a_sound_store_is_not_written(store: Path, changed: Reference) -> None:
    (store / "objects" / LARGE).touch()
    before = (snapshot(store), (store / "refs").stat().st_mtime_ns)
    repaired = repair(store, changed)
    assert (repaired.healed, repaired.after.findings) == ((), ())
    assert (snapshot(store), (store / "refs").stat().st_mtime_ns) == before


@pytest.mark.usefixtures("full")
def test_what_one_check_reads_another_one_may_change(store: Path, base: Reference) -> None:
    """Checking shares the lock with pulls."""
    with opened(store, Lock.SHARED) as repository:
        pull(store, base)
        assert check(repository).findings == ()
