"""Layers that several processes read: the same store, the same words, whoever read what."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from keelboot.failure import Failure, InvalidImage, OutOfSpace
from keelboot.image import archive
from keelboot.image.layers import Limits
from keelboot.image.reference import Reference
from keelboot.progress import SILENT, Step
from keelboot.store import draft, reading
from keelboot.store.check import Report
from keelboot.store.crew import Crew
from keelboot.store.garbage import clean
from keelboot.store.objects import Objects
from keelboot.store.pull import pull
from keelboot.store.reading import planned
from keelboot.store.repository import Lock, opened
from small_images import BASE, CHANGE, OTHER, Files, layer_blobs, snapshot, write_layout

pytestmark = pytest.mark.skipif(threading.active_count() > 1, reason="this process has threads, and must not fork")

Checked = Callable[[], Report]
LARGE: Files = {
    "usr": None,
    "usr/lib": None,
    **{f"usr/lib/{number}": random.Random(number).randbytes(70 + 997 * number) for number in range(90)},
    "usr/lib/again": b"j" * 65,
    "usr/lib/hard": "= usr/lib/3",
    "usr/.wh.same": b"",
}
LAYERS = (BASE, CHANGE, LARGE, OTHER)


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[Crew]:
    """Layers of any size are shared. The crews that were formed, which a test asks whether they were."""
    monkeypatch.setattr(reading, "_SHARED_MIN", 1)
    found: list[Crew] = []
    start = Crew.start

    def noted(self: Crew, *arguments: object) -> None:
        found.append(self)
        start(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Crew, "start", noted)
    return found


@pytest.fixture
def image(tmp_path: Path) -> Reference:
    return write_layout(tmp_path / "image", *LAYERS)


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("jobs", [2, 3, 64])
def test_any_number_of_jobs_makes_the_same_store(
    jobs: int, store: Path, image: Reference, tmp_path: Path, started: list[Crew], checked: Checked
) -> None:
    one = pull(tmp_path / "one", image, jobs=1)
    assert started == []
    many = pull(store, image, jobs=jobs)
    assert len(started) == min(jobs, len(LAYERS)) - 1
    assert snapshot(store) == snapshot(tmp_path / "one")
    assert (many.objects_added, many.bytes_added) == (one.objects_added, one.bytes_added)
    assert (many.sealed, many.objects_healed) == (one.sealed, 0)
    assert checked().findings == ()


def as_archive(image: Reference, place: Path) -> Reference:
    subprocess.run(["tar", "-C", image.location, "-cf", place / "image.tar", "."], check=True)
    return Reference.parse(f"oci-archive:{place}/image.tar")


def as_docker_archive(image: Reference, place: Path) -> Reference:
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo")
    subprocess.run(["skopeo", "copy", "-q", str(image), f"docker-archive:{place}/docker.tar"], check=True)
    return Reference.parse(f"docker-archive:{place}/docker.tar")


@pytest.mark.parametrize("made", [as_archive, as_docker_archive])
def test_archives_are_read_by_several_at_once(
    made: Callable[[Reference, Path], Reference], image: Reference, store: Path, tmp_path: Path, started: list[Crew]
) -> None:
    """One descriptor, which all processes have, and each reads at positions of its own."""
    source = made(image, tmp_path)
    pull(tmp_path / "one", source, jobs=1)
    pull(store, source, jobs=3)
    assert len(started) == 2
    assert snapshot(store) == snapshot(tmp_path / "one")


def test_podmans_store_is_read_by_several_at_once(
    store: Path, tmp_path: Path, started: list[Crew], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("podman") or os.geteuid():
        pytest.skip("needs podman and root")
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/root"\nrunroot = "{tmp_path}/run"\n'
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    image = write_layout(tmp_path / "image", *LAYERS, compress=False)
    shown = subprocess.run(["podman", "pull", "-q", str(image)], check=True, capture_output=True, text=True)
    source = Reference.parse(f"containers-storage:{shown.stdout.strip()}")
    pull(tmp_path / "one", source, jobs=1)
    pull(store, source, jobs=3)
    assert len(started) == 2
    assert snapshot(store) == snapshot(tmp_path / "one")


def test_only_layers_that_are_not_known_are_shared(
    store: Path, image: Reference, tmp_path: Path, started: list[Crew], checked: Checked
) -> None:
    pull(store, write_layout(tmp_path / "old", BASE, LARGE), jobs=1)
    pulled = pull(store, image, jobs=8)
    assert pulled.layers_reused == (True, False, True, False)
    assert len(started) == 1
    assert checked().findings == ()


def test_small_layers_are_not_worth_a_process(
    store: Path, image: Reference, started: list[Crew], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_SHARED_MIN", 1 << 20)
    pull(store, image, jobs=8)
    assert started == []


def told(failing: Callable[[], object], kind: type[Failure] = InvalidImage) -> str:
    with pytest.raises(kind) as caught:
        failing()
    return str(caught.value)


def damage(image: Reference, *numbers: int) -> None:
    for number in numbers:
        blob = layer_blobs(Path(image.location))[number]
        data = bytearray(blob.read_bytes())
        data[-5] ^= 1
        blob.write_bytes(data)


@pytest.mark.parametrize("numbers", [(0,), (1,), (2,), (3,), (0, 2), (1, 3), (2, 3), (0, 1, 2, 3)])
def test_the_lowest_layer_that_is_wrong_is_told(
    numbers: tuple[int, ...], store: Path, image: Reference, tmp_path: Path, checked: Checked
) -> None:
    damage(image, *numbers)
    expected = told(lambda: pull(tmp_path / "one", image, jobs=1))
    assert f"layer {min(numbers) + 1} of 4" in expected
    for jobs in (2, 3, 4):
        assert told(lambda jobs=jobs: pull(store, image, jobs=jobs)) == expected  # type: ignore[misc]
    assert checked().findings == ()
    assert list((store / "refs").iterdir()) == list((store / "layers").iterdir()) == []


@pytest.mark.parametrize("entries", [5, 13, 15, 20, 107, 110])
@pytest.mark.parametrize("jobs", [2, 4])
def test_limits_hold_for_all_layers_together(
    jobs: int, entries: int, store: Path, image: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words are those of one process that reads layer by layer, the number of entries that were left among them."""
    limits = Limits(layers=archive.Limits(entries=entries))
    monkeypatch.setattr("keelboot.store.pull.planned", partial(planned, limits=limits))
    expected = told(lambda: pull(tmp_path / "one", image, jobs=1))
    assert "entries" in expected
    assert told(lambda: pull(store, image, jobs=jobs)) == expected


