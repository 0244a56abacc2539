"""Images in the archives of `docker save` and `podman save`: the transport `docker-archive:`.

    manifest.json   [{"Config": FILE, "RepoTags": [NAME...], "Layers": [FILE...]}, ...]
    FILE            the config, named by its digest (HEX.json, or blobs/sha256/HEX)
    FILE...         layers, lowest first, as plain tar or gzip; files used twice are links

The archive has no OCI manifest, so one is made: the same archive always gives the same.
"""

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from typing import BinaryIO

from keelboot.failure import ImageNotFound
from keelboot.image.compression import Compression, detect
from keelboot.image.digest import Digest
from keelboot.image.documents import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, Config, Descriptor, parse_config
from keelboot.image.opened import Image, open_manifest
from keelboot.image.reference import Reference
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import DOCUMENT_MAX, Members, parse
from keelboot.image.transports.folder import Folder

_NAMED_BY_DIGEST = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?")
_SUFFIX = {Compression.NONE: "", Compression.GZIP: ".gzip", Compression.ZSTD: ".zstd"}


@dataclass(frozen=True, slots=True)
class _Entry:
    """One image of manifest.json."""

    config: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]


class DockerArchive:
    """The images in FOLDER. All methods raise Refused."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._blobs: dict[Digest, str | bytes] = {}  # a member's name, or the document itself
        value = parse(self._read("manifest.json"))
        if not isinstance(value, list):
            raise Refused("manifest.json is not a list")
        self._entries = [_entry(item, f"manifest.json[{index}]") for index, item in enumerate(value)]

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        where = self._blobs.get(descriptor.digest)
        if isinstance(where, bytes):
            return BytesIO(where)
        return self._open(where or str(descriptor.digest))

    def open(self, reference: Reference, architecture: str | None) -> Image:
        """The image REFERENCE names.

        Raises ImageNotFound when the tag is unknown, or missing where there are several.
        """
        entry = self._choose(reference)
        config_bytes, config = self._config(entry)
        if len(entry.layers) != len(config.diff_ids):
            raise Refused(f"it has {len(entry.layers)} layers, and digests of {len(config.diff_ids)}")
        layers = [self._layer(name, diff_id) for name, diff_id in zip(entry.layers, config.diff_ids, strict=True)]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": DOCKER_MANIFEST,
                "config": _descriptor(DOCKER_CONFIG, self._keep(config_bytes), len(config_bytes)),
                "layers": layers,
            },
            separators=(",", ":"),
        ).encode()
        descriptor = Descriptor(DOCKER_MANIFEST, self._keep(manifest), len(manifest))
        return open_manifest(reference, descriptor, self, architecture=architecture)

    def fingerprint(self, reference: Reference) -> str:
        """The image's id, as docker and podman show it: the digest of its config."""
        config_bytes, _ = self._config(self._choose(reference))
        return sha256(config_bytes).hexdigest()

    def _choose(self, reference: Reference) -> _Entry:
        entries = self._entries
        if reference.tag is not None:
            entries = [entry for entry in entries if any(_same_name(reference.tag, tag) for tag in entry.tags)]
        if len(entries) != 1:
            names = ", ".join(ascii(tag) for entry in self._entries for tag in entry.tags)
            raise ImageNotFound(
                f"cannot open {reference}",
                why="no image there has this name" if reference.tag else "there is more than one image, or none",
                fix=f"The images there are: {names or 'none with a name'}. "
                f"Write {reference.transport}:{reference.location}:NAME.",
            )
        return entries[0]

    def _config(self, entry: _Entry) -> tuple[bytes, Config]:
        data = self._read(entry.config)
        named = _NAMED_BY_DIGEST.fullmatch(entry.config)
        if named and sha256(data).hexdigest() != named[1]:
            raise Refused(f"the config {entry.config!a} does not have the digest it is named by")
        return data, parse_config(data)

    def _layer(self, name: str, diff_id: Digest) -> dict[str, object]:
        """The descriptor of the layer in member NAME; a compressed one is read once to learn its digest."""
        with self._open(name) as file:
            compression = detect(file.read(4))
            file.seek(0)
            digest = diff_id if compression is Compression.NONE else _digest(file)
            size = file.seek(0, 2)
        self._blobs[digest] = name
        return _descriptor(DOCKER_LAYER + _SUFFIX[compression], digest, size)

    def _keep(self, document: bytes) -> Digest:
        digest = Digest("sha256", sha256(document).hexdigest())
        self._blobs[digest] = document
        return digest

    def _open(self, name: str) -> BinaryIO:
        file = self._folder.open(name)
        if file is None:
            raise Refused(f"{name!a} is missing")
        return file

    def _read(self, name: str) -> bytes:
        with self._open(name) as file:
            return file.read(DOCUMENT_MAX + 1)


def _entry(value: object, path: str) -> _Entry:
    members = Members(value, path, ("Config", "RepoTags", "Layers", "Parent", "LayerSources"))
    return _Entry(members.required_text("Config"), members.texts("RepoTags"), members.texts("Layers"))


def _same_name(wanted: str, tag: str) -> bool:
    """Whether TAG, a full name, is the one WANTED; localhost/ is podman's addition to names without a host."""
    return tag in (wanted, f"localhost/{wanted}", f"docker.io/library/{wanted}")


def _descriptor(media_type: str, digest: Digest, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(digest), "size": size}


def _digest(file: BinaryIO) -> Digest:
    found = sha256()
    while block := file.read(1 << 20):
        found.update(block)
    return Digest("sha256", found.hexdigest())
