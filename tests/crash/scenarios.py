"""What is done to a store while it is killed, refused or cut off from power, and who judges what is left.

    scenarios.py prepare DIR            images, stores to start from and stores to end in
    scenarios.py work NAME DIR STORE    the work that is interrupted
    scenarios.py judge NAME DIR STORE   exit 0 if STORE is old or new, sound, and doing the work again ends in the same

The judge is told by the tools beside this checkout what happened: KILLPOINT_* by `killpoints`, POWERCUT_* by
`powercut`.
"""

import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from keelboot.cli.main import main
from keelboot.image.reference import Reference
from keelboot.store.check import Report, check
from keelboot.store.garbage import clean
from keelboot.store.pull import pull
from keelboot.store.references import drop, listing
from keelboot.store.repository import Lock, opened
from simulated.registry import Registry, serving
from small_images import BASE, CHANGE, OTHER, snapshot, write_layout

MARK = "done"
REMOTE = "registry.example.org/os/web:1"
# What keelboot may end with when a system call fails once; 0 where it could do without.
_CODES = {"ENOSPC": (0, 8), "EDQUOT": (0, 8), "EIO": (0, 1), "EMFILE": (0, 1), "EROFS": (0, 9), "EACCES": (0, 9)}


def _words(directory: Path, *words: str) -> list[str]:
    return [word.replace("IMAGE", f"oci:{directory}/image") for word in words]


@dataclass(frozen=True)
class Scenario:
    """WORDS are what is typed after `keelboot store`, SEED puts what is there before into a directory."""

    words: tuple[str, ...]
    seed: Callable[[Path, Path], None]

    def run(self, directory: Path, store: Path) -> int:
        words = _words(directory, *self.words)
        jobs = ["--jobs", "1"] if words[0] in ("pull", "fsck") else []
        with _registry(directory) if f"docker://{REMOTE}" in words else nullcontext():
            return main(["store", *words, "--store", str(store), "--quiet", *jobs])


@contextmanager
def _registry(directory: Path) -> Iterator[None]:
    """One in this process, so that both end together, which has the image `large` under the name REMOTE."""
    where = directory / f"registries-{os.getpid()}.conf"
    with serving(Registry()) as registry:
        registry.add(directory / "large", "1")
        host = REMOTE.partition("/")[0]
        text = f'[[registry]]\nprefix = "{host}"\nlocation = "{registry.address}"\ninsecure = true\n'
        for _ in range(2):  # the call that is made to fail may be one of these, and only keelboot is judged
            with suppress(OSError):
                where.write_text(text)
        os.environ["CONTAINERS_REGISTRIES_CONF"] = str(where)
        yield
    with suppress(OSError):
        where.unlink()


def _nothing(directory: Path, store: Path) -> None:
    pass


def _large(directory: Path, store: Path) -> None:  # noqa: ARG001 - a seed's
    """Nothing but an image with a layer that is kept while it comes."""
    write_layout(directory / "large", BASE, {"noise": random.Random(1).randbytes(1_500_000)})


def _old(directory: Path, store: Path) -> None:
    """The image's older version, under the same name."""
    write_layout(directory / "image", BASE)
    pull(store, Reference.parse(f"oci:{directory}/image"))
    _new_image(directory)


def _new_image(directory: Path) -> None:
    write_layout(directory / "image", BASE, CHANGE)


def _garbage(directory: Path, store: Path) -> None:
    """The image, what another one left, and drafts."""
    pull(store, Reference.parse(f"oci:{directory}/image"))
    other = write_layout(directory / "other", BASE, OTHER)
    pull(store, other)
    drop(store, str(other))
    (store / "objects/.draft-0").touch()
    (store / "refs/.draft-1").symlink_to("../objects/00/0")


def _damaged(directory: Path, store: Path) -> None:
    """Every kind of damage; of the large objects one is whole, so that something is used again."""
    pull(store, Reference.parse(f"oci:{directory}/image"))
    files = sorted(path for path in (store / "objects").rglob("*") if path.is_file())
    for file in files[::3]:
        file.write_bytes(b"damage")
    files[1].unlink()
    files[2].chmod(0o600)
    for name in ("layers", "images", "refs"):
        link = next(iter(sorted((store / name).iterdir())))
        link.unlink()
        link.symlink_to("nowhere")
    (store / "objects/stray").touch()
    (store / "refs/.draft-1").symlink_to("../objects/00/0")


SCENARIOS = {
    "pull-first": Scenario(("pull", "IMAGE"), _nothing),
    "pull-new": Scenario(("pull", "IMAGE"), _old),
    "pull-remote": Scenario(("pull", f"docker://{REMOTE}"), _large),
    "gc": Scenario(("gc",), _garbage),
    "repair": Scenario(("fsck", "--repair-from", "IMAGE"), _damaged),
}


def prepare(directory: Path) -> None:
    """Make seed-NAME and end-NAME/store for every scenario."""
    for name, scenario in SCENARIOS.items():
        _new_image(directory)
        seed = directory / f"seed-{name}"
        seed.mkdir()
        scenario.seed(directory, seed / "store")
        end = directory / f"end-{name}/store"
        shutil.copytree(seed, end.parent, symlinks=True)
        assert scenario.run(directory, end) == 0
        clean(end)


def work(name: str, directory: Path, store: Path) -> int:
    code = SCENARIOS[name].run(directory, store)
    if code == 0 and "POWERCUT" in os.environ:
        os.spawnlp(os.P_WAIT, os.environ["POWERCUT"], os.environ["POWERCUT"], "mark", MARK)
    return code


def judge(name: str, directory: Path, store: Path) -> None:
    """Raises AssertionError."""
    seed, end = directory / f"seed-{name}/store", directory / f"end-{name}/store"
    code, fault = int(os.environ.get("KILLPOINT_EXIT", "-1")), os.environ.get("KILLPOINT_FAULT", "")
    done = code == 0 or MARK in os.environ.get("POWERCUT_MARKS", "").split(",")
    assert fault in ("", "none", "kill") or code in _CODES[fault], f"exit code {code} for {fault}"
    old, new = _names(seed), _names(end)
    found = _names(store)
    if name == "repair":
        old |= dict.fromkeys(new, "damaged")
    assert found in ([new] if done else [old, new]), f"it names {found}"
    if (store / "meta.json").exists():
        report = _report(store)
        needed = [finding for finding in report.findings if finding.references]
        if name != "repair" or done:
            assert needed == [], needed
        if fault and name != "repair":  # after a cut of the power, objects that nothing names may be damaged
            assert report.findings == (), report.findings
        if done and name == "gc":
            assert report.unneeded == report.drafts == 0
        if name == "repair":
            lost = (snapshot(seed).items() & snapshot(end).items()) - snapshot(store).items()
            assert not lost, lost
    assert SCENARIOS[name].run(directory, store) == 0
    clean(store)
    assert _report(store).findings == ()
    assert snapshot(store) == snapshot(end)


def _names(store: Path) -> dict[str, str]:
    if not (store / "meta.json").exists():
        return {}
    return {
        one.reference: one.record.composefs.object.hex if one.record and one.record.composefs else "damaged"
        for one in listing(store)
    }


def _report(store: Path) -> Report:
    with opened(store, Lock.SHARED) as repository:
        return check(repository, jobs=1)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["prepare", place]:
            prepare(Path(place))
        case ["work", chosen, place, target]:
            sys.exit(work(chosen, Path(place), Path(target)))
        case ["judge", chosen, place, target]:
            judge(chosen, Path(place), Path(target))
        case _:
            sys.exit(__doc__)
