"""Reading a record gives what reading the archive gave, and with its objects it is the archive to the byte."""

import hashlib
import random
from collections.abc import Iterable, Iterator

import pytest

from keelboot.image import layers
from keelboot.image.archive import Archive, Limits
from keelboot.image.digest import Digest
from keelboot.image.refusal import Refused
from keelboot.image.tree import Directory, External, Node, ObjectId, Regular, walk
from keelboot.store.layerrecord import LayerRecord, Recorder
from keelboot.store.naming import name_of
from small_images import BASE, CHANGE, archive


class Contents:
    """A sink in memory, which tells the recorder what goes through."""

    def __init__(self, entries: Archive, recorder: Recorder) -> None:
        self.entries, self.recorder = entries, recorder
        self.known: dict[ObjectId, bytes] = {}

    def add(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:
        self.recorder.content(self.entries.position, size)
        data = b"".join(chunks)
        name = name_of(data, "sha256")
        self.recorder.named(name)
        self.known[name] = data
        return name


def record(data: bytes, block: int) -> tuple[bytes, dict[ObjectId, bytes], Directory]:
    """The record of the layer DATA, read in blocks of some size; its contents; what it makes of an empty root."""
    recorder = Recorder(Digest("sha256", hashlib.sha256(data).hexdigest()))

    def blocks() -> Iterator[bytes]:
        for at in range(0, len(data), block):
            recorder.seen(data[at : at + block])
            yield data[at : at + block]

    entries = Archive(blocks())
    sink = Contents(entries, recorder)
    root = layers.empty_root()
    layers.collect(entries, sink).apply(root)
    return b"".join(recorder.finish()), sink.known, root


def shown(root: Directory) -> list[tuple[object, ...]]:
    def content(node: Node) -> object:
        return node.content if isinstance(node, Regular) else None

    return [(path, type(node), node.permissions, node.mtime, content(node)) for path, node in walk(root)]


def random_files(seed: int) -> dict[str, bytes | str | None]:
    rng = random.Random(seed)
    files: dict[str, bytes | str | None] = {"d" * 150: None}
    for number in range(rng.randrange(1, 40)):
        size = rng.choice([0, 1, 64, 65, 447, 448, 449, 511, 512, 513, 5000, 70_000, 1_200_000])
        files[f"{'d' * 150}/{number}"] = rng.randbytes(size)
    return files


@pytest.mark.parametrize("block", [97, 512, 700, 65536, 1 << 20])
@pytest.mark.parametrize("files", [BASE, CHANGE, {}], ids=["base", "change", "empty"])
def test_says_what_the_archive_said(files: dict[str, bytes | str | None], block: int) -> None:
    check(archive(files), block)


@pytest.mark.parametrize("seed", range(12))
def test_random_archives(seed: int) -> None:
    check(archive(random_files(seed)), random.Random(seed).choice([100, 512, 4096, 1 << 20]))


def check(data: bytes, block: int) -> None:
    packed, known, root = record(data, block)
    found = LayerRecord.parse(packed)
    assert b"".join(found.archive(lambda name: [known[name]])) == data
    assert dict(found.contents()) == {name: len(content) for name, content in known.items()}
    again = layers.empty_root()
    changes, left = found.changes(Limits())
    changes.apply(again)
    assert shown(again) == shown(root)
    assert left.entries < Limits().entries or not known
    externals = [node.content for _, node in walk(again) if isinstance(node, Regular)]
    assert all(known[one.object] for one in externals if isinstance(one, External))


def test_contents_are_not_in_it() -> None:
    data = archive({"a": random.Random(1).randbytes(3_000_000), "b": random.Random(2).randbytes(5000)})
    packed, _, _ = record(data, 1 << 20)
    assert len(packed) < 1000


def test_limits_hold_as_for_the_archive() -> None:
    packed, _, _ = record(archive(BASE), 512)
    with pytest.raises(Refused, match="more than 3 entries"):
        LayerRecord.parse(packed).changes(Limits(entries=3))


def test_damage_is_refused_or_changes_nothing() -> None:
    """Records are named by their digest, so that damage is found before; this is the second line."""
    packed, known, _ = record(archive(BASE), 512)
    rng = random.Random(5)
    for _ in range(300):
        damaged = bytearray(packed)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            found = LayerRecord.parse(bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])]))
            again = layers.empty_root()
            found.changes(Limits())[0].apply(again)
            b"".join(found.archive(lambda name: [known.get(name, b"")]))
        except Refused:
            continue
