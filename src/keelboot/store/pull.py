"""An image comes into the store: its layers are read, what they hold becomes durable, and only then is it named.

docs/formats/store.md tells what a cut after each of STEPS leaves behind; tests/crash/test_store.py cuts there.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keelboot.composefs import erofs, sealing
from keelboot.composefs.inodes import collector_paused
from keelboot.failure import CannotFinish, Failure
from keelboot.image.layers import reading_step
from keelboot.image.reference import Reference
from keelboot.image.transports import Image, Layer, fingerprint, open_image
from keelboot.image.tree import Directory, External, ObjectId
from keelboot.progress import SILENT, Progress
from keelboot.store import names
from keelboot.store.imagerecord import ImageRecord
from keelboot.store.objects import Objects
from keelboot.store.reading import Reading, name_layers, planned, whole_layer
from keelboot.store.repository import Lock, Repository, opened
from keelboot.store.writeback import writing_back

STEPS: Final = ("created", "contents", "records", "barrier", "layers", "image", "reference")


def _on(_: str) -> None:
    """Nobody waits for the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What of an image is in the store, durable or not, and how it came there."""

    record: ImageRecord
    object: ObjectId  # that the record is
    layers: tuple[ObjectId, ...]  # that the layers' records are, lowest first
    reused: tuple[bool, ...]  # for each layer, whether it was not read
    read: tuple[Layer, ...]  # the same, as the image has them


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What a pull came to. `unchanged` says that the store had the image, complete, and no layer was looked at."""

    reference: str
    record: ImageRecord
    unchanged: bool
    layers_reused: tuple[bool, ...]
    objects_added: int
    bytes_added: int
    objects_healed: int
    sealed: bool | None  # whether the filesystem has fs-verity; None if nothing was written


def pull(
    store: Path,
    source: Reference,
    *,
    jobs: int = 2,
    progress: Progress = SILENT,
    reached: Callable[[str], None] = _on,
) -> Pulled:
    """Have the image SOURCE in the store at STORE, under that name; the store is made where there is none.

    JOBS is 1 for this process alone, and a single thread in it. The reference is the commit: before it the store names
    nothing new, and running again finishes. Raises Failure, and what opening and reading the image raises.
    """
    file = _file(source)
    mark = fingerprint(source)
    with opened(store, Lock.SHARED, create=True, progress=progress) as repository:
        reached("created")
        name = _known(repository, mark)
        if name is not None and (record := repository.image(name)):
            _refer(repository, file, name)
            reused = (True,) * len(record.diff_ids)
            return _pulled(repository, source, record, reused, unchanged=True)
        with open_image(source) as image:
            taken = take(repository, image, jobs=jobs, progress=progress, reached=reached)
        with progress.step("Syncing"):
            repository.barrier()
        reached("barrier")
        publish_layers(repository, taken)
        reached("layers")
        if taken.record.composefs:
            publish_image(repository, taken.record.composefs.object)
        reached("image")
        _refer(repository, file, taken.object)
        reached("reference")
        return _pulled(repository, source, taken.record, taken.reused, unchanged=False)


def take(
    repository: Repository,
    image: Image,
    *,
    jobs: int,
    progress: Progress = SILENT,
    reached: Callable[[str], None] = _on,
    distrusted: Collection[ObjectId] = (),
) -> Taken:
    """Have everything of IMAGE in the objects of REPOSITORY, not durable yet and not named.

    Layers with a record, and all their objects, are not read; but DISTRUSTED objects count as missing. Raises
    InvalidImage and MissingTool, OSError.
    """
    plan = planned(repository, image, distrusted=distrusted)
    with (
        collector_paused(),
        plan.crew(jobs) as others,
        writing_back(repository, beside=jobs > 1) as writeback,
    ):
        with reading_step(image, progress) as step:
            reading = Reading(plan, others, step, writeback, ahead=jobs > 1)
            reading.run()
        writeback.hurry()
        reached("contents")
        with progress.step("Writing the composefs image"):
            composefs, unsealed = _seal(repository.objects, reading.root)
        record = ImageRecord(
            manifest_digest=image.manifest_digest,
            config_digest=image.manifest.config.digest,
            media_type=image.manifest.media_type,
            manifest=repository.objects.put([image.manifest_bytes]),
            config=repository.objects.put([image.config_bytes]),
            diff_ids=tuple(layer.diff_id for layer in image.layers),
            composefs=composefs,
            unsealed=unsealed,
        )
        name = repository.objects.put([record.encode()]).object
        reached("records")
    return Taken(
        record=record,
        object=name,
        layers=tuple(reading.records),
        reused=tuple(reading.reused),
        read=tuple(image.layers),
    )


def publish_layers(repository: Repository, taken: Taken) -> None:
    """Name the layers of what was TAKEN and is durable; they are never read again. Durable when this returns."""
    name_layers(repository, zip(taken.read, taken.layers, strict=True))


def publish_image(repository: Repository, name: ObjectId) -> None:
    """Allow the composefs image to be mounted; durable when this returns."""
    repository.publish(repository.images, name.hex, name)
    repository.settle(repository.images)


def complete(repository: Repository, record: ImageRecord) -> bool:
    """Whether everything that RECORD leads to is there, by names and sizes; the bytes of contents are not read."""
    objects = repository.objects
    image = record.composefs
    if image and (repository.follow(repository.images, image.object.hex) != image.object or not objects.has(image)):
        return False
    return (
        objects.has(record.manifest)
        and objects.has(record.config)
        and all(whole_layer(repository, diff_id) for diff_id in record.diff_ids)
    )


def _file(source: Reference) -> str:
    try:
        return names.reference_file(str(source))
    except ValueError as error:
        raise Failure(
            f"cannot keep {source} in a store", why=f"its name is too long: {error}", fix="Move it to a shorter path."
        ) from error


def _known(repository: Repository, mark: str) -> ObjectId | None:
    """The record of a complete image whose manifest or config has the digest MARK."""
    for name in dict.fromkeys(link.object for link in repository.links(repository.references)):
        record = repository.image(name) if name else None
        if record and mark in (str(record.manifest_digest), record.config_digest.hex) and complete(repository, record):
            return name
    return None


def _refer(repository: Repository, file: str, name: ObjectId) -> None:
    repository.publish(repository.references, file, name)
    repository.settle(repository.references)


def _seal(objects: Objects, tree: Directory) -> tuple[External | None, str]:
    """The composefs image of TREE; where it cannot be sealed none, and why."""
    try:
        sealed = sealing.seal(tree)
    except CannotFinish as error:
        return None, error.why
    size, chunks = erofs.image_chunks(sealed, version=1)
    return External(objects.add(size, chunks), size), ""


def _pulled(
    repository: Repository, source: Reference, record: ImageRecord, reused: tuple[bool, ...], *, unchanged: bool
) -> Pulled:
    objects = repository.objects
    return Pulled(
        reference=str(source),
        record=record,
        unchanged=unchanged,
        layers_reused=reused,
        objects_added=objects.added_count,
        bytes_added=objects.added_bytes,
        objects_healed=objects.healed,
        sealed=objects.sealed,
    )
