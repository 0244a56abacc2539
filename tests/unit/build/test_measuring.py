"""The finished image is measured, and says in a label what was found: with the simulated engine, and with real ones."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import BOOTABLE
from keelboot.build import engine
from keelboot.build.finish import finishing, measuring
from keelboot.failure import CommandFailed, ImageNotFound
from keelboot.image import needs
from keelboot.image.digest import Digest
from keelboot.image.needs import Needs
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.image.tree import Directory, resolve, walk

LAYERS = [Digest.of(b"one"), Digest.of(b"two")]
SEEDS = {"usr/share/factory/var/lib/a b/file": b"f" * 5000, "usr/share/factory/var/lib/a b/more": b"m" * 70}
MODULES = "usr/lib/modules"
Change = Callable[[Path], object]


def write(root: Path) -> Path:
    """An image's files below ROOT, with some for /var."""
    for name, content in (BOOTABLE | SEEDS).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if content is None else path.write_bytes(content)
    return root


def is_right(needed: Needs | None, diff_ids: list[Digest]) -> None:
    assert needed
    assert needed.layers == needs.chain_id(diff_ids)
    assert needed.kernel.digest.hex == hashlib.sha256(b"kernel" * 9000).hexdigest()
    assert needed.initramfs.size == len(b"initramfs" * 5000)
    assert needed.var == {b"lib/a b": 5070}


@pytest.fixture
def mounted(home: Path) -> Path:
    """What the simulated engine mounts, whatever image is named; `localhost/x:1` is there."""
    (home / "layers.json").write_text(json.dumps([str(one) for one in LAYERS]))
    (home / "context").mkdir()
    (home / "context/Containerfile").write_text("FROM scratch\n")
    engine.find().build([str(home / "context")], tags=["localhost/x:1"])
    return write(home / "mounted")


def test_only_the_files_that_matter_are_read(mounted: Path) -> None:
    (mounted / MODULES / "6.12.1/kernel").mkdir()
    podman = engine.find()
    is_right(measuring.measure(podman, "localhost/x:1"), LAYERS)
    tree, _ = measuring.mounted(podman, "localhost/x:1")
    assert {path.decode() for path, node in walk(tree) if not isinstance(node, Directory)} == {
        "/usr/lib/modules/6.12.1/initramfs.img",
        "/usr/lib/modules/6.12.1/vmlinuz",
        *(f"/{name}" for name in SEEDS),
    }
    calls = [json.loads(line) for line in (mounted.parent / "calls").read_text().splitlines()]
    assert [call[1] for call in calls if call[0] == "image" and call[1] != "inspect"] == ["mount", "unmount"] * 2


def test_an_image_without_anything_for_var(mounted: Path) -> None:
    shutil.rmtree(mounted / "usr/share")
    needed = measuring.measure(engine.find(), "localhost/x:1")
    assert needed
    assert needed.var == {}


def elsewhere(name: str) -> Change:
    """Have the directory NAME be a link to what is outside of the image."""

    def change(root: Path) -> None:
        place = root.parent / "outside"
        (root / name).rename(place)
        (root / name).symlink_to(place)

    return change


@pytest.mark.parametrize(
    "change",
    [
        *map(elsewhere, ["usr", "usr/lib", MODULES, f"{MODULES}/6.12.1", "usr/share", "usr/share/factory/var"]),
        lambda root: shutil.rmtree(root / MODULES / "6.12.1"),
        shutil.rmtree,
    ],
)
def test_what_is_no_plain_directory_is_not_followed(change: Change, mounted: Path) -> None:
    podman = engine.find()
    change(mounted)
    try:
        tree, contents = measuring.mounted(podman, "localhost/x:1")
    except CommandFailed:
        return
    assert needs.measure(tree, LAYERS, contents.sha256) is None


def test_a_link_in_the_place_of_a_kernel_stays_one(mounted: Path) -> None:
    kernel = mounted / MODULES / "6.12.1/vmlinuz"
    kernel.rename(mounted.parent / "outside")
    kernel.symlink_to(mounted.parent / "outside")
    assert measuring.measure(engine.find(), "localhost/x:1") is None


def test_the_label_is_one_step_on_what_was_finished(mounted: Path) -> None:
    podman = engine.find()
    image = podman.image_id("localhost/x:1")
    assert image
    named = finishing.label(podman, image, ["localhost/y:1"], timestamp=7)
    assert podman.image_id("localhost/y:1") == named != image
    calls = [json.loads(line) for line in (mounted.parent / "calls").read_text().splitlines()]
    [words] = [call for call in calls if call[0] == "build"][1:]
    assert {"--timestamp=7", "--layers", "--tag=localhost/y:1"} <= set(words)


def test_what_cannot_be_measured_is_named_as_it_is(mounted: Path) -> None:
    shutil.rmtree(mounted / MODULES / "6.12.1")
    podman = engine.find()
    image = podman.image_id("localhost/x:1")
    assert image
    assert finishing.label(podman, image, ["localhost/y:1"], timestamp=7) == image
    assert podman.image_id("localhost/y:1") == image


def test_layers_of_what_is_not_there(home: Path) -> None:  # noqa: ARG001 - it sets the path
    with pytest.raises(ImageNotFound):
        engine.find().layers("nosuch")


@pytest.fixture(params=engine.PROGRAMS)
def real(request: pytest.FixtureRequest, overlay_store: Path) -> engine.Engine:  # noqa: ARG001 - it is set
    return engine.find(request.param)


def stated(image: str) -> tuple[str, Needs | None, list[Digest]]:
    with open_image(Reference.parse(f"containers-storage:{image}")) as opened:
        return opened.config.labels.get(needs.LABEL, ""), needs.stated(opened.config), [*opened.config.diff_ids]


@pytest.mark.machine
def test_the_real_engines(real: engine.Engine, tmp_path: Path) -> None:
    """The label adds no layer, is the same each time, and is made anew for an image that inherited one."""
    context = tmp_path / "context"
    write(context / "root")
    (context / "Containerfile").write_text('FROM scratch\nCOPY root/ /\nLABEL a="b"\nCMD ["/sbin/init"]\n')
    built = real.build_stage(context / "Containerfile", context, timestamp=7)
    image = finishing.label(real, built, ["localhost/y:1"], timestamp=7)
    text, needed, diff_ids = stated("localhost/y:1")
    is_right(needed, diff_ids)
    assert diff_ids == real.layers(built) == real.layers(image)
    assert finishing.label(real, built, ["localhost/z:1"], timestamp=7) == image == real.image_id("localhost/z:1")
    shown = subprocess.run(["podman", "images", "-q", "--no-trunc"], check=True, capture_output=True, text=True)
    assert set(shown.stdout.split()) == {f"sha256:{image}"}, "what was labelled is no image of its own to a user"
    tree, contents = measuring.saved(image)
    assert needs.measure(tree, diff_ids, contents.sha256) == needed, "all layers say the same"
    assert resolve(tree, "/sbin/init")

    (context / "vmlinuz").write_bytes(b"other" * 999)
    (context / "Containerfile").write_text(f"FROM {image}\nCOPY vmlinuz /{MODULES}/6.12.1/vmlinuz\n")
    derived = real.build_stage(context / "Containerfile", context, timestamp=7)
    assert stated(derived)[:2] == (text, None)
    again = stated(finishing.label(real, derived, (), timestamp=7))[1]
    assert again
    assert again.kernel.size == 4995
