"""`keelboot store` as typed."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from small_images import BASE, CHANGE, write_layout

Keelboot = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def image(tmp_path: Path) -> str:
    return str(write_layout(tmp_path / "image", BASE, CHANGE))


def test_the_way_of_an_image(keelboot: Keelboot, image: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = keelboot("store", "pull", image, "--store", store)
    assert done.returncode == 0, done.stderr
    digest = done.stdout.splitlines()[0].removeprefix("composefs ")
    told = keelboot("inspect", image, "--composefs-digest")
    assert told.stdout.strip() == digest
    assert "0 of 2 layers were there" in done.stdout

    done = keelboot("store", "pull", image, "--store", store, "--json", "--jobs", "1")
    assert json.loads(done.stdout) | {"seconds": 0, "layers": [], "manifestDigest": ""} == {
        "reference": image,
        "manifestDigest": "",
        "composefs": digest,
        "unsealed": None,
        "unchanged": True,
        "layers": [],
        "objectsAdded": 0,
        "bytesAdded": 0,
        "objectsHealed": 0,
        "fsVerity": None,
        "seconds": 0,
    }

    done = keelboot("store", "ls", "--store", store)
    assert (image in done.stdout, digest[:16] in done.stdout) == (True, True)
    (row,) = json.loads(keelboot("store", "--json", "ls", "--store", store).stdout)
    assert (row["reference"], row["composefs"], row["layers"]) == (image, digest, 2)

    done = keelboot("store", "fsck", "--store", store)
    assert (done.returncode, "1 images: sound" in done.stdout) == (0, True)
    done = keelboot("store", "rm", image, "--store", store)
    assert done.returncode == 0
    done = keelboot("store", "gc", "--store", store, "--dry-run", "--json")
    assert json.loads(done.stdout)["images"] == [digest]
    done = keelboot("store", "gc", "--store", store)
    assert "1 images, 2 layers, 0 drafts" in done.stdout
    assert json.loads(keelboot("store", "ls", "--store", store, "--json").stdout) == []


def test_damage_is_told_and_mended(keelboot: Keelboot, image: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    keelboot("store", "pull", image, "--store", store)
    file = next(path for path in sorted((store / "objects").rglob("*")) if path.is_file())
    file.write_bytes(b"damage")
    done = keelboot("store", "fsck", "--store", store)
    assert done.returncode == 1
    assert f"{file.relative_to(store)}: it has 6 bytes of" in done.stdout
    assert f"needed by {image}" in done.stdout
    assert "--repair-from" in done.stderr
    done = keelboot("store", "fsck", "--store", store, "--repair-from", image)
    assert done.returncode == 0
    assert f"healed {file.relative_to(store)}" in done.stdout
    keelboot("store", "pull", image, "--store", tmp_path / "twin")
    file.unlink()
    done = keelboot("store", "fsck", "--store", store, "--repair-from", tmp_path / "twin", "--json")
    assert done.returncode == 0
    assert [one["path"] for one in json.loads(done.stdout)["healed"]] == [str(file.relative_to(store))]


def test_an_image_that_cannot_boot_is_kept(keelboot: Keelboot, tmp_path: Path) -> None:
    source = write_layout(tmp_path / "image", {"usr": None})
    done = keelboot("store", "pull", str(source), "--store", tmp_path / "store")
    assert done.returncode == 0
    assert "composefs none: /boot is missing" in done.stdout
    assert "keelboot build --from" in done.stderr
    assert "cannot be booted" in keelboot("store", "ls", "--store", tmp_path / "store").stdout


def test_names_do_not_depend_on_where_one_stands(keelboot: Keelboot, image: str, tmp_path: Path) -> None:
    done = keelboot("store", "pull", image.replace("/image", "/./x/../image"), "--store", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    assert image in keelboot("store", "ls", "--store", tmp_path / "store").stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["pull", "oci:/nowhere"], 4, "cannot open"),
        (["pull", "UPPER"], 1, "names no image"),
        (["ls"], 1, "as a store"),
        (["gc"], 1, "as a store"),
        (["fsck"], 1, "as a store"),
        (["rm", "web"], 1, "as a store"),
        (["fsck", "--repair-from", "oci:/nowhere"], 1, "as a store"),
        (["pull", "web", "--jobs", "0"], 2, "invalid"),
        ([], 2, "ACTION"),
    ],
    ids=["no image", "bad name", "ls", "gc", "fsck", "rm", "repair", "no jobs", "no action"],
)
def test_mistakes(words: list[str], code: int, told: str, keelboot: Keelboot, tmp_path: Path) -> None:
    store = ["--store", str(tmp_path / "store")] if words else []
    done = keelboot("store", *words, *store)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_in_what_is_none(keelboot: Keelboot, image: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis").touch()
    done = keelboot("store", "pull", image, "--store", tmp_path / "home")
    assert (done.returncode, "thesis" in done.stderr) == (9, True)
    done = keelboot("store", "pull", image, "--store", tmp_path / "home/thesis")
    assert done.returncode in (1, 9), done.stderr
    assert "Traceback" not in done.stderr
