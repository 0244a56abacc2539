"""The layers of an image come into the store: each is read once, by whichever process is free, and applied in its turn.

    this process    layer - objects   layer - objects        tree of all layers
    others          layer - objects   layer - objects  - changes -'

Other processes (see `crew`) pay off where several layers of some size have to be read. Otherwise layers are read in
their order. Unless there is one job, each process has a thread that reads ahead. What is refused, and how it is told,
does not depend on who read it: the lowest layer that is wrong ends the work, and limits are counted in the order of
layers.
"""

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final

from keelboot.failure import InvalidImage
from keelboot.image.archive import Archive
from keelboot.image.changes import Changes
from keelboot.image.digest import Digest
from keelboot.image.layers import ContentSink, Cost, LayerReader, Limits, collect, empty_root, refusing_layer
from keelboot.image.refusal import Refused
from keelboot.image.transports import Image, Layer
from keelboot.image.tree import ObjectId
from keelboot.progress import Step
from keelboot.store.crew import Crew, Tell, crew
from keelboot.store.layerrecord import LayerRecord, Recorder
from keelboot.store.objects import Account, Objects
from keelboot.store.partial import Partials, forget, keeping
from keelboot.store.repository import Repository
from keelboot.store.writeback import Writeback

_SHARED_MIN: Final = 1 << 20  # bytes of a blob that are worth another process
# Seconds of reading that a power cut may take away, but for what its drafts keep. A sync costs little beside that.
SECURED_EACH: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Read:
    """What came of one layer."""

    changes: Changes
    record: ObjectId
    cost: Cost


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be read of `image` into the objects of `repository`: the layers without a record in `known`."""

    repository: Repository
    image: Image
    known: dict[int, tuple[ObjectId, LayerRecord]]
    limits: Limits

    def crew(self, jobs: int) -> AbstractContextManager[Crew]:
        """The processes that read beside this one, JOBS in all; to be entered before any thread is started."""
        sizes = {number: layer.descriptor.size for number, layer in enumerate(self.image.layers)}
        large = [number for number, size in sizes.items() if size >= _SHARED_MIN and number not in self.known]
        large.sort(key=lambda number: sizes[number], reverse=True)
        return crew(large, lambda tell: _There(self, tell), members=min(jobs, len(large)) - 1)


def planned(
    repository: Repository, image: Image, *, distrusted: Collection[ObjectId] = (), limits: Limits | None = None
) -> Plan:
    """How to read IMAGE: not the layers that have a record and all their objects; DISTRUSTED ones count as missing."""
    found = {number: whole_layer(repository, layer.diff_id, distrusted) for number, layer in enumerate(image.layers)}
    image = keeping(repository, image, [image.layers[number].descriptor for number in found if not found[number]])
    return Plan(repository, image, {number: known for number, known in found.items() if known}, limits or Limits())


def whole_layer(
    repository: Repository, diff_id: Digest, distrusted: Collection[ObjectId] = ()
) -> tuple[ObjectId, LayerRecord] | None:
    """The layer's record, if it is sound, and everything it names is there with its size and not DISTRUSTED."""
    name = repository.follow(repository.layers, str(diff_id))
    record = repository.layer(str(diff_id))
    if name is None or record is None or name in distrusted:
        return None
    objects = repository.objects
    whole = all(objects.size(name) == size and name not in distrusted for name, size in record.contents())
    return (name, record) if whole else None


def name_layers(repository: Repository, read: Iterable[tuple[Layer, ObjectId]]) -> None:
    """Let layers have their records, which are durable: they are never READ again. Durable when this returns."""
    read = list(read)
    for layer, record in read:
        repository.publish(repository.layers, str(layer.diff_id), record)
    repository.settle(repository.layers)
    forget(repository, [layer.descriptor for layer, _ in read])


