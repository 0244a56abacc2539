"""What a check found is mended: from an image, read again where it is needed, or from another store.

Nothing is added that the store did not name before. docs/formats/store.md tells what a cut after each of STEPS leaves
behind: damage that is left is found again.
"""

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keelboot.composefs import reader
from keelboot.failure import Failure, InvalidImage
from keelboot.image.reference import Reference
from keelboot.image.refusal import Refused
from keelboot.image.transports import open_image
from keelboot.image.tree import ObjectId
from keelboot.progress import SILENT, Progress
from keelboot.store import garbage, names
from keelboot.store.check import Finding, Report, check
from keelboot.store.meta import Meta, Newer
from keelboot.store.pull import take
from keelboot.store.repository import Lock, Repository, explained, opened, write_meta

STEPS: Final = ("swept", "objects", "barrier", "layers", "images", "references", "unneeded")


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was wrong and is not any more, and the state after that."""

    healed: tuple[Finding, ...]
    after: Report
    cloned: int  # objects that share blocks with the store they came from


@dataclass(frozen=True, slots=True)
class _Found:
    """What a source has: records by layer, and the records that references may lead to."""

    layers: dict[str, ObjectId]
    references: dict[str, ObjectId]


def repair(
    store: Path,
    source: Reference | Path,
    *,
    roots: Collection[ObjectId] = (),
    known: Report | None = None,
    jobs: int = 2,
    progress: Progress = SILENT,
    reached: Callable[[str], None] = lambda _: None,
) -> Repaired:
    """Mend the store from SOURCE, an image or another store, as far as it has what is missing.

    ROOTS are composefs images that are needed without a reference. KNOWN is what a check found, where nobody changed
    the store since: it is not read again for that. Waits until nobody else is at work in the store. Raises Failure, and
    what opening and reading an image raises.
    """
    mended = _mend_meta(store)
    with opened(store, Lock.ALONE, progress=progress) as repository:
        before = known or check(repository, jobs=jobs, progress=progress)
        findings = mended + before.findings
        if before.findings or before.drafts:
            _sweep(repository, before)
            reached("swept")
            if isinstance(source, Path):
                found = _from_store(repository, source, before)
            else:
                found = _from_image(repository, source, before, jobs, progress)
            reached("objects")
            repository.barrier()
            reached("barrier")
            _link(repository, found, reached)
            _drop_unneeded(repository, before, roots)
            reached("unneeded")
            repository.barrier()
            after = check(repository, jobs=jobs, progress=progress)
        else:
            after = before
    left = {finding.path for finding in after.findings}
    healed = tuple(finding for finding in findings if finding.path not in left)
    return Repaired(healed, after, repository.objects.cloned)


def _mend_meta(store: Path) -> tuple[Finding, ...]:
    """Write meta.json where there is none or a damaged one, in what is a store otherwise."""
    file = store / names.META
    with explained(store):
        if not (store / names.OBJECTS).is_dir():
            return ()
        try:
            Meta.parse(file.read_bytes())
        except (FileNotFoundError, Refused) as error:
            if isinstance(error, Newer):
                return ()
            lengths = {
                len(directory.name + file.name)
                for directory in sorted((store / names.OBJECTS).iterdir())
                if directory.is_dir()
                for file in directory.iterdir()
            }
            write_meta(store, "sha512" if 128 in lengths and 64 not in lengths else "sha256")
            return (Finding(names.META, f"{error}" if isinstance(error, Refused) else "it is missing"),)
    return ()


def _sweep(repository: Repository, report: Report) -> None:
    """Take away what has no place in the store, and give objects their mode."""
    for path in [*report.strays, *garbage.drafts(repository)]:
        try:
            os.unlink(path, dir_fd=repository.root)
        except IsADirectoryError:
            with suppress(OSError):  # not empty: the next check tells of it again
                os.rmdir(path, dir_fd=repository.root)
    for name in report.wrong_modes:
        with repository.objects.opened(name) as fd:
            os.fchmod(fd, 0o644)


def _from_image(repository: Repository, source: Reference, report: Report, jobs: int, progress: Progress) -> _Found:
    with open_image(source) as image:
        taken = take(repository, image, jobs=jobs, progress=progress, distrusted=report.bad)
    files = map(str, taken.record.diff_ids)
    references = {}
    with suppress(ValueError):
        references[names.reference_file(str(source))] = taken.object
    # Also under other names the store may have this very record, which is sound again now.
    return _Found(dict(zip(files, taken.layers, strict=True)), references)


def _from_store(repository: Repository, source: Path, report: Report) -> _Found:
    with opened(source, Lock.NONE) as other:
        if other.meta.algorithm != repository.meta.algorithm:
            raise Failure(
                f"cannot mend {repository.path} from {source}",
                why="the two name their objects by different digests",
                fix="Mend it from an image.",
            )
        found = _Found(_links(other, other.layers), _links(other, other.references))
        for name in sorted(_wanted(repository, other, found) | report.bad, key=lambda name: name.hex):
            if name in report.bad or repository.objects.size(name) is None:
                with suppress(FileNotFoundError), other.objects.opened(name) as fd:
                    repository.objects.copy(name, fd)
    return found


def _links(repository: Repository, directory: int) -> dict[str, ObjectId]:
    return {link.file: link.object for link in repository.links(directory) if link.object}


def _wanted(repository: Repository, other: Repository, found: _Found) -> set[ObjectId]:
    """What the references need of OTHER: where something here is damaged, it is not known what that led to."""
    wanted: set[ObjectId] = set()
    layers = {link.file for link in repository.links(repository.layers)}
    for link in repository.links(repository.references):
        for name in (link.object, found.references.get(link.file)):
            record = (repository.image(name) or other.image(name)) if name else None
            if name and record:
                contents = (record.manifest, record.config, record.composefs)
                wanted |= {name, *(content.object for content in contents if content)}
                layers |= set(map(str, record.diff_ids))
    for file in layers & found.layers.keys():
        layer = other.layer(file)
        if layer:
            wanted |= {found.layers[file], *(name for name, _ in layer.contents())}
    return wanted


def _link(repository: Repository, found: _Found, reached: Callable[[str], None]) -> None:
    """Mend links: those that are there and lead to nothing sound, and those that a reference needs."""
    references = {link.file: link.object for link in repository.links(repository.references)}
    for file, name in references.items():
        if (name is None or repository.image(name) is None) and file in found.references:
            references[file] = found.references[file]
    records = [record for name in references.values() if name and (record := repository.image(name))]
    layers = {str(diff_id) for record in records for diff_id in record.diff_ids}
    for file in sorted(layers | {link.file for link in repository.links(repository.layers)}):
        if repository.layer(file) is None:
            if file in found.layers:
                repository.publish(repository.layers, file, found.layers[file])
            elif file not in layers:
                repository.unpublish(repository.layers, file)
    repository.settle(repository.layers)
    reached("layers")
    images = {record.composefs.object.hex for record in records if record.composefs}
    for file in sorted(images | {link.file for link in repository.links(repository.images)}):
        _link_image(repository, file)
    repository.settle(repository.images)
    reached("images")
    for file, name in references.items():
        if name and repository.image(name):
            repository.publish(repository.references, file, name)
    repository.settle(repository.references)
    reached("references")


def _link_image(repository: Repository, file: str) -> None:
    """Have FILE lead to the image of its name, if that is sound; take it away if it cannot become one."""
    name = names.image_called(file)
    data = repository.objects.read(name) if name else None
    if name and data is not None and _is_image(data):
        repository.publish(repository.images, file, name)
    elif data is not None or repository.follow(repository.images, file) != name:
        with suppress(FileNotFoundError):
            repository.unpublish(repository.images, file)


def _is_image(data: bytes) -> bool:
    try:
        for _ in reader.objects(data):
            pass
    except InvalidImage:
        return False
    return True


def _drop_unneeded(repository: Repository, before: Report, roots: Collection[ObjectId]) -> None:
    """Remove damaged objects that nothing needs, and what was added and turned out to be needed by nothing."""
    try:
        _, _, needed = garbage.needed(repository, roots)
    except Failure:  # something needed is still missing: keep all
        return
    for name in {*before.bad, *repository.objects.added} - needed:
        repository.objects.remove(name)
