"""Pulls from and pushes to a registry on this machine, beside skopeo and podman."""

import json
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import images
from images import Layout
from report import Figure, Goal, Table
from sampling import Command, Contender, Sample, in_turns, installed, ratio

_FETCH = "keelboot pull, to a layout"
_SEND, _STORED, _AGAIN = "keelboot push, a layout", "keelboot push, podman's store", "keelboot push, nothing is new"
_PEERS = {
    "skopeo copy, to a layout": "skopeo",
    "podman pull": "podman",
    "skopeo copy, a layout": "skopeo",
    "podman push": "podman",
}
_GOALS = {
    "skopeo copy, to a layout": 1.1,
    "podman pull": None,
    "skopeo copy, a layout": 1.1,
    "podman push": 1.0,
}


@contextmanager
def registry(directory: Path) -> Iterator[str]:
    """An empty registry with its files below DIRECTORY; its address."""
    directory.mkdir()
    config = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "images")}},
        "http": {"addr": "127.0.0.1:0"},
    }
    (directory / "config.yml").write_text(json.dumps(config), encoding="utf-8")
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(["docker-registry", "serve", directory / "config.yml"], stderr=output)
    try:
        while not (found := re.search(r"listening on ([0-9.]+:[0-9]+)", log.read_text(encoding="utf-8"))):
            if process.poll() is not None:
                raise RuntimeError(log.read_text(encoding="utf-8"))
            time.sleep(0.02)
        yield found[1]
    finally:
        process.terminate()
        process.wait()


def fetch(layout: Layout, *, keelboot: str, rounds: int, scratch: Path, patience: float) -> Table:
    """Pulls of the image from one registry."""
    there, notes = installed({name: _PEERS[name] for name in ("skopeo copy, to a layout", "podman pull")})
    with registry(scratch / "registry") as address:
        name = f"{address}/bench/web:1"
        subprocess.run([keelboot, "push", "-q", str(layout), name], check=True, stdout=subprocess.DEVNULL)

        def skopeo(place: Path) -> list[Command]:
            source, target = f"docker://{name}", f"oci:{place}:1"
            return [["skopeo", "copy", "--quiet", "--src-tls-verify=false", source, target]]

        contenders = [
            Contender(_FETCH, lambda place: [[keelboot, "pull", "-q", name, f"oci:{place}:1"]]),
            Contender("skopeo copy, to a layout", skopeo),
            _in_store("podman pull", lambda options: ["podman", *options, "pull", "-q", "--tls-verify=false", name]),
        ]
        taken = in_turns(
            [one for one in contenders if one.name in there or one.name == _FETCH], rounds, scratch, patience=patience
        )
    size = sum(size for _, size in layout.blobs)
    return _table("fetch", f"Pull from a registry on this machine ({size / 1e6:.0f} MB)", taken, _FETCH, notes)


def send(layout: Layout, image: str, *, keelboot: str, rounds: int, scratch: Path, patience: float) -> Table:
    """Pushes of the image, each to a registry of its own that has nothing."""
    there, notes = installed({name: _PEERS[name] for name in ("skopeo copy, a layout", "podman push")})
    running = ExitStack()

    def pushing(name: str, words: list[str], *, twice: bool = False) -> Contender:
        """WORDS with ADDRESS in them; keelboot's cache is empty at first."""

        def commands(place: Path) -> Iterator[Command]:
            place.mkdir()
            address = running.enter_context(registry(place / "registry"))
            own = ["env", f"XDG_CACHE_HOME={place}/cache"]
            command = [*own, *(word.replace("ADDRESS", address) for word in words)]
            if twice:
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            yield command

        def after(_: Path) -> None:
            running.close()

        return Contender(name, commands, after)

    target = "docker://ADDRESS/bench/web:1"
    skopeo = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", str(layout), target]
    stored = [keelboot, "push", "-q", f"containers-storage:{image}", target]
    contenders = [
        pushing(_SEND, [keelboot, "push", "-q", str(layout), target]),
        pushing(_STORED, stored),
        pushing(_AGAIN, stored, twice=True),
        pushing("skopeo copy, a layout", skopeo),
        pushing("podman push", ["podman", "push", "-q", "--tls-verify=false", image, target]),
    ]
    images.warm(layout)
    own = (_SEND, _STORED, _AGAIN)
    taken = in_turns(
        [one for one in contenders if one.name in there or one.name in own], rounds, scratch, patience=patience
    )
    size = sum(size for _, size in layout.blobs)
    title = f"Push to an empty registry on this machine ({size / 1e6:.0f} MB packed)"
    return _table("send", title, taken, _SEND, notes, other={"podman push": _STORED})


def _table(
    key: str,
    title: str,
    taken: dict[str, list[Sample]],
    ours: str,
    notes: list[str],
    *,
    other: dict[str, str] | None = None,
) -> Table:
    figures = []
    for name, samples in taken.items():
        to_it = ratio(taken[(other or {}).get(name, ours)], samples) if name in _GOALS else None
        figures.append(Figure(name, samples, to_it, Goal.of(to_it, _GOALS.get(name))))
    return Table(key, title, "ours / it", figures, notes)


def _in_store(name: str, words: Callable[[list[str]], list[str]]) -> Contender:
    """podman with a store of its own, which wants a short --runroot."""
    made: list[Path] = []

    def commands(place: Path) -> list[Command]:
        short = Path(tempfile.gettempdir(), f"keelboot-{secrets.token_hex(6)}")
        short.mkdir(mode=0o700)
        made.append(short)
        place.mkdir()
        return [words(["--root", f"{place}/root", "--runroot", f"{short}/run"])]

    def after(place: Path) -> None:
        # It mounts its storage on itself, where it may.
        subprocess.run(["umount", "-q", place / "root" / "overlay"], check=False, stderr=subprocess.DEVNULL)
        while made:
            shutil.rmtree(made.pop(), ignore_errors=True)

    return Contender(name, commands, after)