class Reading:
    """Reads and applies the layers of PLAN, with OTHERS that share them. AHEAD says whether threads read ahead here.

    `root` is what the layers so far add up to. For each of them `records` has its record, and `reused` says whether it
    was not read.
    """

    def __init__(self, plan: Plan, others: Crew, step: Step, writeback: Writeback, *, ahead: bool) -> None:
        self.root = empty_root()
        self.records: list[ObjectId] = []
        self.reused: list[bool] = []
        self._plan, self._others, self._step = plan, others, step
        objects = plan.repository.objects
        self._reader = _Reader(objects, plan.image, _Here(objects, others, step, writeback), ahead=ahead)
        self._left = plan.limits
        self._ready: dict[int, _Read] = {}  # and not applied yet
        self._unsecured: dict[int, ObjectId] = {}  # records of layers that were read and not named
        self._secured = time.monotonic()
        self._coming: dict[int, Changes] = {}  # from other processes
        others.made = self._receive

    def run(self) -> None:
        """Do it. Raises InvalidImage, MissingTool and OSError, and Failure where another process was killed."""
        try:
            self._share()
            for number in range(len(self._plan.image.layers)):
                self._apply(number)
            for account in self._others.accounts():
                self._plan.repository.objects.include(Account(*account))
        finally:
            self._others.end()

    def _share(self) -> None:
        """Read what no other process takes."""
        while (number := self._others.take()) is not None:
            try:
                read = self._reader.read(number, self._plan.limits)
            except Exception as error:  # noqa: BLE001 - it is raised in its turn: a lower layer may be wrong as well
                self._others.failed(number, error)
            else:
                self._ready[number] = read
                self._secure(number, read.record)

    def _apply(self, number: int) -> None:
        recalled = self._recalled(number)
        read = recalled or self._read(number)
        left = self._left.after(read.cost)
        assert left
        with refusing_layer(self._plan.image, number):
            read.changes.apply(self.root)
        self._left = left
        self.records.append(read.record)
        self.reused.append(recalled is not None)

    def _recalled(self, number: int) -> _Read | None:
        """The layer as its record has it; None where there is none that can be relied on."""
        name, record = self._plan.known.pop(number, (None, None))
        if name is None or record is None:
            return None
        try:
            changes, left = record.changes(self._left.layers)
        except Refused:  # or over the limits; reading the layer tells the user which
            return None
        self._step.advance(self._plan.image.layers[number].descriptor.size)
        return _Read(changes, name, self._left.cost(replace(self._left, layers=left)))

    def _read(self, number: int) -> _Read:
        """The layer as its blob has it, within what is left of the limits."""
        if number in self._others.numbers:
            try:
                if number not in self._ready:
                    self._others.wait(number)
            except InvalidImage:
                if self._left == self._plan.limits:
                    raise
            else:
                read = self._ready.pop(number)
                if self._left.after(read.cost):
                    return read
            # It was read within limits of its own. Where it ends with what the layers below left, only reading tells.
        read = self._reader.read(number, self._left)
        self._secure(number, read.record)
        return read

    def _receive(self, number: int, value: bytes | tuple[bytes, tuple[int, int, int]]) -> None:
        """Take in what another process gave of a layer it reads: its changes, piece by piece, and last the rest."""
        changes = self._coming.setdefault(number, Changes())
        if isinstance(value, bytes):
            changes.unpack(value)
        else:
            record, cost = value
            self._ready[number] = _Read(self._coming.pop(number), ObjectId.of(record), Cost(*cost))
            self._secure(number, self._ready[number].record)

    def _secure(self, number: int, record: ObjectId) -> None:
        """Note that a layer was read; where reading takes long, name it at once, so that no cut takes it away."""
        self._unsecured[number] = record
        if time.monotonic() - self._secured < SECURED_EACH:
            return
        repository, layers = self._plan.repository, self._plan.image.layers
        repository.barrier()
        name_layers(repository, [(layers[one], name) for one, name in self._unsecured.items()])
        self._unsecured.clear()
        self._secured = time.monotonic()


class _Reader:
    """Reads single layers of IMAGE into OBJECTS."""

    def __init__(self, objects: Objects, image: Image, step: Step, *, ahead: bool) -> None:
        self._objects, self._image, self._step, self._ahead = objects, image, step, ahead

    def read(self, number: int, limits: Limits) -> _Read:
        """The layer as its blob has it. Raises InvalidImage, MissingTool and OSError."""
        try:
            return self._once(number, limits)
        except InvalidImage:
            blobs = self._image.blobs
            if not isinstance(blobs, Partials) or not blobs.distrust(self._image.layers[number].descriptor):
                raise
            return self._once(number, limits)  # what was kept of it may have been what is wrong

    def _once(self, number: int, limits: Limits) -> _Read:
        layers = LayerReader(self._image, limits, jobs=2 if self._ahead else 1)
        recorder = Recorder(self._image.layers[number].diff_id)
        with layers.entries(number, self._step, seen=recorder.seen) as entries:
            changes = collect(entries, Recording(self._objects, entries, recorder))
        record = self._objects.put(recorder.finish())
        return _Read(changes, record.object, limits.cost(layers.limits))


class Recording:
    """A ContentSink between an archive and the objects, which tells the record of its layer about both."""

    def __init__(self, objects: ContentSink, archive: Archive, recorder: Recorder) -> None:
        self._objects, self._archive, self._recorder = objects, archive, recorder

    def add(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:
        self._recorder.content(self._archive.position, size)
        name = self._objects.add(size, chunks)
        self._recorder.named(name)
        return name


class _Here:
    """The step of this process, which at each turn hears how far the others are."""

    def __init__(self, objects: Objects, others: Crew, step: Step, writeback: Writeback) -> None:
        self._objects, self._others, self._step, self._writeback = objects, others, step, writeback
        self._elsewhere = 0  # bytes that others added
        others.heard = self._heard

    def advance(self, amount: int) -> None:
        self._others.hear()
        self._heard(amount, 0)

    def _heard(self, amount: int, added: int) -> None:
        self._elsewhere += added
        self._step.advance(amount)
        self._writeback.added(self._objects.added_bytes + self._elsewhere)


class _There:
    """The work of another process, and its step."""

    def __init__(self, plan: Plan, tell: Tell) -> None:
        objects = plan.repository.objects
        self._objects = Objects(objects.fd, objects.algorithm)
        self._reader = _Reader(self._objects, plan.image, self, ahead=True)
        self._limits, self._tell = plan.limits, tell
        self._told = 0

    def advance(self, amount: int) -> None:
        added = self._objects.added_bytes
        self._tell(amount, added - self._told)
        self._told = added

    def do(self, number: int) -> Iterator[Any]:
        read = self._reader.read(number, self._limits)
        yield from read.changes.packed()
        yield read.record.digest, tuple(read.cost)

    def account(self) -> tuple[Any, ...]:
        return tuple(self._objects.account())
