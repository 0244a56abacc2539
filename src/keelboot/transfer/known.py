"""What earlier transfers of this user came to, so that the next one need not: a cache, of which nothing is missed.

    compressed    by packer, then by the digest of a layer's content: the digest and size it was packed to
    places        by the digest of a blob: repositories that have it, the last one seen last

A wrong entry costs a request: a blob is asked for under the digest it is said to have, and not taken to be there. The
bookmarks of uploads are beside it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from keelboot import durable
from keelboot.image.digest import Digest
from keelboot.image.documents import Descriptor
from keelboot.registry.name import Name
from keelboot.transfer.bookmarks import Bookmarks

_VERSION: Final = 1
_ENTRIES_MAX: Final = 5000  # of each kind; the oldest go
_PLACES_MAX: Final = 4  # of one blob
_FILE_MAX: Final = 16 << 20  # bytes


class Known:
    """The cache in FILE; None for one that nobody keeps."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.bookmarks = Bookmarks(file.with_name("uploads") if file else None)
        value = _read(file) if file else {}
        self._compressed: dict[str, dict[str, list[Any]]] = value.get("compressed", {})
        self._places: dict[str, list[str]] = value.get("places", {})

    def compressed(self, content: Digest, packer: str, media_type: str) -> Descriptor | None:
        """What PACKER made of the layer with CONTENT."""
        entry = self._compressed.get(packer, {}).get(str(content))
        try:
            return Descriptor(media_type, Digest.parse(entry[0]), int(entry[1])) if entry else None
        except (ValueError, TypeError, IndexError):
            return None

    def learn_compressed(self, content: Digest, packer: str, packed: Descriptor) -> None:
        """Remember what PACKER made of CONTENT; other packers are forgotten."""
        self._compressed = {packer: self._compressed.get(packer, {})}
        self._compressed[packer][str(content)] = [str(packed.digest), packed.size]

    def places(self, blob: Digest, host: str) -> list[str]:
        """Paths of repositories at HOST that had BLOB, the last one seen first."""
        found = self._places.get(str(blob), [])
        names = [name.partition("/") for name in found if isinstance(name, str)]
        return [path for known, _, path in reversed(names) if known == host and path]

    def learn_places(self, name: Name, blobs: Iterable[Digest]) -> None:
        """Remember that the repository NAME has BLOBS."""
        for blob in blobs:
            others = [other for other in self._places.pop(str(blob), []) if other != str(name)]
            self._places[str(blob)] = [*others, str(name)][-_PLACES_MAX:]

    def save(self) -> None:
        """Keep it; where that cannot be done, nothing is lost but time."""
        if self._file is None:
            return
        value = {
            "version": _VERSION,
            "compressed": {packer: _newest(entries) for packer, entries in self._compressed.items()},
            "places": _newest(self._places),
        }
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with durable.replacing(self._file, mode=0o600) as file:
                file.write(json.dumps(value, indent=0).encode())
        except OSError:
            return


def _newest(entries: Mapping[str, Any]) -> dict[str, Any]:
    return dict(list(entries.items())[-_ENTRIES_MAX:])


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            value = json.loads(opened.read(_FILE_MAX))
    except (OSError, ValueError, RecursionError):
        return {}
    parts = (value.get("compressed"), value.get("places")) if isinstance(value, dict) else ()
    shaped = len(parts) == 2 and all(isinstance(part, dict) for part in parts)
    if not shaped or value.get("version") != _VERSION:
        return {}
    inner = value["compressed"].values()
    return value if all(isinstance(one, dict) for one in inner) else {}
