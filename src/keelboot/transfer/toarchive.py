"""Copies into a tar file that holds an image layout: written whole, and then put in the place of what was there."""

import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from keelboot import durable
from keelboot.failure import NotWritable
from keelboot.image.documents import Descriptor
from keelboot.registry.outcome import How
from keelboot.transfer.destination import Advance
from keelboot.transfer.parcel import Document
from keelboot.transfer.tolayout import ToLayout


class Drafted:
    """Half of a destination that is one FILE: the blobs of its image lie in LAYOUT until it is written whole.

    Raises NotWritable where FILE exists, but for an ordinary one that may be REPLACEd.
    """

    def __init__(self, file: Path, layout: ToLayout, *, replace: bool) -> None:
        if file.exists() and not (replace and file.is_file()):
            raise NotWritable(
                f"cannot write {file}",
                why="it exists" if file.is_file() else "it exists and is no ordinary file",
                fix="Name another file, or add --force." if file.is_file() else "Name another file.",
            )
        self._file, self._layout = file, layout

    def has(self, blob: Descriptor) -> bool:  # noqa: ARG002 - the port's name
        return False

    def mounts(self, blob: Descriptor) -> bool:
        return self._layout.mounts(blob)

    def put(self, blob: Descriptor, open_blob: Callable[[], BinaryIO], advance: Advance) -> How:
        return self._layout.put(blob, open_blob, advance)


class ToArchive(Drafted):
    """The image NAME, or one without a name, as the only one in FILE; it is made in SCRATCH, which is empty."""

    def __init__(self, file: Path, name: str | None, scratch: Path, *, replace: bool = False) -> None:
        super().__init__(file, ToLayout(scratch, name, flushed=False), replace=replace)
        self._scratch = scratch

    def commit(self, documents: Sequence[Document]) -> None:
        self._layout.commit(documents)
        with durable.replacing(self._file) as file:
            write_archive(self._scratch, file)


def write_archive(layout: Path, file: BinaryIO) -> None:
    """Write LAYOUT to FILE as tar: the same image, the same bytes."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(layout.rglob("*")):
            entry = tarfile.TarInfo(str(path.relative_to(layout)))
            if path.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            else:
                entry.size = path.stat().st_size
                with path.open("rb") as content:
                    archive.addfile(entry, content)
