"""Images made elsewhere, and images that cannot become a machine."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from boot.conftest import EXAMPLE, PLAIN, Built, succeeded
from boot.derived import derive
from boot.guest import Guest
from keelboot.build import engine
from keelboot.image import layers, needs
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image

pytestmark = pytest.mark.machine

Keelboot = Callable[..., subprocess.CompletedProcess[str]]


def test_conventions_of_bootc(built: Built) -> None:
    assert built.facts["bootable"] is True
    assert built.facts["labels"]["containers.bootc"] == "1"  # type: ignore[index]
    assert len(built.facts["kernels"]) == 1  # type: ignore[arg-type]


def test_a_label_tells_what_a_machine_will_need(built: Built) -> None:
    """Without another layer, and as all layers together say it."""
    with open_image(Reference.parse(f"containers-storage:{built.name}")) as image:
        needed, diff_ids = needs.stated(image.config), image.config.diff_ids
        contents = needs.Contents()
        assert needed == needs.measure(layers.read_tree(image, contents), diff_ids, contents.sha256)
    assert needed
    assert needed.var[b"www/html"] >= (EXAMPLE / "index.html").stat().st_size
    history = engine.find().history(built.name)
    assert (history[-1].get("empty_layer"), needs.LABEL in str(history[-1]["created_by"])) == (True, True)


def test_building_again_changes_nothing(keelboot: Keelboot, built: Built) -> None:
    succeeded(keelboot("build", "-t", built.name, EXAMPLE))
    assert json.loads(succeeded(keelboot("inspect", "--json", built.name))) == built.facts


def test_a_finished_image_is_taken_as_it_is(keelboot: Keelboot, built: Built) -> None:
    told = json.loads(succeeded(keelboot("build", "--json", "--from", built.name, "-t", f"{built.name}-again")))
    assert told["finished"] is False
    assert told["image"] == told["built"]


def test_an_image_built_on_a_finished_one_says_its_own_needs(keelboot: Keelboot, built: Built) -> None:
    name = derive(f"{PLAIN}-on-it", built.name, {"usr/share/more": b"more"})
    build = ("build", "--json", "--from", name, "-t", name)
    told = json.loads(succeeded(keelboot(*build)))
    assert (told["finished"], told["image"] == told["built"]) == (False, False)
    with open_image(Reference.parse(f"containers-storage:{name}")) as image:
        assert needs.stated(image.config)
    assert json.loads(succeeded(keelboot(*build)))["image"] == told["image"]


@pytest.mark.usefixtures("base")
def test_an_image_built_by_podman_alone_boots_once_finished(keelboot: Keelboot, workspace: Path) -> None:
    build = ["podman", "build", "--isolation=chroot", "--network=host", "-t", PLAIN]
    subprocess.run([*build, EXAMPLE], check=True, capture_output=True)
    refused = keelboot("run", PLAIN)
    assert refused.returncode == 6, refused.stderr
    assert "keelboot build --from" in refused.stderr
    name = f"{PLAIN}-finished"
    succeeded(keelboot("build", "--from", PLAIN, "-t", name, timeout=1200))
    with Guest(name, log=workspace / "plain.log") as guest:
        assert guest.told("systemctl is-system-running") == "running"
        assert guest.page() == (EXAMPLE / "index.html").read_text()


@pytest.mark.parametrize(
    ("files", "code", "said"),
    [
        ({"etc/os-release": "ID=plan9\nPRETTY_NAME=Plan9\n"}, 7, "Plan9"),
        ({"readme": "no system at all"}, 7, "unknown"),
    ],
)
def test_what_cannot_be_finished_is_told(
    keelboot: Keelboot, tmp_path: Path, files: dict[str, str], code: int, said: str
) -> None:
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    (tmp_path / "Containerfile").write_text("FROM scratch\nCOPY root/ /\n")
    done = keelboot("build", "-t", "localhost/keelboot-test/none:1", tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert subprocess.run(["podman", "image", "exists", "localhost/keelboot-test/none:1"], check=False).returncode == 1


def test_a_failing_containerfile_is_told(keelboot: Keelboot, base: str, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text(f"FROM {base}\nRUN exit 3\n")
    done = keelboot("build", "-t", "localhost/keelboot-test/none:1", tmp_path)
    assert done.returncode == 11, done.stderr
    assert "Traceback" not in done.stderr


def test_an_image_that_is_nowhere(keelboot: Keelboot) -> None:
    done = keelboot("inspect", "localhost/keelboot-test/nowhere:1")
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
