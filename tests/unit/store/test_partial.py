"""What was fetched of a blob is not fetched again, however the pull ended, and is not believed either."""

import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from keelboot.failure import InvalidImage, NetworkFailed
from keelboot.image import remote
from keelboot.image.opened import Image
from keelboot.image.reference import Reference
from keelboot.registry.endpoint import Clock
from keelboot.registry.opening import Registries
from keelboot.registry.patience import Patience
from keelboot.registry.places import Places
from keelboot.store import partial, reading
from keelboot.store.check import Report
from keelboot.store.garbage import clean
from keelboot.store.pull import Pulled, pull
from keelboot.store.repository import Lock, opened
from simulated import registry as fault
from simulated.registry import Registry, serving
from small_images import BASE, layer_blobs, snapshot, write_layout

NOISE = {name: random.Random(name).randbytes(2_500_000) for name in ("one", "two")}
PATIENCE = Patience(connect=2, answer=5, silence=5, tries=2, first_tries=2)
BLOCK = 1 << 18  # bytes that are read at once; what came of one that is not whole is asked for again
CUT = 1_000_000
BEFORE = CUT // BLOCK * BLOCK
SOURCE = str(Path(partial.__file__).parents[2])


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "image", BASE, {"one": NOISE["one"]}, {"two": NOISE["two"]})
    return tmp_path / "image"


@pytest.fixture
def registry(layout: Path) -> Iterator[Registry]:
    """A registry with the image; asked without the user's settings, and without pauses."""
    places = Places.usual({"HOME": "/nonexistent"}, uid=1000, root=Path("/nonexistent"))
    clock = Clock(sleep=lambda _: None)
    remote.provide(lambda: Registries(places, patience=PATIENCE, clock=clock))
    with serving(Registry()) as started:
        started.add(layout, "1")
        yield started
    remote.provide(None)


@pytest.fixture
def again(registry: Registry, store: Path) -> Callable[[], Pulled]:
    """Pull the image into the store; only what is asked for from then on is counted."""

    def act() -> Pulled:
        registry.seen.clear()
        registry.sent = 0
        return pull(store, Reference.parse(f"docker://{registry.address}/os/web:1"))

    return act


def blob(layout: Path, number: int) -> Path:
    return layer_blobs(layout)[number]


def kept(store: Path) -> dict[str, int]:
    """The blobs that drafts are of, and their bytes."""
    return {path.name.rpartition(":")[2]: path.stat().st_size for path in store.glob(".draft-blob-*")}


def ranges(registry: Registry, file: Path) -> list[str | None]:
    return [seen.headers["Range"] for seen in registry.seen if seen.path.endswith(file.name)]


def meets(registry: Registry, file: Path, *faults: fault.Fault) -> None:
    registry.aimed = lambda path: path.endswith(file.name)
    registry.faults["aimed"] = list(faults)


def test_what_was_cut_goes_on(
    registry: Registry, store: Path, layout: Path, again: Callable[[], Pulled], checked: Callable[[], Report]
) -> None:
    meets(registry, blob(layout, 1), fault.truncated(CUT), *[fault.answering(503)] * 9)
    with pytest.raises(NetworkFailed):
        again()
    assert kept(store) == {blob(layout, 1).name: BEFORE}
    assert (checked().findings, checked().drafts) == ((), 1)
    registry.faults["aimed"] = []
    pulled = again()
    assert ranges(registry, blob(layout, 1)) == [f"bytes={BEFORE}-"]
    assert kept(store) == {}
    whole = pull(store.with_name("other"), Reference.parse(f"oci:{layout}"))
    assert pulled.record == whole.record


def test_a_blob_that_is_all_there_is_not_asked_for(
    registry: Registry, store: Path, layout: Path, again: Callable[[], Pulled]
) -> None:
    """Layers are named together at the end, or when reading takes long; until then they are drafts."""
    meets(registry, blob(layout, 2), *[fault.answering(503)] * 9)
    with pytest.raises(NetworkFailed):
        again()
    assert kept(store) == {blob(layout, 1).name: blob(layout, 1).stat().st_size, blob(layout, 2).name: 0}
    registry.faults["aimed"] = []
    assert again().layers_reused == (False, False, False)
    assert ranges(registry, blob(layout, 1)) == []
    assert ranges(registry, blob(layout, 2)) == [None]
    assert kept(store) == {}


