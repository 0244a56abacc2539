"""Copies into the calling user's own podman store: podman itself loads them, whatever the store's driver is."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from keelboot import command
from keelboot.failure import Failure
from keelboot.image.documents import Descriptor
from keelboot.image.reference import Reference
from keelboot.registry.outcome import How
from keelboot.transfer.destination import Advance
from keelboot.transfer.parcel import Document
from keelboot.transfer.toarchive import ToArchive


class ToStorage:
    """The image REFERENCE in podman's store, by way of SCRATCH, which is empty. Raises MissingTool and Failure."""

    def __init__(self, reference: Reference, scratch: Path) -> None:
        self._reference = reference
        command.require("podman", purpose=f"put {reference} into podman's store")
        if reference.digest is not None:
            raise Failure(
                f"cannot put {reference} into podman's store",
                why="there it would need a name with a tag",
                fix=f"Name a tag: containers-storage:{reference.location}:TAG.",
            )
        layout = scratch / "layout"
        layout.mkdir()
        self._archive = scratch / "image.tar"
        self._inner = ToArchive(self._archive, podman_name(reference), layout)

    def has(self, blob: Descriptor) -> bool:
        return self._inner.has(blob)

    def mounts(self, blob: Descriptor) -> bool:
        return self._inner.mounts(blob)

    def put(self, blob: Descriptor, open_blob: Callable[[], BinaryIO], advance: Advance) -> How:
        return self._inner.put(blob, open_blob, advance)

    def commit(self, documents: Sequence[Document]) -> None:
        self._inner.commit(documents)
        argv = ["podman", "load", "--quiet", "--input", str(self._archive)]
        command.run(argv, purpose=f"put {self._reference} into podman's store")


def podman_name(reference: Reference) -> str:
    """The full name that podman's store has for REFERENCE: what was not pulled from anywhere is at localhost."""
    host, slash, _ = reference.location.partition("/")
    full = slash and ("." in host or ":" in host or host == "localhost")
    return f"{'' if full else 'localhost/'}{reference.location}:{reference.tag or 'latest'}"
