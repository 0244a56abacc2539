"""The simulated engine in place of podman."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SIMULATED = Path(__file__).resolve().parents[2] / "simulated"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory for programs, with the simulated engine first in the path; its store starts empty."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{SIMULATED}:/usr/bin:/bin")
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "CONTAINERS_STORAGE_CONF", "STORAGE_DRIVER"):
        monkeypatch.delenv(name, raising=False)
    (home / ".local/share/containers/storage").mkdir(parents=True)
    return home


@pytest.fixture
def containerfile(tmp_path: Path) -> Callable[..., Path]:
    """Make a build context whose Containerfile has the given lines, and return it."""

    def make(*lines: str) -> Path:
        context = tmp_path / "context"
        context.mkdir(exist_ok=True)
        (context / "Containerfile").write_text("\n".join(lines) + "\n")
        return context

    return make


@pytest.fixture
def overlay_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty store of podman's own, with its usual driver; the directory can be removed afterwards."""
    monkeypatch.undo()
    store = tmp_path / "store"
    settings = tmp_path / "storage.conf"
    settings.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{store}"\nrunroot = "{tmp_path}/run"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(settings))
    yield store
    # podman mounts the directory of its layers on itself, and leaves it so.
    if (store / "overlay").is_mount():
        subprocess.run(["umount", "--lazy", store / "overlay"], check=True)