def test_layers_are_named_early_where_reading_takes_long(
    registry: Registry, store: Path, layout: Path, again: Callable[[], Pulled], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SECURED_EACH", 0.0)
    meets(registry, blob(layout, 2), *[fault.answering(503)] * 9)
    with pytest.raises(NetworkFailed):
        again()
    assert kept(store) == {blob(layout, 2).name: 0}
    registry.faults["aimed"] = []
    assert again().layers_reused == (True, True, False)
    assert ranges(registry, blob(layout, 1)) == []


@pytest.mark.parametrize(
    "found",
    [b"\0" * 1_000_000, b"x" * 9_000_000, NOISE["two"]],
    ids=["zeros, as after a power cut", "more than the blob", "another blob"],
)
def test_what_is_found_is_not_believed(
    registry: Registry,
    store: Path,
    layout: Path,
    again: Callable[[], Pulled],
    checked: Callable[[], Report],
    found: bytes,
) -> None:
    with opened(store, Lock.SHARED, create=True):
        (store / f".draft-blob-sha256:{blob(layout, 1).name}").write_bytes(found)
    again()
    assert ranges(registry, blob(layout, 1))[-1] is None, "it was fetched whole in the end"
    assert kept(store) == {}
    assert checked().findings == ()


def test_what_a_registry_made_up_does_not_stay(
    registry: Registry, store: Path, layout: Path, again: Callable[[], Pulled]
) -> None:
    right = blob(layout, 1)
    name = f"sha256:{right.name}"
    registry.blobs[name] = bytes(len(registry.blobs[name]))
    with pytest.raises(InvalidImage):
        again()
    assert len(ranges(registry, right)) == 1, "nothing that was kept was part of it, so trying again helps nobody"
    assert right.name not in kept(store)
    registry.blobs[name] = right.read_bytes()
    again()


def test_a_draft_that_another_pull_writes_is_left_alone(
    registry: Registry, store: Path, layout: Path, again: Callable[[], Pulled]
) -> None:
    held = "import fcntl, signal; fcntl.flock(0, fcntl.LOCK_EX); print(flush=True); signal.pause()"
    with opened(store, Lock.SHARED, create=True):
        draft = store / f".draft-blob-sha256:{blob(layout, 1).name}"
        draft.write_bytes(b"of somebody else")
    with (
        draft.open("r+b") as file,
        subprocess.Popen([sys.executable, "-c", held], stdin=file, stdout=subprocess.PIPE) as other,
    ):
        assert other.stdout
        other.stdout.readline()
        again()
        other.kill()
    assert ranges(registry, blob(layout, 1)) == [None]


def test_gc_removes_what_nobody_came_back_for(
    registry: Registry, store: Path, layout: Path, again: Callable[[], Pulled]
) -> None:
    meets(registry, blob(layout, 1), fault.truncated(CUT), *[fault.answering(503)] * 9)
    with pytest.raises(NetworkFailed):
        again()
    assert len(clean(store).drafts) == 1
    assert kept(store) == {}


def test_nothing_is_kept_where_there_is_no_room(registry: Registry, store: Path) -> None:
    with (
        opened(store, Lock.SHARED, create=True) as repository,
        remote_image(registry) as image,
    ):
        wanted = [layer.descriptor for layer in image.layers]
        assert isinstance(partial.keeping(repository, image, wanted).blobs, partial.Partials)
        state = os.statvfs(store)
        many = state.f_bavail * state.f_frsize // sum(one.size for one in wanted)
        assert partial.keeping(repository, image, wanted * many) is image


def test_a_full_disk_ends_the_keeping_and_not_the_blob() -> None:
    with open("/dev/full", "r+b", buffering=0) as full:
        stream = partial._Kept(os.dup(full.fileno()), 0, io.BytesIO(NOISE["one"]), time.monotonic)
        assert stream.read(1_000_000) + stream.read() == NOISE["one"]
        stream.close()


def test_long_downloads_are_synced(tmp_path: Path) -> None:
    """What a power cut takes away of them is seconds."""
    now = [0.0]
    draft = os.open(tmp_path / "draft", os.O_RDWR | os.O_CREAT)
    stream = partial._Kept(draft, 0, io.BytesIO(NOISE["one"]), lambda: now[0])
    for _ in range(5):
        stream.read(500_000)
        now[0] += 3
    assert stream._synced == 12.0
    stream.close()
    assert (tmp_path / "draft").read_bytes() == NOISE["one"]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_pull_that_was_killed_goes_on(registry: Registry, store: Path, layout: Path, jobs: str) -> None:
    large = [blob(layout, number).name for number in (1, 2)]
    registry.aimed = lambda path: path.rpartition(":")[2] in large
    registry.faults["aimed"] = [fault.stalled(CUT, 100)] * 9
    source = f"docker://{registry.address}/os/web:1"
    words = [sys.executable, "-m", "keelboot.cli.main", "store", "pull", source, "--store", str(store), "--jobs", jobs]
    environment = {**os.environ, "PYTHONPATH": SOURCE, "HOME": "/nonexistent"}
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while sum(size == BEFORE for size in kept(store).values()) < int(jobs):
            assert time.monotonic() < deadline, kept(store)
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    registry.faults["aimed"] = []
    registry.seen.clear()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for number in range(1, 1 + int(jobs)):
        assert ranges(registry, blob(layout, number)) == [f"bytes={BEFORE}-"]
    whole = store.with_name("other")
    pull(whole, Reference.parse(f"oci:{layout}"))
    found = {name: what for name, what in snapshot(store).items() if not name.startswith("refs/")}
    assert found == {name: what for name, what in snapshot(whole).items() if not name.startswith("refs/")}


def remote_image(registry: Registry) -> AbstractContextManager[Image]:
    found = remote.provided()
    assert found
    return found.open(Reference.parse(f"docker://{registry.address}/os/web:1"), architecture="amd64")
