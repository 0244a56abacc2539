"""What an image needs outside of the store, said in a label, so that a machine knows it before it fetches a layer.

    io.keelboot.needs = layers=sha256:HEX kernel=sha256:HEX,BYTES initramfs=sha256:HEX,BYTES [var/PATH=BYTES]...

Labels are inherited: an image built on one that has the label has it too, and may have another kernel. So it names the
layers that were measured, and counts for no others. docs/formats/needs-label.md says more.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate
from typing import Final, Self
from urllib.parse import quote_from_bytes, unquote_to_bytes

from keelboot.image import bootable
from keelboot.image.digest import Digest
from keelboot.image.documents import Config
from keelboot.image.tree import Directory, External, ObjectId, Regular, resolve, walk

LABEL: Final = "io.keelboot.needs"
FACTORY: Final = "/usr/share/factory/var"  # what the finish stage put there is copied into /var at the first boot
_SEEDS_MAX = 64
_PATH_MAX = 256  # characters of a path as it is written
_TEXT_MAX = 400 + _SEEDS_MAX * (_PATH_MAX + 32)
_FILE = re.compile(r"(sha256:[0-9a-f]{64}),([1-9][0-9]{0,18})")
_SEED = re.compile(r"var/([^=]+)=([1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class File:
    """A file's content: its SHA-256 and its length in bytes."""

    digest: Digest
    size: int

    def __str__(self) -> str:
        return f"{self.digest},{self.size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Kernel and initramfs, which go to the ESP, and what /var gets: bytes by the path below it, of two parts at most.

    LAYERS is the `chain_id` of the image that was measured.
    """

    layers: Digest
    kernel: File
    initramfs: File
    var: Mapping[bytes, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` gives. Raises ValueError for everything else."""
        words = text.split(" ") if len(text) <= _TEXT_MAX else []
        if len(words) < 3:
            raise ValueError("not what a label says of an image's needs")
        layers, kernel, initramfs = (
            _valued(word, name) for word, name in zip(words, ("layers", "kernel", "initramfs"), strict=False)
        )
        parsed = cls(
            layers=Digest.parse(layers),
            kernel=_file(kernel),
            initramfs=_file(initramfs),
            var=dict(map(_seed, words[3:])),
        )
        if str(parsed) != text:  # a path twice, in another order, or in other characters
            raise ValueError("not in the one form that it has")
        return parsed

    def __str__(self) -> str:
        words = [f"layers={self.layers}", f"kernel={self.kernel}", f"initramfs={self.initramfs}"]
        return " ".join([*words, *(f"var/{_written(path)}={size}" for path, size in sorted(self.var.items()))])


class Contents:
    """A ContentSink that keeps of each content its SHA-256 alone."""

    def __init__(self) -> None:
        self._digests: dict[ObjectId, str] = {}

    def __contains__(self, name: ObjectId) -> bool:
        return name in self._digests

    def add(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:  # noqa: ARG002 - the port's
        digest = hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
        name = ObjectId(f"{len(self._digests):064x}")
        self._digests[name] = digest.hexdigest()
        return name

    def sha256(self, content: External) -> str:
        """In hex."""
        return self._digests[content.object]


def stated(config: Config) -> Needs | None:
    """What the label in CONFIG says; None where there is none, it is malformed, or was made of other layers."""
    needs, layers = inherited(config)
    return needs if layers == len(config.diff_ids) else None


def inherited(config: Config) -> tuple[Needs | None, int]:
    """What the label in CONFIG says of the lowest layers, and of how many; None and 0 where it does of none."""
    try:
        needs = Needs.parse(config.labels.get(LABEL, ""))
    except ValueError:
        return None, 0
    chains = accumulate(config.diff_ids, _chained)
    return next(((needs, number) for number, chain in enumerate(chains, 1) if chain == needs.layers), (None, 0))


def measure(tree: Directory, diff_ids: Sequence[Digest], sha256: Callable[[External], str]) -> Needs | None:
    """What the image with TREE and DIFF_IDS needs; SHA256 gives a content's digest in hex. None: it does not boot.

    What does not fit into the label is left out of `var`, the smallest first.
    """
    versions = bootable.examine(tree, labels={}).kernel_versions
    if len(versions) != 1:
        return None
    files = []
    for name in (bootable.KERNEL, bootable.INITRAMFS):
        node = resolve(tree, f"{bootable.MODULES}/{versions[0]}/{name.decode()}")
        if not isinstance(node, Regular) or not isinstance(node.content, External):
            return None
        files.append(File(Digest("sha256", sha256(node.content)), node.size))
    sizes: dict[bytes, int] = {}
    for path, size in seeds(tree):
        top = b"/".join(path.split(b"/")[1:3])
        sizes[top] = sizes.get(top, 0) + size
    fitting = [(path, size) for path, size in sizes.items() if size and len(_written(path)) <= _PATH_MAX]
    largest = sorted(fitting, key=lambda one: (-one[1], one[0]))[:_SEEDS_MAX]
    return Needs(layers=chain_id(diff_ids), kernel=files[0], initramfs=files[1], var=dict(largest))


def seeds(tree: Directory) -> Iterator[tuple[bytes, int]]:
    """The files that the first boot of TREE copies into /var: each one's path there, from `/` on, and its bytes."""
    factory = resolve(tree, FACTORY)
    if isinstance(factory, Directory):
        yield from ((path, node.size) for path, node in walk(factory) if isinstance(node, Regular))


def chain_id(diff_ids: Sequence[Digest]) -> Digest:
    """The one digest of layers on top of each other, lowest first (OCI image specification, config.md, "ChainID").

    Raises ValueError where there are none.
    """
    if not diff_ids:
        raise ValueError("no layers")
    return reduce(_chained, diff_ids)


def _chained(below: Digest, layer: Digest) -> Digest:
    return Digest.of(f"{below} {layer}".encode())


def _valued(word: str, name: str) -> str:
    before, found, value = word.partition("=")
    if before != name or not found:
        raise ValueError(f"not {name}: {word[:80]!a}")
    return value


def _file(value: str) -> File:
    found = _FILE.fullmatch(value)
    if not found:
        raise ValueError(f"not a file's digest and size: {value[:80]!a}")
    return File(Digest.parse(found[1]), int(found[2]))


def _seed(word: str) -> tuple[bytes, int]:
    found = _SEED.fullmatch(word)
    path = unquote_to_bytes(found[1]) if found else b""
    parts = path.split(b"/")
    if not found or len(parts) > 2 or set(parts) & {b"", b".", b".."} or b"\0" in path or len(found[1]) > _PATH_MAX:
        raise ValueError(f"not a path in /var and a size: {word[:80]!a}")
    return path, int(found[2])


def _written(path: bytes) -> str:
    """PATH in characters that no Containerfile and no shell gives a meaning to."""
    return quote_from_bytes(path, safe="/")
