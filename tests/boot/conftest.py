"""One image, built from the example as a user builds it, and what tests need to look at disks and machines."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

Keelboot = Callable[..., subprocess.CompletedProcess[str]]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/web"
NAME = "localhost/keelboot-test/web:1"
PLAIN = "localhost/keelboot-test/plain:1"


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    """What a command printed; a failure shows its own words."""
    assert done.returncode == 0, f"{done.args} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Built:
    """The example, built: its name in the store and what `inspect` says of it."""

    name: str
    facts: dict[str, object]

    @property
    def digest(self) -> str:
        return str(self.facts["composefs"])


@pytest.fixture(scope="session")
def base(keelboot: Keelboot) -> str:
    """The base image that the example starts from."""
    succeeded(keelboot("base", "debian:trixie"))
    return "debian:trixie"


@pytest.fixture(scope="session")
def built(keelboot: Keelboot, base: str) -> Built:  # noqa: ARG001 - it has to be there
    """The example, from its Containerfile with one command."""
    succeeded(keelboot("build", "-t", NAME, EXAMPLE, timeout=1200))
    return Built(NAME, json.loads(succeeded(keelboot("inspect", "--json", NAME))))


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for disks: they are large, so they go when the session ends."""
    directory = tmp_path_factory.mktemp("disks")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def archive(built: Built, workspace: Path) -> Path:
    """The image as a file that anybody may read."""
    file = workspace / "web.oci"
    subprocess.run(["podman", "save", "-q", "--format", "oci-archive", "-o", file, built.name], check=True)
    file.chmod(0o644)
    return file


@pytest.fixture(scope="session")
def disk(keelboot: Keelboot, built: Built, workspace: Path) -> Path:
    """A disk of the image, as written; tests that change one take a copy."""
    file = workspace / "web.img"
    told = json.loads(succeeded(keelboot("disk", "--json", built.name, "-o", file)))
    assert told["composefs"] == built.digest
    return file
