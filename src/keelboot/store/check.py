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
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from keelboot.composefs import reader
from keelboot.failure import InvalidImage
from keelboot.image.digest import Digest
from keelboot.image.documents import parse_config, parse_manifest
from keelboot.image.refusal import Refused
from keelboot.image.tree import ObjectId
from keelboot.progress import SILENT, Progress
from keelboot.store import garbage, kernel_verity, names
from keelboot.store.draft import MODE, READ
from keelboot.store.imagerecord import ImageRecord
from keelboot.store.layerrecord import LayerRecord
from keelboot.store.naming import Naming, name_of
from keelboot.store.objects import files
from keelboot.store.repository import Link, Repository

_TOP: Final = frozenset((*names.DIRECTORIES, names.META, names.LOCK))
_AT_ONCE: Final = 64  # objects
_Key = bytes | str  # what references may need: an object's digest, or the file of a link
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
        self.findings: list[tuple[str, str, _Key]] = []
        # Of all objects that are there, by digest: bytes, as a store may have millions.
        self.sizes: dict[bytes, int] = {}
        self.bad: dict[bytes, str] = {}
        self.strays: list[str] = []
        self.wrong_modes: list[ObjectId] = []
        self.sealed = False
        self.layers: dict[str, LayerRecord] = {}  # sound ones, by file

    def report(self) -> Report:
        repository = self.repository
        for name in files(repository.root):
            if name not in _TOP and not names.draft_called(name):
                self.note(name, "nothing of a store has this name")
        self.read_objects()
        self.read_layers()
        images = self.read_images()
        references = self.read_references(images)
        for bad, why in self.bad.items():
            self.note(_path(bad), why, bad)
        needers, unneeded = self.needers(references)
        findings = [Finding(path, why, tuple(sorted(needers[key]))) for path, why, key in self.findings]
        return Report(
            findings=tuple(sorted(findings)),
            bad=frozenset(map(ObjectId.of, self.bad)),
            strays=tuple(self.strays),
            wrong_modes=tuple(self.wrong_modes),
            drafts=len(list(garbage.drafts(repository))),
            objects=len(self.sizes),
            size=sum(self.sizes.values()),
            unneeded=unneeded,
            references=len(references),
            sealed=self.sealed,
        )

    def note(self, path: str, why: str, key: _Key = "") -> None:
        self.findings.append((path, why, key))

    def stray(self, path: str, why: str) -> None:
        self.strays.append(path)
        self.note(path, why)

    def sound(self, digest: bytes) -> bool:
        return digest in self.sizes and digest not in self.bad

    def need(self, digest: bytes, size: int | None = None) -> bool:
        """Whether an object that something names is there and sound; if not, it is noted."""
        if digest not in self.sizes:
            self.bad.setdefault(digest, "it is missing")
        elif size is not None and self.sizes[digest] != size:
            self.bad[digest] = f"it has {self.sizes[digest]} bytes of {size}"
        return self.sound(digest)

    # -- objects --------------------

    def read_objects(self) -> None:
        places = []
        for directory, file in self.repository.objects.walk():
            name = names.object_at(directory, file)
            if name is None:
                self.stray(f"{names.OBJECTS}/{directory}/{file}".rstrip("/"), "no object has this name")
            else:
                places.append(name.digest)
        with self.progress.step("Reading objects", total=len(places)) as step:
            for digest, state in self.each(self.measure, places, at_once=_AT_ONCE):
                step.advance(1)
                if isinstance(state, str):
                    self.stray(_path(digest), state)
                    continue
                size, found, mode, sealed = state
                self.sizes[digest] = size
                self.sealed = self.sealed or sealed is not None
                if found is None:
                    self.bad[digest] = "it cannot be read"
                elif found.digest != digest:
                    self.bad[digest] = f"its {size} bytes measure {found.hex[:16]}…"
                elif sealed is False:
                    self.bad[digest] = "it is not sealed with fs-verity, which the filesystem has"
                elif mode != MODE:
                    self.wrong_modes.append(ObjectId.of(digest))
                    self.note(_path(digest), f"its mode is {mode:04o}, not {MODE:04o}", digest)

    def measure(self, digest: bytes) -> str | tuple[int, ObjectId | None, int, bool | None]:
        """Size, name (None if it cannot be read), mode, and whether it is sealed (None where nothing can be)."""
        objects, name = self.repository.objects, ObjectId.of(digest)
        try:
            with objects.opened(name) as fd:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    return "it is no file"
                sealed: bool | None = None
                with suppress(kernel_verity.Unsupported):
                    sealed = kernel_verity.measured(fd) == name
                found: ObjectId | None = None
                with suppress(OSError):
                    found = self.measured(fd, status.st_size)
                return status.st_size, found, stat.S_IMODE(status.st_mode), sealed
        except OSError as error:
            return f"it is no file ({error.strerror})"

    def measured(self, fd: int, size: int) -> ObjectId:
        """The name of what the file of SIZE bytes has. Raises OSError."""
        algorithm = self.repository.objects.algorithm
        block = os.read(fd, min(size + 1, READ))
        if len(block) == size:  # of most files this is all
            return name_of(block, algorithm)
        naming = Naming(algorithm)
        while block:
            naming.update(block)
            block = os.read(fd, READ)
        return naming.finish()

    def each(self, act: Callable[[_T], _R], over: Sequence[_T], *, at_once: int = 1) -> Iterator[tuple[_T, _R]]:
        """OVER with what ACT makes of each, on as many threads as there are jobs; one takes AT_ONCE of them."""
        if self.jobs == 1:
            yield from ((item, act(item)) for item in over)
            return

        def some(items: Sequence[_T]) -> list[tuple[_T, _R]]:
            return [(item, act(item)) for item in items]

        with ThreadPoolExecutor(self.jobs) as pool:
            pending: deque[Future[list[tuple[_T, _R]]]] = deque()
            for start in range(0, len(over), at_once):
                pending.append(pool.submit(some, over[start : start + at_once]))
                if len(pending) > 2 * self.jobs:
                    yield from pending.popleft().result()
            for future in pending:
                yield from future.result()

    # -- what objects are used for --------------------

    def read_layers(self) -> None:
        whole: list[LayerRecord] = []
        for link in self.repository.links(self.repository.layers):
            path = f"{names.LAYERS}/{link.file}"
            if names.layer_called(link.file) is None:
                self.stray(path, "no layer has this name")
            elif link.object is None:
                self.note(path, "it leads to no object", link.file)
            elif self.need(link.object.digest):
                record = self.repository.layer(link.file)
                if record is None:
                    self.note(path, "it leads to something else than this layer's record", link.file)
                    continue
                self.layers[link.file] = record
                # Each has to be noted, so none may end the search.
                if not sum(not self.need(name.digest, size) for name, size in record.contents()):
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

    def read_images(self) -> set[str]:
        """The composefs images that may be mounted and can be read."""
        found = set()
        for link in self.repository.links(self.repository.images):
            path = f"{names.IMAGES}/{link.file}"
            name = names.image_called(link.file)
            if name is None:
                self.stray(path, "no image has this name")
            elif link.object != name:
                self.note(path, "it leads to another object than its name says, or to none", link.file)
            elif self.need(name.digest):
                try:
                    wrong = self.wrong_contents(name)
                except InvalidImage as refused:
                    self.note(path, f"the composefs image is missing or damaged: {refused.why}", link.file)
                    continue
                found.add(link.file)
                for digest, size in wrong:
                    self.need(digest, size)
        return found

    def wrong_contents(self, image: ObjectId) -> list[tuple[bytes, int]]:
        """What the composefs image names and the store has not, or not of that size. Raises InvalidImage."""
        data = self.read(image)
        return [(digest, size) for digest, size in reader.objects(data) if self.sizes.get(digest) != size]

    def read(self, name: ObjectId) -> memoryview:
        """The content of an object, once in memory; nothing if it is not what its name says any more."""
        data, at = memoryview(b""), 0
        with suppress(OSError), self.repository.objects.opened(name) as fd:
            data = memoryview(bytearray(os.fstat(fd).st_size))
            while size := os.preadv(fd, [data[at:]], at):
                at += size
        return data if name_of(data, self.repository.objects.algorithm) == name else data[:0]

    def read_references(self, images: Collection[str]) -> dict[str, tuple[Link, ImageRecord | None]]:
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
            elif self.need(link.object.digest):
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
                    name, hex_name = record.composefs.object, record.composefs.object.hex
                    self.need(name.digest, record.composefs.size)
                    if hex_name not in images and self.sound(name.digest):
                        self.note(f"{names.IMAGES}/{hex_name}", "it is missing", hex_name)
        return found

    def record_fault(self, record: ImageRecord) -> str | None:
        """Why the record does not fit its manifest and config, or None; also None where one of them is damaged."""
        objects = self.repository.objects
        if not all([self.need(one.object.digest, one.size) for one in (record.manifest, record.config)]):  # noqa: C419 - both are noted
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

    def needers(self, references: Mapping[str, tuple[Link, ImageRecord | None]]) -> tuple[dict[_Key, set[str]], int]:
        """Which references need what something was found of, and how many sound objects none of them needs."""
        found: dict[_Key, set[str]] = {key: set() for _, _, key in self.findings}
        unneeded: set[_Key] = set(self.sizes)
        unneeded.difference_update(self.bad)
        for reference, (link, record) in references.items():
            for key in self.needed(link, record):
                unneeded.discard(key)
                if key in found:
                    found[key].add(reference)
        return found, len(unneeded)

    def needed(self, link: Link, record: ImageRecord | None) -> Iterator[_Key]:
        """What a reference needs: objects, and files in refs/, layers/ and images/."""
        yield link.file
        if link.object:
            yield link.object.digest
        if record is None:
            return
        yield from (record.manifest.object.digest, record.config.object.digest)
        if record.composefs:
            yield from (record.composefs.object.digest, record.composefs.object.hex)
        for diff_id in map(str, record.diff_ids):
            yield diff_id
            name = self.repository.follow(self.repository.layers, diff_id)
            if name:
                yield name.digest
            if diff_id in self.layers:
                yield from (content.digest for content, _ in self.layers[diff_id].contents())


def _path(digest: bytes) -> str:
    return f"{names.OBJECTS}/{ObjectId.of(digest).path}"


def _digest(data: bytes, like: Digest) -> Digest:
    return Digest(like.algorithm, hashlib.new(like.algorithm, data).hexdigest())
