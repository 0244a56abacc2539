"""Images in the calling user's own podman store, root's or not: the transport `containers-storage:`.

podman itself reads its store, whatever the driver: it saves the image, uncompressed, as an OCI layout into a temporary
directory, and that is opened like any other layout. The directory is gone when the image is closed.
"""

import difflib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from keelboot import command
from keelboot.failure import CommandFailed, ImageNotFound, InvalidImage, NotWritable, OutOfSpace
from keelboot.image.documents import OCI_LAYER
from keelboot.image.opened import Image, Layer
from keelboot.image.reference import Reference, Transport
from keelboot.image.transports import folder
from keelboot.image.transports.layout import Layout

_PURPOSE = "read podman's image store"
_UNKNOWN_IMAGE = 125  # podman's status for errors of its own


def exists(reference: Reference) -> bool:
    """Whether the store has the image. Raises MissingTool, CommandFailed."""
    argv = ["podman", "image", "exists", reference.name]
    return command.run(argv, purpose=_PURPOSE, accept=(0, 1)).returncode == 0


def image_id(reference: Reference) -> str:
    """The image's id: the digest of its config, in hex. Raises ImageNotFound, MissingTool, CommandFailed."""
    argv = ["podman", "image", "inspect", "--format", "{{.Id}}", reference.name]
    done = command.run(argv, purpose=_PURPOSE, accept=(0, _UNKNOWN_IMAGE))
    if done.returncode:
        if exists(reference):
            raise command.failed(argv, done.returncode, done.stderr, purpose=_PURPOSE)
        raise _not_found(reference)
    return done.stdout.decode().strip().removeprefix("sha256:")


@contextmanager
def open_saved(reference: Reference, *, architecture: str | None, scratch: Path | None) -> Iterator[Image]:
    """The image, from a copy below SCRATCH that needs as much room as the image is large.

    Raises ImageNotFound, InvalidImage, MissingTool, OutOfSpace, NotWritable, CommandFailed, Refused.
    """
    found = image_id(reference)  # from here on the image is what it was called then, whatever becomes of the name
    with _draft(reference, scratch or Path(_large_scratch())) as draft:
        layout = Path(draft) / "image"
        _save(reference, found, layout)
        with folder.directory(layout, shown=reference) as files:
            # What was saved carries no name.
            unnamed = Layout(files).open(Reference(Transport.OCI, str(layout)), architecture)
            yield replace(unnamed, reference=reference, layers=tuple(map(_as_saved, unnamed.layers)))


def _as_saved(layer: Layer) -> Layer:
    """LAYER as it lies there: podman 4.3 saves uncompressed, and goes on to call it what the registry called it."""
    if layer.descriptor.digest != layer.diff_id:
        return layer
    return replace(layer, descriptor=replace(layer.descriptor, media_type=OCI_LAYER))


def _draft(reference: Reference, scratch: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="keelboot-", dir=scratch)
    except OSError as error:
        kind = OutOfSpace if error.errno == errno.ENOSPC else NotWritable
        raise kind(
            f"cannot read {reference} from podman's store",
            why=f"no directory can be made in {scratch}, where it is copied for reading ({error.strerror})",
            fix="Free some space there, or set TMPDIR to a directory of yours with room for the image.",
        ) from error


def _save(reference: Reference, found: str, layout: Path) -> None:
    # Uncompressed: compressing what is read back at once took five times as long as all the rest.
    argv = ["podman", "save", "--quiet", "--format", "oci-dir", "--uncompressed", "--output", str(layout), found]
    try:
        command.run(argv, purpose=f"read {reference} from podman's store")
    except CommandFailed as error:
        if "no space left on device" in error.why.lower():
            free = shutil.disk_usage(layout.parent).free
            raise OutOfSpace(
                f"cannot read {reference} from podman's store",
                why=f"{layout.parent.parent}, where it is copied for reading, is full ({free >> 20} MiB free)",
                fix="Free some space there, or set TMPDIR to a directory with more.",
            ) from error
        raise
    if not layout.is_dir():
        raise InvalidImage(f"cannot use {reference}", why="podman saved nothing", fix="Try `podman save` by hand.")


def _large_scratch() -> str:
    """Where temporary files of the size of an image belong: TMPDIR if set, else /var/tmp, as /tmp is often memory."""
    usual = tempfile.gettempdir()
    return "/var/tmp" if usual == "/tmp" and os.access("/var/tmp", os.W_OK) else usual  # noqa: S108 - mkdtemp follows


def _not_found(reference: Reference) -> ImageNotFound:
    known = _names()
    near = difflib.get_close_matches(reference.name, known, n=3, cutoff=0.4)
    same = [name for name in known if name.rpartition("/")[2].partition(":")[0] == _last(reference.location)]
    offered = list(dict.fromkeys([*same, *near]))[:5]
    if Path(reference.name).exists():
        fix = f"There is a file of this name: write oci:{reference.name} or oci-archive:{reference.name} to use it."
    elif offered:
        fix = f"Did you mean {' or '.join(offered)}? `podman images` lists all."
    else:
        fix = f"Build or pull it first (`podman pull {reference.name}`); `podman images` lists what there is."
    return ImageNotFound(f"cannot open {reference}", why="your podman store has no image of this name", fix=fix)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _names() -> list[str]:
    done = command.run(["podman", "images", "--format", "json"], purpose=_PURPOSE)
    images = json.loads(done.stdout or b"null") or []
    return sorted({name for image in images for name in image.get("Names") or []})
