"""The door of this package: an image goes from one place to another.

the source's documents, read and checked      what is missing there: blobs, several at once, each one compared with
layers that are not packed yet, compressed    its digest before its last byte goes      the name, last
"""

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keelboot.failure import Failure
from keelboot.image.digest import Digest
from keelboot.image.documents import Descriptor, is_index
from keelboot.image.opened import Layer
from keelboot.image.reference import Reference, Transport
from keelboot.image.refusal import refusing
from keelboot.progress import SILENT, Progress, Step
from keelboot.registry.opening import Registries
from keelboot.registry.outcome import How
from keelboot.transfer import crew
from keelboot.transfer.attached import Attachments, refuse_ends
from keelboot.transfer.destination import Advance, Destination
from keelboot.transfer.known import Known
from keelboot.transfer.packing import PACKER, pack
from keelboot.transfer.parcel import Parcel, packed_manifest, packed_type
from keelboot.transfer.source import opened_parcel
from keelboot.transfer.toarchive import ToArchive
from keelboot.transfer.todockerarchive import ToDockerArchive
from keelboot.transfer.tolayout import ToLayout
from keelboot.transfer.toregistry import ToRegistry, mountable
from keelboot.transfer.tostorage import ToStorage

JOBS: Final = 4
_SINGLE: Final = (Transport.STORAGE, Transport.DOCKER_ARCHIVE)


@dataclass(frozen=True, slots=True)
class Moved:
    """One blob. Its digest and size are missing where it was only planned, and has to be compressed first."""

    kind: str  # config or layer
    how: How
    digest: Digest | None
    size: int | None
    content: Digest | None = None  # of a layer that was compressed: what it holds


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy came to, or would come to; `digest` is missing where it is not known without compressing."""

    digest: Digest | None
    media_type: str
    images: int
    blobs: tuple[Moved, ...]
    attached: int = 0  # documents that went along

    def bytes(self, how: How) -> int:
        """How many bytes went that way."""
        return sum(one.size or 0 for one in self.blobs if one.how is how)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How to copy."""

    architecture: str | None = None  # None: this machine's
    whole: bool = False  # an index with all it lists
    jobs: int = JOBS
    dry_run: bool = False
    replace: bool = False  # an archive that is there
    attached: bool = False  # what is attached to it goes along
    scratch: Path  # for large temporary files


def copy(
    source: Reference,
    destination: Reference,
    registries: Registries,
    wishes: Wishes,
    *,
    known: Known | None = None,
    progress: Progress = SILENT,
) -> Copied:
    """Have the image SOURCE at DESTINATION. Before the last step nobody sees anything of it there.

    Raises Failure: what opening the source, writing the destination and refusing what was read come to.
    """
    with ExitStack() as stack:
        known = known or Known()
        stack.callback(registries.close)
        if wishes.attached:
            refuse_ends(source, destination)
        purpose = f"Reading {source} from podman's store" if source.transport is Transport.STORAGE else ""
        with progress.step(purpose) if purpose else ExitStack():
            parcel = stack.enter_context(
                opened_parcel(
                    source,
                    registries,
                    architecture=wishes.architecture,
                    whole=wishes.whole,
                    packed=destination.transport is not Transport.DOCKER_ARCHIVE,
                    scratch=wishes.scratch,
                )
            )
        if destination.transport in _SINGLE:
            _refuse_index(destination, parcel)
        target = stack.enter_context(
            _opened(destination, source, parcel, registries=registries, known=known, wishes=wishes)
        )
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keelboot-", dir=wishes.scratch)))
        copying = _Copying(parcel, target, wishes, registries=registries, known=known, scratch=scratch)
        if wishes.attached and isinstance(target, ToRegistry):
            source_name = registries.name(source)
            same = source_name.host == registries.name(destination).host
            client = registries.resolve(source).client
            copying.attachments = Attachments(client, target.publisher, mount_from=source_name.path if same else None)
        copied = copying.run(progress)
        if not wishes.dry_run:
            _learn(known, registries, (source, destination), copied)
        return copied


