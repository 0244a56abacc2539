"""What only a filesystem of its own can show: no room left at any size, too few files, blocks that two stores share."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keelboot.failure import OutOfSpace
from keelboot.store.check import Report, check
from keelboot.store.garbage import clean
from keelboot.store.pull import pull
from keelboot.store.repair import repair
from keelboot.store.repository import Lock, opened
from small_images import BASE, CHANGE, snapshot, write_layout

pytestmark = [pytest.mark.machine, pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")]


@contextmanager
def mounted(place: Path, *words: str | Path) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", *words, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def report(store: Path) -> Report:
    with opened(store, Lock.SHARED) as repository:
        return check(repository, jobs=1)


def options(limit: str, share: int) -> str:
    """A tmpfs that has SHARE percent of what two versions of the image need."""
    need = {"size": 3 << 20, "nr_inodes": 70}[limit]
    return f"{limit}={max(1, need * share // 100)}"


@pytest.mark.parametrize("limit", ["size", "nr_inodes"])
def test_no_room_at_any_size(limit: str, tmp_path: Path) -> None:
    """A clear failure and the old image, or the new one; with more room the same command ends as everywhere."""
    place, source = tmp_path / "small", write_layout(tmp_path / "image", BASE, CHANGE)
    pull(tmp_path / "fresh", source)
    refused = 0
    for share in range(2, 104, 2):
        write_layout(tmp_path / "image", BASE)
        with mounted(place, "-t", "tmpfs", "-o", options(limit, share), "none"):
            store = place / "store"
            for layers in ((BASE,), (BASE, CHANGE)):
                write_layout(tmp_path / "image", *layers)
                try:
                    pull(store, source, jobs=1)
                except OutOfSpace:
                    refused += 1
                    if (store / "meta.json").exists():
                        assert report(store).findings == ()
                        clean(store)
                        assert report(store).findings == ()
            subprocess.run(["mount", "-o", f"remount,{options(limit, 1000)}", place], check=True)
            pull(store, source)
            assert report(store).findings == ()
            clean(store)
            assert snapshot(store) == snapshot(tmp_path / "fresh")
    assert 10 < refused < 100


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_blocks_are_shared_between_stores(kind: str, tmp_path: Path) -> None:
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run([f"mkfs.{kind}", "-q", disk], check=True, capture_output=True)
    place = tmp_path / "mounted"
    source = write_layout(tmp_path / "image", BASE, CHANGE)
    with mounted(place, "-o", "loop", disk):
        pull(place / "one", source)
        pull(place / "two", source)
        whole = snapshot(place / "two")
        files = [path for path in (place / "two/objects").rglob("*") if path.is_file()]
        for file in files:
            file.unlink()
        repaired = repair(place / "two", place / "one")
        assert repaired.cloned == len(files)
        assert snapshot(place / "two") == whole
    pull(tmp_path / "elsewhere", source)
    with mounted(place, "-o", "loop", disk):
        for file in files:
            file.unlink()
        assert repair(place / "two", tmp_path / "elsewhere").cloned == 0
        assert snapshot(place / "two") == whole
