"""The store cut after each step of each operation: by a child process that ends there, so that no cleaning up runs.

docs/formats/store.md has a row for each of these.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keelboot.image.reference import Reference
from keelboot.progress import Step
from keelboot.store import garbage, pull, repair
from keelboot.store.check import Report, check
from keelboot.store.objects import Objects
from keelboot.store.references import drop, listing
from keelboot.store.repository import Lock, opened
from small_images import BASE, CHANGE, Files, snapshot, write_layout

Cut = Callable[[str], None]


def cut(after: str, during: Callable[[Cut], object]) -> None:
    """Run DURING in a child that ends when it reaches AFTER."""
    child = os.fork()
    if not child:
        try:
            during(lambda step: os._exit(9) if step == after else None)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, f"{after} was not reached"


def report(store: Path) -> Report:
    with opened(store, Lock.SHARED) as repository:
        return check(repository, jobs=1)


def image(directory: Path, *layers: Files) -> Reference:
    return write_layout(directory / "image", *layers)


def names(store: Path) -> dict[str, str]:
    """What the store's references lead to."""
    return {
        one.reference: one.record.composefs.object.hex for one in listing(store) if one.record and one.record.composefs
    }


@pytest.mark.parametrize("step", pull.STEPS)
@pytest.mark.parametrize("old", [True, False], ids=["over an old image", "first"])
def test_pull_cut_after(step: str, old: bool, tmp_path: Path) -> None:
    """Old before the reference, new after it; nothing damaged; pulling again finishes, gc forgets."""
    store, fresh = tmp_path / "store", tmp_path / "fresh"
    before: dict[str, str] = {}
    source = image(tmp_path, BASE)
    if old:
        pull.pull(store, source)
        before = names(store)
        untouched = snapshot(store)
    source = image(tmp_path, BASE, CHANGE)
    pull.pull(fresh, source)
    cut(step, lambda reached: pull.pull(store, source, jobs=1, reached=reached))
    assert report(store).findings == ()
    assert names(store) == (names(fresh) if step == "reference" else before)

    if old and step != "reference":
        garbage.clean(store)
        assert snapshot(store) == untouched
    elif step != "reference":
        garbage.clean(store)
        assert sorted(snapshot(store)) == ["lock", "meta.json"]
    pull.pull(store, source)
    garbage.clean(store)
    assert snapshot(store) == snapshot(fresh)
    assert report(store).findings == ()


@pytest.mark.parametrize("step", pull.STEPS)
def test_pull_cut_after_and_repeated(step: str, tmp_path: Path) -> None:
    """Without gc in between: what was there is used again, and none of it is written twice."""
    store = tmp_path / "store"
    source = image(tmp_path, BASE, CHANGE)
    cut(step, lambda reached: pull.pull(store, source, jobs=1, reached=reached))
    there = {path.stat().st_ino for path in (store / "objects").rglob("*") if path.is_file()}
    again = pull.pull(store, source)
    assert there <= {path.stat().st_ino for path in (store / "objects").rglob("*") if path.is_file()}
    assert again.unchanged == (step == "reference")
    assert (again.objects_added > 0) == (step in ("created", "contents"))
    assert (report(store).findings, report(store).unneeded) == ((), 0)


