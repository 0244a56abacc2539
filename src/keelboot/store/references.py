"""References: what images a store holds, by the names they were pulled under; they are all that keeps an image."""

from dataclasses import dataclass
from pathlib import Path

from keelboot.failure import ImageNotFound
from keelboot.image.tree import ObjectId
from keelboot.progress import SILENT, Progress
from keelboot.store import kernel_verity, names
from keelboot.store.imagerecord import ImageRecord
from keelboot.store.repository import Link, Lock, Repository, opened


@dataclass(frozen=True, slots=True)
class Named:
    """One reference. `record` is None where it is damaged; `size` is in bytes, shared contents counted once."""

    reference: str
    record: ImageRecord | None
    objects: int
    size: int
    sealed: bool | None  # whether the kernel checks reads of the composefs image; None where there is none


def listing(store: Path) -> list[Named]:
    """What the store holds, in order of names. Takes no lock. Raises Failure."""
    with opened(store, Lock.NONE) as repository:
        return [_named(repository, link) for link in repository.links(repository.references)]


def drop(store: Path, reference: str, *, progress: Progress = SILENT) -> None:
    """Forget REFERENCE; what only it kept is gc's to remove. Durable when this returns.

    Raises ImageNotFound, Failure.
    """
    with opened(store, Lock.SHARED, progress=progress) as repository:
        try:
            repository.unpublish(repository.references, names.reference_file(reference))
        except (ValueError, FileNotFoundError) as error:
            known = [names.reference_called(link.file) for link in repository.links(repository.references)]
            raise ImageNotFound(
                f"cannot remove {reference}",
                why=f"the store {store} has no image of this name",
                fix=f"It has {', '.join(name for name in known if name) or 'none'}.",
            ) from error
        repository.settle(repository.references)


def _named(repository: Repository, link: Link) -> Named:
    reference = names.reference_called(link.file) or link.file
    record = repository.image(link.object) if link.object else None
    if record is None:
        return Named(reference, None, 0, 0, None)
    contents: dict[ObjectId, int] = {}
    for diff_id in record.diff_ids:
        layer = repository.layer(str(diff_id))
        if layer:
            contents.update(layer.contents())
    sealed = _sealed(repository, record.composefs.object) if record.composefs else None
    return Named(reference, record, len(contents), sum(contents.values()), sealed)


def _sealed(repository: Repository, name: ObjectId) -> bool:
    try:
        with repository.objects.opened(name) as fd:
            return kernel_verity.measured(fd) == name
    except (kernel_verity.Unsupported, OSError):
        return False
