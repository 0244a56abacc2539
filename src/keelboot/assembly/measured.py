"""What a tree's files come to without keeping them: sizes, digests, and the bytes of those small enough to be read."""

from collections.abc import Iterable

from keelboot.composefs.verity import Algorithm, Hasher
from keelboot.image.tree import External, ObjectId, Regular


class Measured:
    """A ContentSink that keeps digests in ALGORITHM, sizes in bytes, and the bytes of files of at most KEPT bytes."""

    def __init__(self, *, kept: int, algorithm: Algorithm = "sha256") -> None:
        self._kept, self._algorithm = kept, algorithm
        self.sizes: dict[ObjectId, int] = {}
        self._small: dict[ObjectId, bytes] = {}

    def add(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:
        hasher = Hasher(self._algorithm)
        content = bytearray()
        for chunk in chunks:
            hasher.update(chunk)
            if size <= self._kept:
                content += chunk
        name = hasher.finish().object
        self.sizes[name] = size
        if size <= self._kept:
            self._small[name] = bytes(content)
        return name

    def read(self, node: Regular) -> bytes | None:
        """The bytes of NODE, of a tree whose contents went through here; None where there are too many."""
        return self._small.get(node.content.object) if isinstance(node.content, External) else node.content
