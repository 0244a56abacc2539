import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from keelboot.composefs.sealing import deployment_digest
from keelboot.failure import Failure, InvalidImage
from keelboot.image.layers import read_tree
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.image.tree import ObjectId
from keelboot.store.check import Report
from keelboot.store.garbage import clean
from keelboot.store.naming import name_of
from keelboot.store.pull import Pulled, pull
from keelboot.store.repository import Lock, opened
from small_images import BASE, CHANGE, OTHER, Files, layer_blobs, snapshot, write_layout

Checked = Callable[[], Report]


class Nowhere:
    """A sink that only names."""

    def add(self, _: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:
        return name_of(b"".join(chunks), "sha256")


def expected(source: Reference) -> str:
    """The deployment's digest, worked out without a store."""
    with open_image(source) as image:
        return deployment_digest(read_tree(image, Nowhere())).hex


def composefs(pulled: Pulled) -> str:
    assert pulled.record.composefs
    return pulled.record.composefs.object.hex


def unreadable(source: Reference, *numbers: int) -> None:
    """Have a pull fail that opens one of these layers of the image."""
    for number in numbers:
        layer_blobs(Path(source.location))[number].unlink()


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("layers", [(BASE,), (BASE, CHANGE), (BASE, CHANGE, OTHER)], ids=["one", "two", "three"])
def test_a_pull(layers: tuple[Files, ...], jobs: int, tmp_path: Path, store: Path, checked: Checked) -> None:
    source = write_layout(tmp_path / "image", *layers)
    pulled = pull(store, source, jobs=jobs)
    assert composefs(pulled) == expected(source)
    assert pulled.layers_reused == (False,) * len(layers)
    assert not pulled.unchanged
    name = composefs(pulled)
    assert str((store / "images" / name).readlink()) == f"../objects/{name[:2]}/{name[2:]}"
    report = checked()
    assert report.findings == ()
    assert (report.unneeded, report.drafts, report.references) == (0, 0, 1)


def test_both_numbers_of_jobs_make_the_same_store(tmp_path: Path, changed: Reference) -> None:
    pull(tmp_path / "one", changed, jobs=1)
    pull(tmp_path / "two", changed, jobs=2)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_an_unchanged_image_is_not_read(store: Path, changed: Reference, full: Pulled) -> None:
    unreadable(changed, 0, 1)
    before = snapshot(store)
    again = pull(store, changed)
    assert again.unchanged
    assert again.record == full.record
    assert (again.objects_added, again.layers_reused) == (0, (True, True))
    assert snapshot(store) == before


@pytest.mark.usefixtures("changed", "full")
def test_the_same_image_under_another_name_is_not_read(store: Path, tmp_path: Path, checked: Checked) -> None:
    shutil.copytree(tmp_path / "changed", tmp_path / "copy")
    other = Reference.parse(f"oci:{tmp_path}/copy")
    unreadable(other, 0, 1)
    assert pull(store, other).unchanged
    assert checked().references == 2


def test_only_the_changed_layer_is_read(store: Path, base: Reference, changed: Reference, checked: Checked) -> None:
    pull(store, base)
    wanted = expected(changed)
    unreadable(changed, 0)
    pulled = pull(store, changed)
    assert pulled.layers_reused == (True, False)
    assert composefs(pulled) == wanted
    assert checked().findings == ()


def test_an_old_layer_below_a_new_one_and_above(store: Path, tmp_path: Path) -> None:
    pull(store, write_layout(tmp_path / "old", BASE, OTHER))
    new = write_layout(tmp_path / "new", BASE, CHANGE, OTHER)
    wanted = expected(new)
    unreadable(new, 0, 2)
    pulled = pull(store, new)
    assert pulled.layers_reused == (True, False, True)
    assert composefs(pulled) == wanted


def test_the_new_image_takes_the_name(store: Path, tmp_path: Path, checked: Checked) -> None:
    source = write_layout(tmp_path / "image", BASE)
    first = pull(store, source)
    write_layout(tmp_path / "image", BASE, CHANGE)
    second = pull(store, source)
    assert composefs(second) != composefs(first)
    report = checked()
    assert (report.findings, report.references) == ((), 1)
    assert report.unneeded > 0
    clean(store)
    pull(tmp_path / "fresh", source)
    assert snapshot(store) == snapshot(tmp_path / "fresh")


@pytest.mark.parametrize("gone", ["object", "record", "layer", "image", "short", "config"])
def test_what_is_missing_is_fetched(gone: str, store: Path, changed: Reference, full: Pulled, checked: Checked) -> None:
    whole = snapshot(store)
    layer = store / "layers" / str(full.record.diff_ids[0])
    match gone:
        case "object":
            (store / "objects" / name_of(b"j" * 65, "sha256").path).unlink()
        case "short":
            os.truncate(store / "objects" / name_of(b"j" * 65, "sha256").path, 3)
        case "record":
            layer.resolve().write_bytes(b"")
        case "layer":
            layer.unlink()
        case "image":
            (store / "images" / composefs(full)).unlink()
        case "config":
            (store / "objects" / full.record.config.object.path).unlink()
    assert not pull(store, changed).unchanged
    assert checked().findings == ()
    assert snapshot(store) == whole


def test_an_image_that_cannot_be_sealed_is_kept(store: Path, tmp_path: Path, checked: Checked) -> None:
    source = write_layout(tmp_path / "image", {"usr": None, "usr/file": b"x" * 100})
    pulled = pull(store, source)
    assert pulled.record.composefs is None
    assert pulled.record.unsealed == "/boot is missing"
    assert list((store / "images").iterdir()) == []
    assert pull(store, source).unchanged
    assert clean(store).objects == ()
    assert checked().findings == ()


def test_a_damaged_layer_names_nothing(store: Path, base: Reference, changed: Reference, checked: Checked) -> None:
    pull(store, base)
    before = snapshot(store)
    blob = layer_blobs(Path(changed.location))[1]
    data = bytearray(blob.read_bytes())
    data[-5] ^= 1
    blob.write_bytes(data)
    with pytest.raises(InvalidImage, match="cannot use"):
        pull(store, changed)
    assert checked().findings == ()
    clean(store)
    assert snapshot(store) == before


def test_a_record_of_another_layer_is_not_believed(store: Path, changed: Reference, full: Pulled) -> None:
    """Whoever links a layer's name to the record of another one does not change what is pulled."""
    wanted = composefs(full)
    one, two = (store / "layers" / str(diff_id) for diff_id in full.record.diff_ids)
    target = two.readlink()
    one.unlink()
    one.symlink_to(target)
    for reference in (store / "refs").iterdir():
        reference.unlink()
    pulled = pull(store, changed)
    assert pulled.layers_reused == (False, True)
    assert composefs(pulled) == wanted


def test_two_pulls_at_once_in_step(store: Path, base: Reference, changed: Reference, checked: Checked) -> None:
    """One begins and ends while the other is between any two of its steps."""
    steps: list[str] = []

    def other(step: str) -> None:
        steps.append(step)
        pull(store, base)
        assert checked().findings == ()

    pull(store, changed, reached=other)
    assert len(steps) == 7
    report = checked()
    assert (report.findings, report.unneeded, report.references) == ((), 0, 2)


def test_many_pulls_at_once(store: Path, tmp_path: Path, checked: Checked) -> None:
    sources = [
        write_layout(tmp_path / f"{number}", BASE, {"usr": None, f"usr/{number}": b"x" * 70}) for number in range(4)
    ]
    threads = [threading.Thread(target=pull, args=(store, source)) for source in sources * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = checked()
    assert (report.findings, report.references, report.drafts) == ((), 4, 0)


def test_gc_waits_for_a_pull(store: Path, base: Reference, changed: Reference, checked: Checked) -> None:
    pull(store, base)
    collected = threading.Event()

    def collect() -> None:
        clean(store)
        collected.set()

    thread = threading.Thread(target=collect)

    def meanwhile(step: str) -> None:
        if step == "contents":
            thread.start()
            assert not collected.wait(0.3)

    pull(store, changed, reached=meanwhile)
    thread.join(10)
    assert collected.is_set()
    assert checked().findings == ()


def test_a_failed_barrier_names_nothing(
    store: Path, base: Reference, changed: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(store, base)
    references = list((store / "refs").iterdir())
    with opened(store, Lock.NONE) as repository:
        kind = type(repository)

    def broken(_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(kind, "barrier", broken)
    with pytest.raises(Failure, match="cannot use the store"):
        pull(store, changed)
    assert list((store / "refs").iterdir()) == references


def test_a_name_too_long_for_a_file(store: Path, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 50] * 5)
    deep.mkdir(parents=True)
    with pytest.raises(Failure, match="cannot keep"):
        pull(store, write_layout(deep / "image", BASE))


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_from_archives(transport: str, store: Path, changed: Reference, tmp_path: Path, full: Pulled) -> None:
    """The same layers, whatever they came in: nothing is read again."""
    if transport == "oci-archive":
        subprocess.run(["tar", "-C", changed.location, "-cf", tmp_path / "image.tar", "."], check=True)
    else:
        if shutil.which("skopeo") is None:
            pytest.skip("needs skopeo")
        command = ["skopeo", "copy", "-q", str(changed), f"docker-archive:{tmp_path}/image.tar"]
        subprocess.run(command, check=True, capture_output=True)
    pulled = pull(store, Reference.parse(f"{transport}:{tmp_path}/image.tar"))
    assert all(pulled.layers_reused)
    assert composefs(pulled) == composefs(full)


def test_a_record_is_json(store: Path, full: Pulled) -> None:
    (reference,) = (store / "refs").iterdir()
    told = json.loads(reference.read_text())
    assert told["composefs"]["object"] == composefs(full)
    assert told["layers"] == [str(diff_id) for diff_id in full.record.diff_ids]