def _refuse_index(destination: Reference, parcel: Parcel) -> None:
    if parcel.documents and is_index(parcel.documents[-1][0].media_type):
        raise Failure(
            f"cannot copy {parcel.reference} to {destination}",
            why="it is an index of several images, and there is place for one",
            fix="Leave --all out, or copy it to a registry, an oci: directory or an oci-archive: file.",
        )


@contextmanager
def _opened(
    destination: Reference,
    source: Reference,
    parcel: Parcel,
    *,
    registries: Registries,
    known: Known,
    wishes: Wishes,
) -> Iterator[Destination]:
    path, scratch = Path(destination.location), wishes.scratch
    match destination.transport:
        case Transport.REGISTRY:
            name = registries.name(destination)
            same = source.transport is Transport.REGISTRY and registries.name(source).host == name.host
            origin = registries.name(source).path if same else None
            blobs = [blob.digest for blob in parcel.blobs]
            blobs += [packed.digest for layer in parcel.layers if (packed := _packed(known, parcel, layer))]
            sources = mountable(blobs, name.path, origin=origin, known=lambda blob: known.places(blob, name.host))
            yield ToRegistry(destination, registries, sources, known.bookmarks.of)
        case Transport.OCI:
            yield ToLayout(path, destination.tag)
        case Transport.OCI_ARCHIVE:
            with tempfile.TemporaryDirectory(prefix="keelboot-", dir=scratch) as directory:
                yield ToArchive(path, destination.tag, Path(directory), replace=wishes.replace)
        case Transport.DOCKER_ARCHIVE:
            with tempfile.TemporaryDirectory(prefix="keelboot-", dir=scratch) as directory:
                yield ToDockerArchive(path, destination.tag, Path(directory), replace=wishes.replace)
        case _:
            with tempfile.TemporaryDirectory(prefix="keelboot-", dir=scratch) as directory:
                yield ToStorage(destination, Path(directory))


def _packed(known: Known, parcel: Parcel, layer: Layer) -> Descriptor | None:
    assert parcel.unpacked
    return known.compressed(layer.diff_id, PACKER, packed_type(parcel.unpacked))


def _learn(known: Known, registries: Registries, ends: tuple[Reference, Reference], copied: Copied) -> None:
    blobs = [one.digest for one in copied.blobs if one.digest]
    for reference in ends:
        if reference.transport is Transport.REGISTRY:
            known.learn_places(registries.name(reference), blobs)
    known.save()


class _Stopped(Exception):  # noqa: N818 - it is what happened
    """Another thread failed, or the user has had enough."""


