"""From the layers of an image to the tree of files they add up to, in one pass over each blob.

    blob -> bounded, hashed -> expanded, bounded, hashed -> entries -> contents to the sink, nodes to the tree
    `------------- a second thread -----------------'      `------------ the caller's thread ------------'

The pass that hashes is the pass that reads: nothing is read twice, and no tree is returned before the size and digest
of every blob and the digest of its expanded bytes were found right. Contents that were handed to the sink before a
refusal are objects that nothing names.
"""

import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from hashlib import new as new_hash
from typing import BinaryIO, Final, NamedTuple, Protocol

from keelboot.image import archive
from keelboot.image.archive import Archive, Entry, Kind
from keelboot.image.changes import Changes, is_whiteout
from keelboot.image.compression import Compression, decompress
from keelboot.image.opened import Image, Layer
from keelboot.image.readahead import read_ahead
from keelboot.image.refusal import Refused, refusing
from keelboot.image.tree import Directory, External, Node, ObjectId, Regular, Special, Symlink
from keelboot.progress import SILENT, Progress, Step

INLINE_MAX: Final = 64  # bytes; composefs' rule, on which digests of images depend
_SPECIAL = {Kind.CHARACTER: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}


class ContentSink(Protocol):
    """Where contents of files go."""

    def add(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:
        """Keep SIZE bytes, given in CHUNKS that are good until this returns; all of them have to be taken."""


class Cost(NamedTuple):
    """What reading layers took of the limits that hold for all of them together."""

    entries: int
    headers: int
    expanded: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What one image may cost."""

    layers: archive.Limits = field(default_factory=archive.Limits)  # all of them together
    expanded: int = 64 << 30  # bytes, of all layers together
    ratio: int = 200  # of one layer, expanded to compressed; software is near 3, logs near 30
    unrated: int = 256 << 20  # bytes that one layer may have whatever its ratio

    def cost(self, left: "Limits") -> Cost:
        """What was spent where LEFT is left."""
        entries, headers = self.layers.entries - left.layers.entries, self.layers.headers - left.layers.headers
        return Cost(entries, headers, self.expanded - left.expanded)

    def after(self, cost: Cost) -> "Limits | None":
        """What is left after COST; None where it is more than there is."""
        rest = Cost(self.layers.entries, self.layers.headers, self.expanded)
        entries, headers, expanded = (one - other for one, other in zip(rest, cost, strict=True))
        if min(entries, headers, expanded) < 0:
            return None
        return replace(self, layers=replace(self.layers, entries=entries, headers=headers), expanded=expanded)


def read_tree(
    image: Image, sink: ContentSink, progress: Progress = SILENT, *, limits: Limits | None = None, jobs: int = 2
) -> Directory:
    """The tree that IMAGE's layers add up to; contents of more than 64 bytes are in SINK.

    JOBS is 1 for no other thread. The root has mode 0755, owner 0 and time 0 where no layer says otherwise. Raises
    InvalidImage, MissingTool, and what the sink raises.
    """
    root = empty_root()
    reader = LayerReader(image, limits, jobs=jobs)
    with reading_step(image, progress) as step:
        for number in range(len(image.layers)):
            with reader.entries(number, step) as entries:
                collect(entries, sink).apply(root)
    return root


def empty_root() -> Directory:
    """What the lowest layer is applied to."""
    return Directory(permissions=0o755)


def reading_step(image: Image, progress: Progress) -> AbstractContextManager[Step]:
    """The step of reading IMAGE's layers, in bytes as they are stored."""
    return progress.step("Reading layers", total=sum(layer.descriptor.size for layer in image.layers))


def refusing_layer(image: Image, number: int) -> AbstractContextManager[None]:
    """Have refusals of IMAGE's layer NUMBER, counted from 0, raised as InvalidImage."""
    layer = f"layer {number + 1} of {len(image.layers)}, {image.layers[number].diff_id}"
    return refusing(image.reference, layer)


class LayerReader:
    """Reads layers of IMAGE one after another, all of them within LIMITS, of which it keeps what is left."""

    def __init__(self, image: Image, limits: Limits | None = None, *, jobs: int = 2) -> None:
        self.limits = limits or Limits()
        self._image, self._jobs = image, jobs

    @contextmanager
    def entries(self, number: int, step: Step, *, seen: Callable[[bytes], object] | None = None) -> Iterator[Archive]:
        """The entries of layer NUMBER, counted from 0; when all were taken, size and digests were found right.

        SEEN gets each block of the archive before it is parsed. Refusals are raised as InvalidImage.
        """
        layer = self._image.layers[number]
        with (
            refusing_layer(self._image, number),
            self._image.open_layer(layer) as stream,
        ):
            blob = _Blob(stream, layer, self.limits)
            with _blocks(blob, self._jobs) as blocks:
                entries = Archive(_advancing(blocks, blob, step, seen), self.limits.layers)
                yield entries
            expanded = self.limits.expanded - blob.expanded
            self.limits = replace(self.limits, layers=entries.remaining, expanded=expanded)


def collect(entries: Iterable[tuple[Entry, Iterable[memoryview]]], sink: ContentSink) -> Changes:
    """What the ENTRIES of one layer change; their contents go to SINK. Raises Refused."""
    changes = Changes()
    for entry, content in entries:
        place = changes.place(entry.name)
        if is_whiteout(place):
            if entry.kind is not Kind.FILE or entry.size:
                raise Refused(f"{place} has the name of a whiteout and is none: it is not an empty file")
            changes.hide(place)
        elif entry.kind is Kind.HARD_LINK:
            changes.put(place, changes.place(entry.link))
        else:
            changes.put(place, _node(entry, content, sink))
    return changes


def _node(entry: Entry, content: Iterable[memoryview], sink: ContentSink) -> Node:
    _, kind, permissions, uid, gid, size, mtime, mtime_nsec, link, rdev, xattrs = entry
    node: Node
    match kind:
        case Kind.FILE:
            node = Regular(content=External(sink.add(size, content), size) if size > INLINE_MAX else b"".join(content))
        case Kind.DIRECTORY:
            node = Directory()
        case Kind.SYMLINK:
            node = Symlink(target=link)
        case _:
            node = Special(kind=_SPECIAL[kind], rdev=rdev)
    node.permissions, node.uid, node.gid, node.mtime, node.mtime_nsec = permissions, uid, gid, mtime, mtime_nsec
    if xattrs:
        node.xattrs = xattrs
    return node


@contextmanager
def _blocks(blob: "_Blob", jobs: int) -> Iterator[Iterator[bytes]]:
    if jobs == 1:
        yield blob.blocks()
    else:
        with read_ahead(blob.blocks()) as blocks:
            yield blocks


def _advancing(
    blocks: Iterator[bytes], blob: "_Blob", step: Step, seen: Callable[[bytes], object] | None
) -> Iterator[bytes]:
    """BLOCKS, while STEP is told how much of the blob was read for them, and SEEN what they are."""
    told = 0
    for block in blocks:
        if seen:
            seen(block)
        yield block
        read = blob.read_bytes
        step.advance(read - told)
        told = read


class _Blob:
    """A layer's blob, verified while it is read."""

    def __init__(self, stream: BinaryIO, layer: Layer, limits: Limits) -> None:
        self._stream, self._layer = stream, layer
        self._hash = new_hash(layer.descriptor.digest.algorithm)
        rated = max(limits.unrated, limits.ratio * layer.descriptor.size)
        self._expanded_max = min(limits.expanded, rated)
        self.read_bytes = 0
        self.expanded = 0

    def read(self, size: int) -> bytes:
        """Up to SIZE bytes as they are stored; raises Refused when there are more than were announced."""
        try:
            data = self._stream.read(size)
        except OSError as error:
            raise Refused(f"it cannot be read ({error.strerror})") from error
        self.read_bytes += len(data)
        if self.read_bytes > self._layer.descriptor.size:
            raise Refused(f"it is longer than the {self._layer.descriptor.size} bytes of its descriptor")
        self._hash.update(data)
        return data

    def blocks(self) -> Iterator[bytes]:
        """The expanded bytes; after the last one, both digests have been compared."""
        layer, blob = self._layer, self._layer.descriptor
        plain = layer.compression is Compression.NONE and blob.digest.algorithm == layer.diff_id.algorithm
        expanded_hash = None if plain else new_hash(layer.diff_id.algorithm)
        for block in decompress(self, layer.compression):
            self.expanded += len(block)
            if self.expanded > self._expanded_max:
                raise Refused(f"it expands to more than {self._expanded_max} bytes")
            if expanded_hash:
                expanded_hash.update(block)
            yield block
        if self.read_bytes != blob.size:
            raise Refused(f"it has {self.read_bytes} bytes, its descriptor says {blob.size}")
        found = self._hash.hexdigest()
        if found != blob.digest.hex:
            raise Refused(f"its digest is {blob.digest.algorithm}:{found}, its descriptor says {blob.digest}")
        if expanded_hash:
            found = expanded_hash.hexdigest()
        if found != layer.diff_id.hex:
            raise Refused(
                f"its content has the digest {layer.diff_id.algorithm}:{found}, the config says {layer.diff_id}"
            )
