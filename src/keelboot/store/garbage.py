"""What nothing needs is found, and then taken away: links before the objects they lead to.

A reference keeps its image, with all layers, also where a higher layer hides a lower one's files: an image that
shares the layer need not read it again. Everything else that a store makes is garbage.
"""

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keelboot.composefs import inodes, reader
from keelboot.failure import Failure, InvalidImage
from keelboot.image.tree import External, ObjectId
from keelboot.progress import SILENT, Progress
from keelboot.store import names
from keelboot.store.objects import files
from keelboot.store.repository import Lock, Repository, opened

STEPS: Final = ("images", "layers", "objects", "drafts")


@dataclass(frozen=True, slots=True)
class Garbage:
    """Files of a store that nothing needs; names are those in their directory, drafts are paths below the store."""

    images: tuple[str, ...]
    layers: tuple[str, ...]
    objects: tuple[External, ...]
    drafts: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes that the objects have."""
        return sum(one.size for one in self.objects)


def clean(
    store: Path,
    *,
    roots: Collection[ObjectId] = (),
    dry_run: bool = False,
    progress: Progress = SILENT,
    reached: Callable[[str], None] = lambda _: None,
) -> Garbage:
    """Remove what neither a reference of the store nor ROOTS, names of composefs images, need; return what that was.

    With DRY_RUN nothing is removed. Waits until nobody else is at work in the store. Raises Failure, also where what
    is needed is damaged, so that it is not known what that needs in turn.
    """
    with opened(store, Lock.ALONE, progress=progress) as repository:
        garbage = find(repository, roots)
        if not dry_run:
            with progress.step("Removing what nothing needs"):
                remove(repository, garbage, reached)
    return garbage


def find(repository: Repository, roots: Collection[ObjectId] = (), *, forgotten: Collection[str] = ()) -> Garbage:
    """What may be removed from a store that nobody else is at work in, once it has FORGOTTEN files of refs/.

    Raises Failure.
    """
    images, layers, objects = needed(repository, roots, forgotten=forgotten)
    return Garbage(
        images=tuple(
            link.file
            for link in repository.links(repository.images)
            if names.image_called(link.file) and link.file not in images
        ),
        layers=tuple(
            link.file
            for link in repository.links(repository.layers)
            if names.layer_called(link.file) and link.file not in layers
        ),
        objects=tuple(
            External(name, repository.objects.size(name) or 0)
            for directory, file in repository.objects.walk()
            if (name := names.object_at(directory, file)) and name not in objects
        ),
        drafts=tuple(drafts(repository)),
    )


def remove(repository: Repository, garbage: Garbage, reached: Callable[[str], None] = lambda _: None) -> None:
    """Remove what was found.

    cut after    is left behind                                  cleared by
    images       layers and objects that nothing names           gc
    layers       objects that nothing names                      gc
    objects      drafts                                          gc
    """
    for directory, links, step in (
        (repository.images, garbage.images, "images"),
        (repository.layers, garbage.layers, "layers"),
    ):
        for file in links:
            repository.unpublish(directory, file)
        # An object may only go when no link to it can come back.
        repository.settle(directory)
        reached(step)
    for one in garbage.objects:
        with suppress(IsADirectoryError):  # a stray, which is fsck's to tell of
            repository.objects.remove(one.object)
    reached("objects")
    for path in garbage.drafts:
        os.unlink(path, dir_fd=repository.root)
    reached("drafts")
    repository.barrier()  # done is done: what was told to be removed does not come back


def drafts(repository: Repository) -> Iterable[str]:
    """Files that something was killed while making, as paths below the store. Only for who is alone in it."""
    for place, fd in (
        ("", repository.root),
        (names.OBJECTS, repository.objects.fd),
        (names.IMAGES, repository.images),
        (names.LAYERS, repository.layers),
        (names.REFERENCES, repository.references),
    ):
        for file in files(fd):
            if names.draft_called(file):
                yield f"{place}/{file}".removeprefix("/")


def needed(
    repository: Repository, roots: Collection[ObjectId] = (), *, forgotten: Collection[str] = ()
) -> tuple[set[str], set[str], set[ObjectId]]:
    """The images, layers and objects that ROOTS and references need, but for those that are FORGOTTEN.

    Raises Failure where one cannot be read.
    """
    images = {name.hex for name in roots}
    layers: set[str] = set()
    objects: set[ObjectId] = set()
    for link in repository.links(repository.references):
        if link.file in forgotten:
            continue
        record = repository.image(link.object) if link.object else None
        if record is None or link.object is None:
            raise _unknown(repository, f"refs/{link.file} leads to no sound record")
        objects.update((link.object, record.manifest.object, record.config.object))
        if record.composefs:
            images.add(record.composefs.object.hex)
            objects.add(record.composefs.object)
        layers.update(map(str, record.diff_ids))
    for file in layers:
        name, layer = repository.follow(repository.layers, file), repository.layer(file)
        if name is None or layer is None:
            raise _unknown(repository, f"layers/{file} leads to no sound record")
        objects.add(name)
        objects.update(content for content, _ in layer.contents())
    for root in roots:
        objects.add(root)
        objects.update(content.object for content in image_contents(repository, root))
    return images, layers, objects


def image_contents(repository: Repository, name: ObjectId) -> list[External]:
    """The objects that the composefs image names. Raises Failure where it is damaged."""
    data = repository.objects.read(name)
    try:
        found = None if data is None else reader.read(data)
    except InvalidImage:
        found = None
    if found is None:
        raise _unknown(repository, f"the composefs image {name.hex} is missing or damaged")
    return [
        External(ObjectId(inode.digest.hex()), inode.size)
        for _, inode in inodes.walk_inodes(found.root)
        if isinstance(inode, inodes.Inode) and inode.is_external and inode.digest
    ]


def is_image(repository: Repository, name: ObjectId) -> bool:
    """Whether the object is there, sound, and a composefs image."""
    try:
        image_contents(repository, name)
    except Failure:
        return False
    return True


def _unknown(repository: Repository, why: str) -> Failure:
    return Failure(
        f"cannot tell what the store {repository.path} needs",
        why=why,
        fix=f"`keelboot store fsck --repair-from IMAGE --store {repository.path}` mends it; "
        "`keelboot store rm NAME` gives up an image that cannot be had again.",
    )
