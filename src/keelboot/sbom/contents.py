"""The packages of an image, out of its layers: no file of it is written anywhere.

/var/lib/dpkg/status       dpkg's database; in an image that boots, a link to /usr/lib/sysimage/dpkg leads there
/var/lib/dpkg/status.d/*   a file for each package, where there is no dpkg
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from keelboot.failure import UnsupportedDistribution
from keelboot.image.archive import Entry
from keelboot.image.layers import LayerReader, collect, empty_root, reading_step
from keelboot.image.opened import Image
from keelboot.image.refusal import Refused, refusing
from keelboot.image.release import PATHS, Release, read_release
from keelboot.image.tree import Directory, External, ObjectId, Regular, resolve
from keelboot.progress import SILENT, Progress
from keelboot.sbom.dpkg import Package, parse_status

_DPKG: Final = ("/var/lib/dpkg", "/usr/lib/sysimage/dpkg")
_OTHERS: Final = {
    "/usr/lib/sysimage/rpm": "rpm",
    "/var/lib/rpm": "rpm",
    "/usr/share/rpm": "rpm",
    "/lib/apk/db/installed": "apk",
    "/usr/lib/apk/db/installed": "apk",
    "/var/lib/pacman/local": "pacman",
}
_SIZE_MAX = 64 << 20  # bytes of a database; Debian's own with all of a desktop has 8
_KEPT_MAX = 256 << 20  # of all layers together


@dataclass(frozen=True, slots=True)
class Contents:
    """What an image is made of."""

    release: Release
    packages: tuple[Package, ...]


def read_contents(image: Image, progress: Progress = SILENT) -> Contents:
    """The packages of IMAGE. Every layer is read and verified. Raises InvalidImage, UnsupportedDistribution."""
    sink = _Sink()
    root = empty_root()
    reader = LayerReader(image)
    with reading_step(image, progress) as step:
        for number in range(len(image.layers)):
            with reader.entries(number, step) as entries:
                collect(sink.watch(entries), sink).apply(root)
    release = read_release(root, sink.read)
    with refusing(image.reference, "its package database"):
        return Contents(release, _packages(image, root, sink))


def _packages(image: Image, root: Directory, sink: "_Sink") -> tuple[Package, ...]:
    for place in _DPKG:
        status = resolve(root, f"{place}/status")
        if isinstance(status, Regular) and status.size:
            return parse_status(sink.read(status))
        pieces = resolve(root, f"{place}/status.d")
        if isinstance(pieces, Directory):
            files = [node for name, node in sorted(pieces.children.items()) if not name.endswith(b".md5sums")]
            return parse_status(b"\n\n".join(sink.read(node) for node in files if isinstance(node, Regular)))
    other = next((name for path, name in _OTHERS.items() if resolve(root, path) is not None), None)
    raise UnsupportedDistribution(
        f"cannot list the packages of {image.reference}",
        why=f"they are in {other}'s database, which is not supported" if other else "it has no package database",
        fix="Only dpkg's is read (Debian, Ubuntu). For others, let syft list them, and `keelboot attest` it.",
    )


class _Sink:
    """A ContentSink that keeps what may be a package database, by the name of the file."""

    def __init__(self) -> None:
        self._name = b""
        self._kept: dict[ObjectId, bytes | None] = {}
        self._size = 0

    def watch(
        self, entries: Iterable[tuple[Entry, Iterable[memoryview]]]
    ) -> Iterator[tuple[Entry, Iterable[memoryview]]]:
        """ENTRIES, as they are, with a look at their names."""
        for entry, content in entries:
            self._name = entry.name
            yield entry, content

    def add(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:
        name = ObjectId.of(len(self._kept).to_bytes(32, "big"))  # nothing is stored: one name is as good as another
        if not _interesting(self._name):
            for _ in chunks:
                pass
            self._kept[name] = None
            return name
        if size > _SIZE_MAX or self._size + size > _KEPT_MAX:
            raise Refused(f"{self._name[:200]!a} has {size} bytes; no package database has so many")
        self._size += size
        self._kept[name] = b"".join(chunks)
        return name

    def read(self, node: Regular) -> bytes:
        """The content of NODE. Raises Refused where it was not kept: a link from elsewhere leads to it."""
        if not isinstance(node.content, External):
            return node.content
        data = self._kept[node.content.object]
        if data is None:
            raise Refused("it leads to a file that is none")
        return data


def _interesting(name: bytes) -> bool:
    parts = name.split(b"/")
    database = b"dpkg" in parts[:-1] and (parts[-1] == b"status" or parts[-2:-1] == [b"status.d"])
    return database or parts[-1] in {path.rpartition("/")[2].encode() for path in PATHS}
