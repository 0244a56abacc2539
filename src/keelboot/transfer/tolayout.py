"""Copies into a directory in OCI's image layout (image-layout.md of the specification), a new one or beside others.

cut after               is left behind                                  cleared by
some blobs              files named by their digest, named by nothing   the same copy again goes on with them
blobs and documents     the same                                        the same
index.json              the image                                       -
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import new as new_hash
from pathlib import Path
from typing import Any, BinaryIO

from keelboot import durable
from keelboot.failure import InvalidImage, NotWritable
from keelboot.image.checked import checked
from keelboot.image.documents import OCI_INDEX, REF_NAME, Descriptor, parse_index
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import DOCUMENT_MAX, parse
from keelboot.registry.outcome import How
from keelboot.transfer.destination import Advance
from keelboot.transfer.parcel import Document, encoded

_MARKER = b'{"imageLayoutVersion":"1.0.0"}'


class ToLayout:
    """The image NAME, or that without a name, in DIRECTORY, which is made where there is none.

    FLUSHED says that it has to be durable; a draft need not.
    """

    def __init__(self, directory: Path, name: str | None, *, flushed: bool = True) -> None:
        self._directory, self._name, self._flushed = directory, name, flushed
        if not (directory / "oci-layout").exists() and directory.exists():
            self._refuse_others()

    def _refuse_others(self) -> None:
        if not self._directory.is_dir():
            why = "it is not a directory"
        elif {path.name for path in self._directory.iterdir()} - {"blobs"}:
            why = "it is not empty, and no image layout"
        else:
            return
        raise NotWritable(f"cannot write oci:{self._directory}", why=why, fix="Name a new directory, or an empty one.")

    def has(self, blob: Descriptor) -> bool:
        """Whether the file is there and right: a cut may leave a long one, and a disk may change one."""
        path = self.path(blob)
        found = new_hash(blob.digest.algorithm)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != blob.size:
                    return False
                while block := file.read(1 << 20):
                    found.update(block)
        except OSError:
            return False
        return found.hexdigest() == blob.digest.hex

    def mounts(self, blob: Descriptor) -> bool:  # noqa: ARG002 - the port's name
        return False

    def put(self, blob: Descriptor, open_blob: Callable[[], BinaryIO], advance: Advance) -> How:
        with open_blob() as stream, self._new_file(blob) as file:
            for block in checked(stream, blob):
                file.write(block)
                advance(len(block))
        return How.SENT

    def commit(self, documents: Sequence[Document]) -> None:
        for descriptor, data in documents:
            with self._new_file(descriptor) as file:
                file.write(data)
        top = encoded(documents[-1][0])
        annotations = {name: text for name, text in top.pop("annotations", {}).items() if name != REF_NAME}  # type: ignore[attr-defined]
        annotations |= {REF_NAME: self._name} if self._name is not None else {}
        entry = top | ({"annotations": annotations} if annotations else {})
        with self._locked():
            marker = self._directory / "oci-layout"
            if not marker.exists():
                with self._replacing(marker) as file:
                    file.write(_MARKER)
            index = self._directory / "index.json"
            data = with_entry(self._read(index), entry, self._name)
            with self._replacing(index) as file:
                file.write(data)

    def _read(self, index: Path) -> bytes | None:
        try:
            with index.open("rb") as file:
                return file.read(DOCUMENT_MAX + 1)
        except FileNotFoundError:
            return None

    def path(self, blob: Descriptor) -> Path:
        """Where BLOB is, or would be."""
        return self._directory / "blobs" / blob.digest.algorithm / blob.digest.hex

    @contextmanager
    def _new_file(self, blob: Descriptor) -> Iterator[BinaryIO]:
        path = self.path(blob)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._replacing(path) as file:
            yield file

    @contextmanager
    def _replacing(self, path: Path) -> Iterator[BinaryIO]:
        if self._flushed:
            with durable.replacing(path) as file:
                yield file
        else:
            with path.open("wb") as file:
                yield file

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else of ours changes index.json meanwhile."""
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def with_entry(index: bytes | None, entry: dict[str, Any], name: str | None) -> bytes:
    """The layout's INDEX, None for a new one, with ENTRY in place of what had the NAME. Raises InvalidImage."""
    value: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    if index is not None:
        try:
            parse_index(index, None)
            parsed = parse(index)
        except Refused as error:
            raise InvalidImage(
                "cannot add to the image layout", why=f"index.json: {error}", fix="Name another directory."
            ) from error
        assert isinstance(parsed, dict)
        value = parsed
    others = [one for one in value["manifests"] if (one.get("annotations") or {}).get(REF_NAME) != name]
    value["manifests"] = [*others, entry]
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
