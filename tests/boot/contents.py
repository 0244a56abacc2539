"""Which objects an image is made of, found out on this computer: what a machine's store is compared with."""

from collections.abc import Iterable
from dataclasses import dataclass

from keelboot.composefs.verity import Hasher
from keelboot.image import layers
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.image.tree import External, ObjectId, Regular, walk


class _Names:
    """A ContentSink that keeps names."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def add(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:  # noqa: ARG002 - the port's
        hasher = Hasher()
        for chunk in chunks:
            hasher.update(chunk)
        name = hasher.finish().object
        self.seen.add(name.hex)
        return name


@dataclass(frozen=True)
class Contents:
    """Objects by their names: those that the image's files are, and with them those that a higher layer hides."""

    files: frozenset[str]
    layers: frozenset[str]


def contents_of(name: str) -> Contents:
    """Those of the image NAME of podman's store."""
    sink = _Names()
    with open_image(Reference.parse(f"containers-storage:{name}")) as image:
        tree = layers.read_tree(image, sink)
    files = {
        node.content.object.hex
        for _, node in walk(tree)
        if isinstance(node, Regular) and isinstance(node.content, External)
    }
    return Contents(frozenset(files), frozenset(sink.seen))
