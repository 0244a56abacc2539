"""The layer record: a layer's archive, in which each content that is an object is only named.

Put together again with its objects it is the archive to the byte, which the layer's DiffID proves. Read without them,
it gives the same entries as the archive did, so that a layer is read once. Format: docs/formats/layer-record.md.
"""

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Final, Self

from keelboot.image import layers
from keelboot.image.archive import Archive, Limits
from keelboot.image.changes import Changes
from keelboot.image.compression import BLOCK, Compression, decompress
from keelboot.image.digest import Digest
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import Members, parse
from keelboot.image.tree import ObjectId

VERSION: Final = 1
_MEMBERS = ("version", "diff-id", "digest-size", "contents")
_HEADER_MAX = 1024
_ROW = struct.Struct("<QQ")  # bytes of the archive before this content and after the one before it; bytes of it
_LEVEL = 1  # of zlib: headers are so alike that more gains little
_GATHERED = 64 << 10
_ZEROS = bytes(BLOCK)


class Recorder:
    """Makes the record of a layer while its archive is read.

    `seen` gets each block before it is parsed, `content` and `named` frame each content that becomes an object.
    """

    def __init__(self, diff_id: Digest) -> None:
        self._diff_id = diff_id
        self._table = bytearray()
        self._contents = 0
        self._digest_size = 0
        self._compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
        self._gathered = bytearray()
        self._packed: list[bytes] = []
        self._block = memoryview(b"")  # the current one, which starts at `_start` of the archive
        self._start = 0
        self._passed = 0  # of the current block, and beyond it while a content goes on
        self._before = 0

    def seen(self, block: bytes) -> None:
        """Take in the archive's next block."""
        length = len(self._block)
        self._keep(length)
        self._start += length
        self._passed -= length
        self._block = memoryview(block)

    def content(self, position: int, size: int) -> None:
        """From POSITION of the archive, SIZE bytes become an object."""
        begin = position - self._start
        self._keep(begin)
        self._table += _ROW.pack(self._before, size)
        self._before = 0
        self._passed = begin + size

    def named(self, name: ObjectId) -> None:
        """Say which object it became."""
        self._table += name.digest
        self._digest_size = len(name.digest)
        self._contents += 1

    def finish(self) -> list[bytes | bytearray]:
        """The record, in pieces."""
        self._keep(len(self._block))
        self._packed += (self._compressor.compress(self._gathered), self._compressor.flush())
        header = {
            "version": VERSION,
            "diff-id": str(self._diff_id),
            "digest-size": self._digest_size,
            "contents": self._contents,
        }
        return [json.dumps(header).encode() + b"\n", self._table, *self._packed]

    def _keep(self, end: int) -> None:
        """Have in the record what was not passed of the current block, up to END of it."""
        if end <= self._passed:
            return
        self._gathered += self._block[self._passed : end]
        self._before += end - self._passed
        self._passed = end
        if len(self._gathered) >= _GATHERED:
            self._packed.append(self._compressor.compress(self._gathered))
            self._gathered = bytearray()


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """The record of the layer `diff_id`, read back."""

    diff_id: Digest
    digest_size: int
    table: memoryview
    packed: memoryview  # what of the archive is not in objects, as gzip

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The value that DATA is; its archive is not expanded yet. Raises Refused."""
        line, newline, _ = data[:_HEADER_MAX].partition(b"\n")
        if not newline:
            raise Refused("it has no header")
        members = Members(parse(line), "", _MEMBERS)
        if members.integer("version") != VERSION:
            raise Refused(f"it is a layer record of version {members.integer('version')}")
        size, contents = members.integer("digest-size"), members.integer("contents")
        try:
            diff_id = Digest.parse(members.required_text("diff-id"))
        except ValueError as error:
            raise Refused(str(error)) from error
        start = len(line) + 1
        end = start + contents * (_ROW.size + size)
        if (contents and size not in (32, 64)) or end >= len(data):
            raise Refused("its table is cut off")
        view = memoryview(data)
        return cls(diff_id, size, view[start:end], view[end:])

    def contents(self) -> Iterator[tuple[ObjectId, int]]:
        """Each content that is an object, in the order of the archive, with its size in bytes."""
        return ((name, size) for _, size, name in self.rows())

    def changes(self, limits: Limits) -> tuple[Changes, Limits]:
        """What the layer changes, as its archive said it, and what is left of LIMITS. Raises Refused."""
        source = _Source(self)
        archive = Archive(source.blocks(), limits, skip=source.skip)
        changes = layers.collect(archive, _Named(self, archive))
        return changes, archive.remaining

    def archive(self, read: Callable[[ObjectId], Iterable[bytes]]) -> Iterator[bytes | memoryview]:
        """The layer's archive, with each content as READ gives it. Raises Refused, and what READ raises."""
        rest = _Rest(self.packed)
        for before, _, name in self.rows():
            yield from rest.take(before)
            yield from read(name)
        yield from rest.all()

    def rows(self) -> Iterator[tuple[int, int, ObjectId]]:
        """The table: bytes of the archive before a content, bytes of it, its name."""
        step = _ROW.size + self.digest_size
        for at in range(0, len(self.table), step):
            before, size = _ROW.unpack_from(self.table, at)
            yield before, size, ObjectId.of(bytes(self.table[at + _ROW.size : at + step]))


class _Rest:
    """What of the archive is not in objects, in order."""

    def __init__(self, packed: memoryview) -> None:
        self._blocks = decompress(BytesIO(packed), Compression.GZIP)
        self._left = memoryview(b"")

    def take(self, size: int) -> Iterator[memoryview]:
        while size:
            if not self._left:
                block = next(self._blocks, None)
                if block is None:
                    raise Refused("it is cut short")
                self._left = memoryview(block)
            taken = self._left[:size]
            self._left = self._left[size:]
            size -= len(taken)
            yield taken

    def all(self) -> Iterator[memoryview]:
        yield self._left
        yield from (memoryview(block) for block in self._blocks)


class _Source:
    """A record as an archive's blocks: contents are zeros, which the archive passes over."""

    def __init__(self, record: LayerRecord) -> None:
        self._record = record
        self._skipped = 0

    def blocks(self) -> Iterator[bytes]:
        rest = _Rest(self._record.packed)
        for before, size, _ in self._record.rows():
            for part in rest.take(before):
                yield bytes(part)
            left = size - self._take_skipped()
            while left > 0:
                block = _ZEROS[:left]
                yield block
                left -= len(block) + self._take_skipped()
        for part in rest.all():
            yield bytes(part)

    def skip(self, size: int) -> None:
        self._skipped += size

    def _take_skipped(self) -> int:
        skipped, self._skipped = self._skipped, 0
        return skipped


class _Named:
    """A ContentSink that knows the names already."""

    def __init__(self, record: LayerRecord, archive: Archive) -> None:
        self._rows = record.rows()
        self._archive = archive
        self._end = 0  # of the content before

    def add(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:  # noqa: ARG002 - the port's names
        before, recorded, name = next(self._rows, (0, -1, None))
        if name is None or recorded != size or self._end + before != self._archive.position:
            raise Refused("its table does not fit its archive")
        self._end = self._archive.position + size
        return name