def test_one_that_is_killed(
    store: Path, image: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: Checked
) -> None:
    """A clear failure; the next pull finishes."""
    with monkeypatch.context() as patch:
        patch.setattr(reading._There, "do", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        assert "SIGKILL" in told(lambda: pull(store, image, jobs=4), Failure)
    assert checked().findings == ()
    pull(store, image, jobs=2)
    pull(tmp_path / "fresh", image, jobs=1)
    assert snapshot(store) == snapshot(tmp_path / "fresh")


def test_a_full_filesystem_there(store: Path, image: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operating system refuses another process is told as if it had refused this one."""
    here, write = os.getpid(), draft.Draft.write

    def refused(self: draft.Draft, data: bytes) -> None:
        if os.getpid() != here:
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(draft.Draft, "write", refused)
    assert "full" in told(lambda: pull(store, image, jobs=4), OutOfSpace)


class Interrupting:
    """Progress in which the user presses Ctrl-C while layers are read."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Step]:
        with SILENT.step(title, total):
            yield self

    def advance(self, amount: int) -> None:
        if amount:
            raise KeyboardInterrupt


def test_an_interrupt_leaves_no_process(store: Path, image: Reference, checked: Checked) -> None:
    """`_no_process_is_left` looks."""
    with pytest.raises(KeyboardInterrupt):
        pull(store, image, jobs=4, progress=Interrupting())
    assert checked().findings == ()


class Ending:
    """Progress that ends the process when the first block was read, without any cleaning up."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Step]:  # noqa: ARG002 - the port's names
        yield self

    def advance(self, amount: int) -> None:
        if amount:
            os._exit(9)


def test_when_this_one_ends_the_others_end_and_gc_waits_for_them(
    store: Path, image: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: Checked
) -> None:
    """The lock is theirs as well: until the last of them is gone, nothing that they may still add is removed."""
    write = draft.Draft.write
    child = os.fork()
    if not child:
        first = os.getpid()

        def slow(self: draft.Draft, data: bytes) -> None:
            if os.getpid() != first:
                time.sleep(0.01)
            write(self, data)

        monkeypatch.setattr(draft.Draft, "write", slow)
        try:
            pull(store, image, jobs=4, progress=Ending())
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    clean(store)
    assert sorted(snapshot(store)) == ["lock", "meta.json"]
    time.sleep(0.2)
    assert sorted(snapshot(store)) == ["lock", "meta.json"]
    pull(store, image, jobs=2)
    pull(tmp_path / "fresh", image, jobs=1)
    assert snapshot(store) == snapshot(tmp_path / "fresh")
    assert checked().findings == ()


class Counting:
    """Progress that adds up."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done = 0

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Step]:  # noqa: ARG002 - the port's names
        if total is None:
            yield Counting()
        else:
            self.total = total
            yield self

    def advance(self, amount: int) -> None:
        self.done += amount


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_progress_counts_what_all_read(jobs: int, store: Path, image: Reference) -> None:
    progress = Counting()
    pull(store, image, jobs=jobs, progress=progress)
    assert progress.done == progress.total == sum(blob.stat().st_size for blob in layer_blobs(Path(image.location)))


def test_after_a_failed_barrier_all_objects_are_read_anew(
    store: Path, image: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that another process made among them: pages that could not be written are not what the disk has."""

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    forgotten: set[int] = set()
    monkeypatch.setattr("keelboot.durable.sync_filesystem", broken)
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *_: forgotten.add(os.fstat(fd).st_ino))
    with pytest.raises(Failure, match="cannot use the store"):
        pull(store, image, jobs=4)
    files = [path for path in (store / "objects").rglob("*") if path.is_file()]
    assert len(files) > 90
    assert forgotten == {path.stat().st_ino for path in files}


def test_two_that_add_the_same_object(store: Path) -> None:
    """Whoever comes second compares; nobody's file is replaced."""
    with opened(store, Lock.SHARED, create=True) as repository:
        one, two = repository.objects, Objects(repository.objects.fd, "sha256")
        for size in (100, 3_000_000):
            name = one.add(size, [bytes(size)])
            number = (store / "objects" / name.path).stat().st_ino
            assert two.add(size, [bytes(size)]) == name
            assert (store / "objects" / name.path).stat().st_ino == number
        assert (len(two.added), two.reused, two.healed) == (0, 2, 0)