class _Copying:
    """One copy under way."""

    def __init__(
        self,
        parcel: Parcel,
        target: Destination,
        wishes: Wishes,
        *,
        registries: Registries,
        known: Known,
        scratch: Path,
    ) -> None:
        self.attachments: Attachments | None = None  # which go along
        self._parcel, self._target, self._registries, self._wishes = parcel, target, registries, wishes
        self._known, self._scratch = known, scratch
        self._stopped = threading.Event()

    def run(self, progress: Progress) -> Copied:
        parcel, layers = self._parcel, self._parcel.layers
        plain = sum(layer.descriptor.size for layer in layers)
        total = sum(blob.size for blob in parcel.blobs)
        title = f"Copying {_count(len(parcel.blobs), 'blob')}, {total / 1e6:.1f} MB"
        with ExitStack() as stack:
            packing = None
            if layers and not self._wishes.dry_run:
                packing = stack.enter_context(progress.step(f"Compressing {_count(len(layers), 'layer')}", total=plain))
                title = f"Copying {_count(len(parcel.blobs) + len(layers), 'blob')}"
            if self._wishes.dry_run:
                title = "Asking what is there"
            sending = stack.enter_context(progress.step(title, total=None if layers else total))
            tasks: list[Callable[[], tuple[Moved, Descriptor | None]]] = [
                *(lambda layer=layer: self._pack(layer, packing, sending) for layer in layers),
                *(lambda blob=blob: self._move(blob, sending) for blob in parcel.blobs),
            ]
            moved = crew.run(tasks, jobs=self._wishes.jobs, cut=self._cut)
        return self._commit(moved, progress)

    def _commit(self, moved: list[tuple[Moved, Descriptor | None]], progress: Progress) -> Copied:
        parcel = self._parcel
        documents = parcel.documents
        blobs = tuple(one for one, _ in moved)
        if parcel.unpacked:
            packed = {one.content: descriptor for one, descriptor in moved if one.content and descriptor}
            if len(packed) < len(parcel.layers):
                return Copied(None, parcel.unpacked.manifest.media_type, 1, blobs)
            documents = (packed_manifest(parcel.unpacked, packed),)
        top, _ = documents[-1]
        attached = 0
        if self.attachments and not self._wishes.dry_run:
            # Whoever finds the image by its name is to find its signatures too.
            with progress.step("Copying what is attached"):
                attached = self.attachments.carry([one.digest for one, _ in documents], parcel.reference)
        if not self._wishes.dry_run:
            with progress.step("Writing the manifest"), refusing(parcel.reference, "its layers"):
                self._target.commit(documents)
        return Copied(top.digest, top.media_type, parcel.images, blobs, attached)

    def _move(self, blob: Descriptor, step: Step) -> tuple[Moved, Descriptor | None]:
        advance = self._advance(step)
        how = How.THERE
        if not self._target.has(blob):
            how = self._planned(blob)
            if not self._wishes.dry_run:
                with refusing(self._parcel.reference, "what it is made of"):
                    how = self._target.put(blob, lambda: self._parcel.opened.open_blob(blob), advance)
        if how is not How.SENT or self._wishes.dry_run:
            advance(blob.size)
        return Moved(self._kind(blob), how, blob.digest, blob.size), blob

    def _pack(self, layer: Layer, packing: Step | None, sending: Step) -> tuple[Moved, Descriptor | None]:
        """Compress LAYER and copy that, unless what it came to another time is there."""
        parcel = self._parcel
        packed = _packed(self._known, parcel, layer)
        there = packed is not None and self._target.has(packed)
        if there or packing is None:
            if packing:
                packing.advance(layer.descriptor.size)
            how = How.THERE if there else self._planned(packed) if packed else How.SENT
            digest, size = (packed.digest, packed.size) if packed else (None, None)
            return Moved("layer", how, digest, size, layer.diff_id), packed
        spool = self._scratch / layer.diff_id.hex
        assert parcel.unpacked
        with refusing(parcel.reference, f"layer {layer.diff_id}"):
            with parcel.opened.open_blob(layer.descriptor) as stream, spool.open("wb") as file:
                media_type = packed_type(parcel.unpacked)
                found = pack(stream, layer.descriptor, file, media_type, advance=self._advance(packing))
            self._known.learn_compressed(layer.diff_id, PACKER, found)
            how = How.THERE
            if found == packed or not self._target.has(found):
                how = self._target.put(found, lambda: spool.open("rb"), self._advance(sending))
        spool.unlink()
        return Moved("layer", how, found.digest, found.size, layer.diff_id), found

    def _planned(self, blob: Descriptor) -> How:
        return How.MOUNTED if self._target.mounts(blob) else How.SENT

    def _kind(self, blob: Descriptor) -> str:
        return "config" if "config" in blob.media_type or "container.image" in blob.media_type else "layer"

    def _advance(self, step: Step) -> Advance:
        def advance(count: int) -> None:
            if self._stopped.is_set():
                raise _Stopped
            step.advance(count)

        return advance

    def _cut(self) -> None:
        self._stopped.set()
        self._registries.cut()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
