"""Everything in a store is read and compared with what it must be; nothing is changed.

bytes of an object      its name: the fs-verity digest
a layer's record        the layer's DiffID: its archive is put together again from record and objects
an image's record       digests of manifest and config, and what these two say of the layers
a composefs image       its name; that it can be read; objects it names
links, names, modes     docs/formats/store.md
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from keelboot.failure import Failure
from keelboot.image.digest import Digest
from keelboot.image.documents import parse_config, parse_manifest
from keelboot.image.refusal import Refused
from keelboot.image.tree import External, ObjectId
from keelboot.progress import SILENT, Progress
from keelboot.store import garbage, kernel_verity, names
from keelboot.store.draft import MODE, READ
from keelboot.store.imagerecord import ImageRecord
from keelboot.store.layerrecord import LayerRecord
from keelboot.store.naming import Naming
from keelboot.store.objects import files
from keelboot.store.repository import Link, Repository

_TOP: Final = frozenset((*names.DIRECTORIES, names.META, names.LOCK))
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something wrong: where, below the store; why; and the references that need what is there."""

    path: str
    why: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check came to. `bad` are objects that are damaged, or missing where something names them."""

    findings: tuple[Finding, ...]
    bad: frozenset[ObjectId]
    strays: tuple[str, ...]  # paths below the store of what has no place in it
    wrong_modes: tuple[ObjectId, ...]
    drafts: int
    objects: int
    size: int  # bytes of all objects
    unneeded: int  # sound objects that no reference needs, for gc
    references: int
    sealed: bool  # whether the filesystem has fs-verity; objects without are findings then


def check(repository: Repository, *, jobs: int = 2, progress: Progress = SILENT) -> Report:
    """Read all of the store and say what is wrong. JOBS is 1 for a single thread. Raises OSError."""
    return _Check(repository, jobs, progress).report()


class _Check:
    def __init__(self, repository: Repository, jobs: int, progress: Progress) -> None:
        self.repository, self.jobs, self.progress = repository, jobs, progress
        self.findings: list[tuple[str, str, ObjectId | str]] = []  # the last: what references may need
        self.sizes: dict[ObjectId, int] = {}
        self.bad: dict[ObjectId, str] = {}
        self.strays: list[str] = []
        self.wrong_modes: list[ObjectId] = []
        self.sealed = False
        self.layers: dict[str, LayerRecord] = {}  # sound ones, by file

    def report(self) -> Report:
        repository = self.repository
        for name in files(repository.root):
            if name not in _TOP and not name.startswith(f".{names.META}."):
                self.note(name, "nothing of a store has this name")
        self.read_objects()
        self.read_layers()
        images = self.read_images()
        references = self.read_references(images)
        needers = self.needers(references)
        for bad, why in self.bad.items():
            self.note(f"{names.OBJECTS}/{bad.path}", why, bad)
        findings = [Finding(path, why, tuple(sorted(needers.get(key, ())))) for path, why, key in self.findings]
        return Report(
            findings=tuple(sorted(findings)),
            bad=frozenset(self.bad),
            strays=tuple(self.strays),
            wrong_modes=tuple(self.wrong_modes),
            drafts=len(list(garbage.drafts(repository))),
            objects=len(self.sizes),
            size=sum(self.sizes.values()),
            unneeded=sum(name not in needers and name not in self.bad for name in self.sizes),
            references=len(references),
            sealed=self.sealed,
        )

    def note(self, path: str, why: str, key: ObjectId | str = "") -> None:
        self.findings.append((path, why, key))

    def stray(self, path: str, why: str) -> None:
        self.strays.append(path)
        self.note(path, why)

    def sound(self, name: ObjectId) -> bool:
        return name in self.sizes and name not in self.bad

    def need(self, name: ObjectId, size: int | None = None) -> bool:
        """Whether an object that something names is there and sound; if not, it is noted."""
        if name not in self.sizes:
            self.bad.setdefault(name, "it is missing")
        elif size is not None and self.sizes[name] != size:
            self.bad[name] = f"it has {self.sizes[name]} bytes of {size}"
        return self.sound(name)

    # -- objects --------------------

    def read_objects(self) -> None:
        places = []
        for directory, file in self.repository.objects.walk():
            name = names.object_at(directory, file)
            path = f"{names.OBJECTS}/{directory}/{file}".rstrip("/")
            if name is None:
                self.stray(path, "no object has this name")
            else:
                places.append(name)
        with self.progress.step("Reading objects", total=len(places)) as step:
            for name, state in self.each(self.measure, places):
                step.advance(1)
                if isinstance(state, str):
                    self.stray(f"{names.OBJECTS}/{name.path}", state)
                    continue
                size, found, mode, sealed = state
                self.sizes[name] = size
                self.sealed = self.sealed or sealed is not None
                if found != name:
                    self.bad[name] = f"its {size} bytes measure {found.hex[:16]}…" if found else "it cannot be read"
                elif sealed is False:
                    self.bad[name] = "it is not sealed with fs-verity, which the filesystem has"
                elif mode != MODE:
                    self.wrong_modes.append(name)
                    self.note(f"{names.OBJECTS}/{name.path}", f"its mode is {mode:04o}, not {MODE:04o}", name)

    def measure(self, name: ObjectId) -> str | tuple[int, ObjectId | None, int, bool | None]:
        """Size, digest (None if it cannot be read), mode, and whether it is sealed (None where nothing can be)."""
        objects = self.repository.objects
        try:
            with objects.opened(name) as fd:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    return "it is no file"
                sealed: bool | None = None
                with suppress(kernel_verity.Unsupported):
                    sealed = kernel_verity.measured(fd) == name
                naming = Naming(objects.algorithm)
                found: ObjectId | None = None
                with suppress(OSError):
                    while block := os.read(fd, READ):
                        naming.update(block)
                    found = naming.finish()
                return status.st_size, found, stat.S_IMODE(status.st_mode), sealed
        except OSError as error:
            return f"it is no file ({error.strerror})"

    def each(self, act: Callable[[_T], _R], over: Iterable[_T]) -> Iterator[tuple[_T, _R]]:
        """OVER with what ACT makes of each, on as many threads as there are jobs."""
        items = list(over)
        if self.jobs == 1:
            yield from ((item, act(item)) for item in items)
            return
        with ThreadPoolExecutor(self.jobs) as pool:
            yield from zip(items, pool.map(act, items, chunksize=32), strict=True)

    # -- what objects are used for --------------------

    def read_layers(self) -> None:
        whole: list[LayerRecord] = []
        for link in self.repository.links(self.repository.layers):
            path = f"{names.LAYERS}/{link.file}"
            if names.layer_called(link.file) is None:
                self.stray(path, "no layer has this name")
            elif link.object is None:
                self.note(path, "it leads to no object", link.file)
            elif self.need(link.object):
                record = self.repository.layer(link.file)
                if record is None:
                    self.note(path, "it leads to something else than this layer's record", link.file)
                    continue
                self.layers[link.file] = record
                if all([self.need(name, size) for name, size in record.contents()]):  # noqa: C419 - each has to be noted
                    whole.append(record)
        with self.progress.step("Putting layers together", total=len(whole)) as step:
            for record, why in self.each(self.archive_fault, whole):
                step.advance(1)
                if why:
                    self.layers.pop(str(record.diff_id))
                    self.note(f"{names.LAYERS}/{record.diff_id}", why, str(record.diff_id))

    def archive_fault(self, record: LayerRecord) -> str | None:
        """Why the archive that RECORD and the objects add up to is not the layer, or None."""
        digest = hashlib.new(record.diff_id.algorithm)
        try:
            for block in record.archive(self.repository.objects.chunks):
                digest.update(block)
        except (Refused, OSError) as error:
            return f"its archive cannot be put together ({error})"
        return None if digest.hexdigest() == record.diff_id.hex else "its archive is not the layer's"

    def read_images(self) -> dict[str, list[External]]:
        """The composefs images that may be mounted and can be read, with the objects they name."""
        found = {}
        for link in self.repository.links(self.repository.images):
            path = f"{names.IMAGES}/{link.file}"
            name = names.image_called(link.file)
            if name is None:
                self.stray(path, "no image has this name")
            elif link.object != name:
                self.note(path, "it leads to another object than its name says, or to none", link.file)
            elif self.need(name):
                try:
                    contents = garbage.image_contents(self.repository, name)
                except Failure as failure:
                    self.note(path, failure.why, link.file)
                    continue
                found[link.file] = contents
                for content in contents:
                    self.need(content.object, content.size)
        return found

    def read_references(self, images: Mapping[str, list[External]]) -> dict[str, tuple[Link, ImageRecord | None]]:
        found: dict[str, tuple[Link, ImageRecord | None]] = {}
        for link in self.repository.links(self.repository.references):
            path = f"{names.REFERENCES}/{link.file}"
            reference = names.reference_called(link.file)
            if reference is None:
                self.stray(path, "no reference has this name")
                continue
            found[reference] = (link, None)
            if link.object is None:
                self.note(path, "it leads to no object", link.file)
            elif self.need(link.object):
                record = self.repository.image(link.object)
                if record is None:
                    self.note(path, "it leads to something else than an image's record", link.file)
                    continue
                found[reference] = (link, record)
                if why := self.record_fault(record):
                    self.note(path, why, link.file)
                for diff_id in record.diff_ids:
                    if self.repository.follow(self.repository.layers, str(diff_id)) is None:
                        self.note(f"{names.LAYERS}/{diff_id}", "it is missing", str(diff_id))
                if record.composefs:
                    self.need(record.composefs.object, record.composefs.size)
                    hex_name = record.composefs.object.hex
                    if hex_name not in images and self.sound(record.composefs.object):
                        self.note(f"{names.IMAGES}/{hex_name}", "it is missing", hex_name)
        return found

    def record_fault(self, record: ImageRecord) -> str | None:
        """Why the record does not fit its manifest and config, or None; also None where one of them is damaged."""
        objects = self.repository.objects
        if not all([self.need(one.object, one.size) for one in (record.manifest, record.config)]):  # noqa: C419 - both are noted
            return None
        manifest, config = objects.read(record.manifest.object), objects.read(record.config.object)
        if manifest is None or config is None:
            return None
        try:
            fits = (
                _digest(manifest, record.manifest_digest) == record.manifest_digest
                and _digest(config, record.config_digest) == record.config_digest
                and parse_manifest(manifest, record.media_type).config.digest == record.config_digest
                and parse_config(config).diff_ids == record.diff_ids
            )
        except Refused as error:
            return f"its manifest or config is refused: {error}"
        return None if fits else "its record does not fit its manifest and config"

    def needers(self, references: Mapping[str, tuple[Link, ImageRecord | None]]) -> dict[ObjectId | str, set[str]]:
        """Who needs what: references by object, and by file in refs/, layers/ and images/."""
        found: dict[ObjectId | str, set[str]] = {}

        def need(key: ObjectId | str, reference: str) -> None:
            found.setdefault(key, set()).add(reference)

        for reference, (link, record) in references.items():
            need(link.file, reference)
            if link.object:
                need(link.object, reference)
            if record is None:
                continue
            need(record.manifest.object, reference)
            need(record.config.object, reference)
            if record.composefs:
                need(record.composefs.object, reference)
                need(record.composefs.object.hex, reference)
            for diff_id in record.diff_ids:
                need(str(diff_id), reference)
                name = self.repository.follow(self.repository.layers, str(diff_id))
                if name:
                    need(name, reference)
                layer = self.layers.get(str(diff_id))
                for content, _ in layer.contents() if layer else ():
                    need(content, reference)
        return found


def _digest(data: bytes, like: Digest) -> Digest:
    return Digest(like.algorithm, hashlib.new(like.algorithm, data).hexdigest())
