"""A pull of the reference image, beside what others need to take the same layers in, and beside the floor."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import images
from images import Layout
from report import Figure, Goal, Table, seconds
from sampling import Command, Contender, Sample, apart, hollow, in_turns, installed, measure, ratio, told

_FLOOR = Path(__file__).with_name("floor.py")
_OURS, _ONE = "keelboot store pull", "keelboot store pull --jobs 1"
_PEERS = {"umoci unpack": "umoci", "podman pull": "podman", "tar -xzf": "tar"}
_STREAM, _OBJECTS = "floor: one file a layer", "floor: one file a content"
_GOALS = {"umoci unpack": 0.35, "podman pull": 0.45, "tar -xzf": 0.75, _STREAM: 1.4, _OBJECTS: None}


def first_pull(layout: Layout, *, keelboot: str, rounds: int, scratch: Path, patience: float) -> Table:
    """A pull into an empty store, and everything it is compared with."""
    there, notes = installed(_PEERS)
    plan = apart(images.plan, layout)
    contenders = [
        Contender(_OURS, lambda place: [_pull(keelboot, layout, place)]),
        Contender(_ONE, lambda place: [[*_pull(keelboot, layout, place), "--jobs", "1"]]),
        Contender(_STREAM, lambda place: [[sys.executable, str(_FLOOR), "stream", str(place), str(plan)]]),
        Contender(_OBJECTS, lambda place: [[sys.executable, str(_FLOOR), "objects", str(place), str(plan)]]),
        *(peer for peer in _peers(layout) if peer.name in there),
    ]
    images.warm(layout)
    samples = in_turns(contenders, rounds, scratch, patience=patience)
    figures = []
    for name, taken in samples.items():
        ours_to_it = None if name == _OURS else ratio(samples[_OURS], taken)
        figures.append(Figure(name, taken, ours_to_it, Goal.of(ours_to_it, _GOALS.get(name))))
    expanded = sum(size for _, size in layout.blobs)
    title = f"Pull into an empty store ({len(layout.blobs)} layers, {expanded / 1e6:.0f} MB packed)"
    return Table("pull", title, "ours / it", figures, notes)


def again(layout: Layout, *, keelboot: str, rounds: int, scratch: Path) -> Table:
    """Pulls into a store that has the image: of the same one, and of one in which one small layer is another."""
    changed = apart(images.changed, layout)
    images.warm(changed)
    errors = scratch / "errors"
    unchanged: list[Sample] = []
    other: list[Sample] = []
    for number in range(rounds):
        told(f"pulling again, {number + 1} of {rounds}")
        store = scratch / f"again-{number}"
        measure(_pull(keelboot, layout, store), errors=errors)
        os.sync()
        unchanged.append(measure(_pull(keelboot, layout, store), errors=errors))
        other.append(measure(_pull(keelboot, changed, store), errors=errors))
        hollow(store)
    told("")
    of_layers = sum(size for _, size in layout.blobs[:-1])
    largest = max(sample.read for sample in other)
    figures = [
        Figure("unchanged image", unchanged, None, Goal.of(seconds(unchanged), 0.5, "s")),
        Figure("one small layer changed", other, None, Goal.of(seconds(other), None)),
    ]
    note = (
        f"The pull of the changed image read at most {largest / 1e6:.1f} MB, its own modules and the records of layers "
        f"among them; the layers that did not change have {of_layers / 1e6:.1f} MB."
    )
    return Table("again", "Pull again", "", figures, [note])


def _pull(keelboot: str, layout: Layout, store: Path) -> Command:
    return [keelboot, "store", "pull", "--quiet", str(layout), "--store", str(store)]


def _peers(layout: Layout) -> Iterator[Contender]:
    rootless = os.geteuid() != 0

    def umoci(place: Path) -> list[Command]:
        flags = ["--rootless"] if rootless else []
        return [["umoci", "unpack", *flags, "--image", f"{layout.path}:{images.TAG}", str(place)]]

    def podman(place: Path) -> list[Command]:
        # It makes an image's name of the path, in which no part may start with a dot or have two underscores in a row,
        # and wants a short --runroot.
        short = Path(tempfile.gettempdir(), f"keelboot-{secrets.token_hex(6)}")
        short.mkdir(mode=0o700)
        place.mkdir()
        (place / "short").symlink_to(short)
        (short / "image").symlink_to(layout.path)
        own = ["--root", f"{place}/root", "--runroot", f"{short}/run"]
        return [["podman", *own, "pull", "--quiet", f"oci:{short}/image:{images.TAG}"]]

    def tar(place: Path) -> Iterator[Command]:
        # A directory for each: tar knows no whiteouts and stops at a file where a directory was.
        for number, (blob, _) in enumerate(layout.blobs):
            directory = place / str(number)
            directory.mkdir(parents=True)
            yield ["tar", "-xzf", str(blob), "-C", str(directory)]

    def after_podman(place: Path) -> None:
        shutil.rmtree((place / "short").readlink())
        # It mounts its storage on itself, where it may.
        subprocess.run(["umount", "-q", place / "root" / "overlay"], check=False, stderr=subprocess.DEVNULL)
        if rootless:  # files of users that only its namespace may touch
            subprocess.run(["podman", "unshare", "rm", "-rf", place], check=True)

    yield Contender("umoci unpack", umoci)
    yield Contender("podman pull", podman, after_podman)
    yield Contender("tar -xzf", tar)
