"""What a finished image needs outside of the store, measured in the container store, as its label will say it.

podman mounts the image, tar packs the few files that matter, and what it packs is read as strictly as a layer. Of an
image of 523 MB that took 0.2 seconds, and reading all its layers 5.8. Where that does not work (no GNU tar, no
mounts, a directory that is a link), all layers are read, with the same result.
"""

import os
from importlib import resources

from keelboot import command
from keelboot.build.engine import Engine
from keelboot.failure import CommandFailed, MissingTool
from keelboot.image import layers, needs
from keelboot.image.archive import Archive
from keelboot.image.needs import Contents, Needs
from keelboot.image.reference import Reference
from keelboot.image.refusal import Refused
from keelboot.image.transports import open_image
from keelboot.image.tree import Directory

_PURPOSE = "look into the finished image"
_BLOCK = 1 << 18  # bytes


def measure(engine: Engine, image: str) -> Needs | None:
    """What the image with the id IMAGE needs; None for one that does not boot. Raises Failure."""
    diff_ids = engine.layers(image)
    try:
        tree, contents = mounted(engine, image)
    except (CommandFailed, MissingTool, Refused):
        tree, contents = saved(image)
    return needs.measure(tree, diff_ids, contents.sha256)


def mounted(engine: Engine, image: str) -> tuple[Directory, Contents]:
    """Of the tree of IMAGE, what `needs.measure` looks at. Raises Refused, CommandFailed, MissingTool."""
    script = resources.files("keelboot.build.finish").joinpath("scripts/measured.sh").read_text(encoding="utf-8")
    # podman whatever builds, as for every image that is read from the store.
    argv = engine.in_store(["sh", "-c", script, "sh", image, "podman", *engine.flags])
    root, contents = layers.empty_root(), Contents()
    with (
        open(os.devnull, "wb") as unheard,  # where this fails, another way is gone
        command.start(argv, purpose=_PURPOSE, stderr=unheard) as process,
    ):
        stream = process.stdout
        assert stream
        try:
            blocks = iter(lambda: stream.read(_BLOCK), b"")
            layers.collect(Archive(blocks), contents).apply(root)
        finally:
            stream.close()  # then tar ends, whatever it still had to say
    if process.returncode:
        raise command.failed(argv, process.returncode, b"", purpose=_PURPOSE)
    return root, contents


def saved(image: str) -> tuple[Directory, Contents]:
    """The tree of IMAGE. Raises Failure."""
    contents = Contents()
    with open_image(Reference.parse(f"containers-storage:{image}")) as opened:
        return layers.read_tree(opened, contents), contents
