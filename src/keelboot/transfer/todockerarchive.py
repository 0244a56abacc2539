"""Copies into the archive that `docker load` and `podman load` take, as keelboot.image.transports.dockerarchive has it.

Its layers are plain tar, named by their digest, so packed ones are expanded. It keeps no manifest: the image's id
stays, the digest that registries have for it does not.
"""

import json
import tarfile
from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from keelboot import durable
from keelboot.image.compression import decompress
from keelboot.image.digest import Digest
from keelboot.image.documents import Descriptor, parse_config, parse_manifest
from keelboot.image.refusal import Refused
from keelboot.transfer.parcel import Document
from keelboot.transfer.toarchive import Drafted
from keelboot.transfer.tolayout import ToLayout


class ToDockerArchive(Drafted):
    """The image NAME, or one without a name, as the only one in FILE; its blobs lie in SCRATCH, which is empty."""

    def __init__(self, file: Path, name: str | None, scratch: Path, *, replace: bool = False) -> None:
        super().__init__(file, ToLayout(scratch / "layout", None, flushed=False), replace=replace)
        self._name, self._scratch = name, scratch

    def commit(self, documents: Sequence[Document]) -> None:
        """Raises Refused where the image is not what its documents say."""
        descriptor, data = documents[-1]
        manifest = parse_manifest(data, descriptor.media_type)
        config = self._layout.path(manifest.config).read_bytes()
        diff_ids = parse_config(config).diff_ids
        if len(diff_ids) != len(manifest.layers):
            raise Refused(f"it has {len(manifest.layers)} layers, and digests of {len(diff_ids)}")
        names = [f"{diff_id.hex}.tar" for diff_id in diff_ids]
        entry = {
            "Config": f"{manifest.config.digest.hex}.json",
            "RepoTags": [self._name] if self._name else None,
            "Layers": names,
        }
        with (
            durable.replacing(self._file) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            _add(archive, entry["Config"], BytesIO(config))
            written = set()
            for layer, diff_id, name in zip(manifest.layers, diff_ids, names, strict=True):
                if diff_id not in written:
                    written.add(diff_id)
                    with self._expanded(layer, diff_id) as content:
                        _add(archive, name, content)
            _add(archive, "manifest.json", BytesIO(json.dumps([entry], separators=(",", ":")).encode()))

    def _expanded(self, layer: Descriptor, diff_id: Digest) -> BinaryIO:
        """What LAYER holds, which must be DIFF_ID: its size has to be known before its first byte is written."""
        spool, found = self._scratch / "expanded", sha256()
        with self._layout.path(layer).open("rb") as packed, spool.open("wb") as file:
            for block in decompress(packed, None):
                found.update(block)
                file.write(block)
        if found.hexdigest() != diff_id.hex:
            raise Refused(f"the layer {layer.digest} holds sha256:{found.hexdigest()}, its config says {diff_id}")
        return spool.open("rb")


def _add(archive: tarfile.TarFile, name: object, content: BinaryIO) -> None:
    entry = tarfile.TarInfo(str(name))
    entry.size = content.seek(0, 2)
    content.seek(0)
    archive.addfile(entry, content)
