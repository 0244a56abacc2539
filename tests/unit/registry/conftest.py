"""A small image in a registry in memory, and what reads it from there."""

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from keelboot.image.layers import read_tree
from keelboot.image.reference import Reference
from keelboot.image.tree import ObjectId
from keelboot.registry.endpoint import Clock
from keelboot.registry.opening import Registries
from keelboot.registry.patience import Patience
from keelboot.registry.places import Places
from keelboot.registry.throttle import Throttle
from simulated.authority import Authority
from simulated.registry import Registry, serving
from small_images import write_layout

PATIENCE = Patience(connect=2, answer=0.4, silence=0.2, tries=3, first_tries=2, longest_pause=60, progress=1 << 18)
NOW = 1_700_000_000.0
LARGE = random.Random(5).randbytes(2_500_000)  # noise: a layer that is as large as what it holds


class Sink:
    """Keeps the lengths of contents by their digest."""

    def __init__(self) -> None:
        self.contents: dict[ObjectId, int] = {}

    def add(self, size, chunks):
        found, length = hashlib.sha256(), 0
        for chunk in chunks:
            found.update(chunk)
            length += len(chunk)
        assert length == size
        name = ObjectId(found.hexdigest())
        self.contents[name] = length
        return name


@dataclass
class Reader:
    """Reads images with the settings below `root`; `slept` are the pauses that nobody waited for."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    patience: Patience = PATIENCE
    throttle: Throttle | None = None
    slept: list[float] = field(default_factory=list)
    made: list[Registries] = field(default_factory=list)

    def registries(self) -> Registries:
        environment = {"HOME": str(self.root / "home"), **self.environment}
        places = Places.usual(environment, uid=1000, root=self.root)
        clock = Clock(now=lambda: NOW, sleep=self.slept.append, chance=lambda: 0.0)
        self.made.append(Registries(places, patience=self.patience, clock=clock, throttle=self.throttle))
        return self.made[-1]

    def read(self, name: str, *, architecture: str | None = "amd64", jobs: int = 2) -> set[ObjectId]:
        """The digests of all larger files of the image, every layer read to its end."""
        sink = Sink()
        with self.registries().open(Reference.parse(f"docker://{name}"), architecture=architecture) as image:
            read_tree(image, sink, jobs=jobs)
        return set(sink.contents)

    def write(self, path: str, text: str) -> Path:
        """A file of settings, below `root`."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path / "system")
    yield reader
    for registries in reader.made:
        registries.close()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of two layers, the second one of which has 2.5 MB."""
    layout = tmp_path_factory.mktemp("image") / "layout"
    write_layout(layout, {"etc": None, "etc/os-release": b"ID=debian\n" * 30}, {"large": LARGE})
    return layout


EXPECTED = {ObjectId(hashlib.sha256(data).hexdigest()) for data in (b"ID=debian\n" * 30, LARGE)}


@pytest.fixture
def expected() -> set[ObjectId]:
    """What reading the image has to come to."""
    return EXPECTED


@pytest.fixture
def serve() -> Iterator[Callable[..., Registry]]:
    """Start registries; they end with the test."""
    with ExitStack() as stack:
        yield lambda registry, context=None: stack.enter_context(serving(registry, context))


@pytest.fixture
def registry(serve: Callable[..., Registry], image: Path) -> Registry:
    """A registry on plain loopback that has the image as `os/web:1`."""
    started = serve(Registry())
    started.add(image, "1", "latest")
    return started


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return Authority(tmp_path_factory.mktemp("authority"))
