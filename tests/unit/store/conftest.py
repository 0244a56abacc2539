from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keelboot.image.reference import Reference
from keelboot.store.check import Report, check
from keelboot.store.pull import Pulled, pull
from keelboot.store.repository import Lock, Repository, opened
from small_images import BASE, CHANGE, write_layout


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where a store is to be; nothing is there yet."""
    return tmp_path / "store"


@pytest.fixture
def base(tmp_path: Path) -> Reference:
    """An image with one layer."""
    return write_layout(tmp_path / "base", BASE)


@pytest.fixture
def changed(tmp_path: Path) -> Reference:
    """The same image with a small layer on top."""
    return write_layout(tmp_path / "changed", BASE, CHANGE)


@pytest.fixture
def full(store: Path, changed: Reference) -> Pulled:
    """What came of pulling `changed` into the store."""
    return pull(store, changed)


@pytest.fixture
def checked(store: Path) -> Callable[[], Report]:
    """Check the store."""

    def act() -> Report:
        with opened(store, Lock.SHARED) as repository:
            return check(repository)

    return act


@pytest.fixture
def repository(store: Path) -> Iterator[Repository]:
    """An open store, which is empty unless another fixture filled it."""
    with opened(store, Lock.SHARED, create=True) as found:
        yield found