@pytest.mark.parametrize("number", range(1, 8))
@pytest.mark.parametrize("unnamed", [True, False], ids=["tmpfile", "named"])
def test_pull_cut_at_an_object(number: int, unnamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of writing one: its file has no name, or one that gc knows."""
    store, fresh = tmp_path / "store", tmp_path / "fresh"
    source = image(tmp_path, BASE, CHANGE)
    pull.pull(fresh, source)
    with monkeypatch.context() as patch:
        publish, count = Objects._publish, iter(range(1, 100))

        def ending(self: Objects, *arguments: object) -> None:
            if next(count) == number:
                os._exit(9)
            publish(self, *arguments)  # type: ignore[arg-type]

        patch.setattr(Objects, "_publish", ending)
        add = Objects.add

        def choosing(self: Objects, *arguments: object) -> object:
            self._ground.unnamed = self._ground.unnamed and unnamed
            return add(self, *arguments)  # type: ignore[arg-type]

        patch.setattr(Objects, "add", choosing)
        cut("never", lambda reached: pull.pull(store, source, jobs=1, reached=reached))
    drafts = [path for path in (store / "objects").iterdir() if path.name.startswith(".draft-")]
    assert len(drafts) == (0 if unnamed else 1)
    assert report(store).findings == ()
    assert report(store).drafts == len(drafts)
    pull.pull(store, source)
    garbage.clean(store)
    assert snapshot(store) == snapshot(fresh)


class Ending:
    """Progress that ends the process once a step has advanced so far, wherever that is."""

    def __init__(self, at: int) -> None:
        self.left = at

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Step]:  # noqa: ARG002 - the port's names
        yield self

    def advance(self, amount: int) -> None:
        self.left -= amount
        if self.left <= 0:
            os._exit(9)


@pytest.mark.parametrize("jobs", [1, 2])
def test_pull_cut_while_a_layer_is_read(jobs: int, tmp_path: Path) -> None:
    store = tmp_path / "store"
    source = image(tmp_path, BASE, CHANGE)
    cut("never", lambda _: pull.pull(store, source, jobs=jobs, progress=Ending(10)))
    assert names(store) == {}
    assert report(store).findings == ()
    pull.pull(store, source)
    pull.pull(tmp_path / "fresh", source)
    assert snapshot(store) == snapshot(tmp_path / "fresh")


@pytest.mark.parametrize("step", garbage.STEPS)
def test_gc_cut_after(step: str, tmp_path: Path) -> None:
    """What is kept is never touched; the next gc does what is left; the dropped image can be pulled again at once."""
    store, fresh = tmp_path / "store", tmp_path / "fresh"
    kept = write_layout(tmp_path / "kept", BASE)
    dropped = write_layout(tmp_path / "dropped", BASE, CHANGE)
    pull.pull(fresh, kept)
    for source in (kept, dropped):
        pull.pull(store, source)
    drop(store, str(dropped))
    (store / "objects/.draft-0").touch()
    cut(step, lambda reached: garbage.clean(store, reached=reached))
    assert report(store).findings == ()
    assert names(store) == names(fresh)
    pull.pull(store, dropped)
    assert report(store).findings == ()
    drop(store, str(dropped))
    garbage.clean(store)
    assert snapshot(store) == snapshot(fresh)


@pytest.mark.parametrize("step", repair.STEPS)
@pytest.mark.parametrize("source", ["image", "store"])
def test_repair_cut_after(source: str, step: str, tmp_path: Path) -> None:
    """What was sound stays so; mending again ends where mending without a cut does: at the byte before the damage."""
    store, twin = tmp_path / "store", tmp_path / "twin"
    origin = image(tmp_path, BASE, CHANGE)
    pull.pull(store, origin)
    pull.pull(twin, origin)
    whole = snapshot(store)
    files = sorted(path for path in (store / "objects").rglob("*") if path.is_file())
    for file in files[::2]:
        file.write_bytes(b"")
    files[1].unlink()
    files[3].chmod(0o600)
    for directory in ("layers", "images", "refs"):
        link = next((store / directory).iterdir())
        link.unlink()
        link.symlink_to("nowhere")
    (store / "objects/stray").touch()
    (store / "refs/.draft-0").touch()
    sound = snapshot(store).items() & whole.items()
    chosen = origin if source == "image" else twin
    cut(step, lambda reached: repair.repair(store, chosen, jobs=1, reached=reached))
    assert snapshot(store).items() >= sound
    assert repair.repair(store, chosen, jobs=1).after.findings == ()
    assert snapshot(store) == whole
