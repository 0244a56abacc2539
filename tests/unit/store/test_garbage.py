from collections.abc import Callable
from pathlib import Path

import pytest

from keelboot.failure import Failure, ImageNotFound
from keelboot.image.reference import Reference
from keelboot.store.check import Report
from keelboot.store.garbage import clean
from keelboot.store.naming import name_of
from keelboot.store.pull import Pulled, pull
from keelboot.store.references import drop, listing
from small_images import BASE, CHANGE, OTHER, snapshot, write_layout

Checked = Callable[[], Report]


@pytest.mark.usefixtures("full")
def test_nothing_is_removed_that_an_image_needs(store: Path) -> None:
    before = snapshot(store)
    garbage = clean(store)
    assert (garbage.images, garbage.layers, garbage.objects, garbage.drafts) == ((), (), (), ())
    assert snapshot(store) == before


@pytest.mark.usefixtures("full")
def test_a_dropped_image_leaves_nothing(store: Path, changed: Reference) -> None:
    drop(store, str(changed))
    garbage = clean(store)
    assert (len(garbage.images), len(garbage.layers)) == (1, 2)
    assert sorted(snapshot(store)) == ["lock", "meta.json"]


@pytest.mark.usefixtures("full")
def test_what_two_share_is_kept_for_the_other(store: Path, base: Reference, changed: Reference) -> None:
    pull(store, base)
    drop(store, str(changed))
    clean(store)
    alone = store.parent / "alone"
    pull(alone, base)
    assert snapshot(store) == snapshot(alone)


@pytest.mark.usefixtures("full")
def test_a_dry_run_tells_and_does_nothing(store: Path, changed: Reference) -> None:
    drop(store, str(changed))
    before = snapshot(store)
    told = clean(store, dry_run=True)
    assert snapshot(store) == before
    assert clean(store) == told
    assert told.size == sum(one.size for one in told.objects) > 2_000_000


def test_roots_keep_an_image_and_what_it_shows(store: Path, full: Pulled, changed: Reference, checked: Checked) -> None:
    """A deployment is kept by its image alone, without layers and references."""
    assert full.record.composefs
    drop(store, str(changed))
    clean(store, roots=[full.record.composefs.object])
    assert [path.name for path in (store / "images").iterdir()] == [full.record.composefs.object.hex]
    assert list((store / "layers").iterdir()) == []
    assert checked().findings == ()
    kept = {path.parent.name + path.name for path in (store / "objects").rglob("*") if path.is_file()}
    large = name_of(bytes(range(256)) * 10_000, "sha256")
    hidden = name_of(b"j" * 65, "sha256")  # in the lower layer only
    assert large.hex in kept
    assert hidden.hex not in kept


@pytest.mark.usefixtures("full")
def test_drafts_are_removed(store: Path) -> None:
    drafts = ["objects/.draft-1", "refs/.draft-2", "images/.draft-3", "layers/.draft-4", ".meta.json.5"]
    for draft in drafts[1:-1]:
        (store / draft).symlink_to("../objects/ab/c")
    (store / drafts[0]).touch()
    (store / drafts[-1]).touch()
    assert sorted(clean(store).drafts) == sorted(drafts)
    assert clean(store).drafts == ()


@pytest.mark.usefixtures("full")
def test_strays_are_left_to_fsck(store: Path) -> None:
    strays = [store / "objects/ab", store / "images/x", store / "notes"]
    strays[0].mkdir(exist_ok=True)
    (strays[0] / "x").touch()
    strays[1].touch()
    strays[2].touch()
    clean(store)
    assert all(stray.exists() for stray in strays)


@pytest.mark.parametrize("what", ["reference", "layer", "no layer"])
def test_damage_stops_it(what: str, store: Path, full: Pulled, changed: Reference, base: Reference) -> None:
    """What a damaged record needs is not known: nothing is removed."""
    pull(store, base)
    drop(store, str(base))
    (reference,) = (store / "refs").iterdir()
    layer = store / "layers" / str(full.record.diff_ids[1])
    match what:
        case "reference":
            reference.resolve().write_bytes(b"{}")
        case "layer":
            layer.resolve().write_bytes(b"x")
        case "no layer":
            layer.unlink()
    before = snapshot(store)
    with pytest.raises(Failure, match="cannot tell what the store"):
        clean(store)
    assert snapshot(store) == before
    drop(store, str(changed))  # given up
    clean(store)
    assert sorted(snapshot(store)) == ["lock", "meta.json"]


@pytest.mark.usefixtures("full")
def test_dropping_what_is_not_there(store: Path, changed: Reference) -> None:
    for name in ("containers-storage:localhost/other", "", "x" * 300):
        with pytest.raises(ImageNotFound) as failed:
            drop(store, name)
        assert str(changed) in failed.value.fix


def test_listing(store: Path, full: Pulled, base: Reference, changed: Reference) -> None:
    pull(store, base)
    one, two = listing(store)
    assert (one.reference, two.reference) == (str(base), str(changed))
    assert two.record == full.record
    assert (two.objects - one.objects, two.size - one.size) == (2, 9000 + 4096)
    (store / "refs" / next((store / "refs").iterdir()).name).resolve().write_bytes(b"")
    assert [found.record is None for found in listing(store)].count(True) == 1


def test_many_rounds_leak_nothing(store: Path, tmp_path: Path, checked: Checked) -> None:
    """Whatever was pulled and dropped in between, the store holds what a fresh one would."""
    images = {
        "a": write_layout(tmp_path / "a", BASE),
        "b": write_layout(tmp_path / "b", BASE, CHANGE),
        "c": write_layout(tmp_path / "c", BASE, OTHER),
        "d": write_layout(tmp_path / "d", CHANGE | {"usr": None}),
    }
    there: set[str] = set()
    for step in "abAcBbdCagADBc":
        if step.islower() and step in images:
            pull(store, images[step])
            there.add(step)
        elif step.isupper():
            drop(store, str(images[step.lower()]))
            there.discard(step.lower())
        clean(store)
        assert checked().findings == ()
        assert checked().unneeded == 0
    fresh = tmp_path / "fresh"
    for name in there:
        pull(fresh, images[name])
    assert snapshot(store) == snapshot(fresh)
