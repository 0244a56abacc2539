"""An image, or an index of several, as it is to be copied: documents, blobs, and layers that have to be packed first.

Bytes are copied as they are, so that digests stay. Only what podman's store and `docker save` hold has no packed layers
to copy: those are compressed, and the manifest, which was made up for reading, is made anew with their digests.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keelboot.image.compression import Compression
from keelboot.image.digest import Digest
from keelboot.image.documents import DOCKER_LAYER, DOCKER_MANIFEST, OCI_LAYER, OCI_MANIFEST, Descriptor, Platform
from keelboot.image.opened import Blobs, Image, Layer
from keelboot.image.reference import Reference, Transport
from keelboot.image.strictjson import parse

Document = tuple[Descriptor, bytes]

_UNPACKED = (Transport.STORAGE, Transport.DOCKER_ARCHIVE)


@dataclass(frozen=True, slots=True)
class Parcel:
    """What `reference` names. `documents` are in the order in which they can be kept: what an index lists before it."""

    reference: Reference
    documents: tuple[Document, ...]
    blobs: tuple[Descriptor, ...]  # each once, the largest first
    opened: Blobs
    unpacked: Image | None = None  # whose layers have to be compressed; then its manifest is no document yet

    @property
    def images(self) -> int:
        """How many manifests there are."""
        return 1 if self.unpacked else max(1, len(self.documents) - 1)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers to compress, each once."""
        found = {layer.diff_id: layer for layer in (self.unpacked.layers if self.unpacked else ()) if _plain(layer)}
        return tuple(sorted(found.values(), key=lambda layer: layer.descriptor.size, reverse=True))


def image_parcel(image: Image, *, packed: bool = True) -> Parcel:
    """IMAGE alone; its plain layers are to be PACKED, unless it goes where layers are plain."""
    unpacked = packed and image.reference.transport in _UNPACKED and any(map(_plain, image.layers))
    if unpacked:
        blobs = [image.manifest.config, *(layer.descriptor for layer in image.layers if not _plain(layer))]
        return Parcel(image.reference, (), each_once(blobs), image.blobs, image)
    manifest = Descriptor(image.manifest.media_type, image.manifest_digest, len(image.manifest_bytes))
    blobs = [image.manifest.config, *image.manifest.layers]
    return Parcel(image.reference, ((manifest, image.manifest_bytes),), each_once(blobs), image.blobs)


def packed_manifest(image: Image, packed: dict[Digest, Descriptor]) -> Document:
    """The manifest of IMAGE with PACKED layers, by the digests of what they hold, in place of its plain ones.

    All else stays as it is: the same image always gives the same bytes.
    """
    parsed = parse(image.manifest_bytes)
    assert isinstance(parsed, dict)  # it is a manifest
    # A manifest need not say what it is, and registries want to know.
    media_type = image.manifest.media_type
    value: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type, **parsed}
    value["layers"] = [
        old | _named(packed[layer.diff_id]) if _plain(layer) else old
        for old, layer in zip(value["layers"], image.layers, strict=True)
    ]
    data = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return Descriptor(media_type, Digest.of(data), len(data)), data


def packed_type(image: Image) -> str:
    """The media type of a gzip layer in the manifest of IMAGE."""
    types = {OCI_MANIFEST: OCI_LAYER + "+gzip", DOCKER_MANIFEST: DOCKER_LAYER + ".gzip"}
    return types[image.manifest.media_type]


def each_once(blobs: Sequence[Descriptor]) -> tuple[Descriptor, ...]:
    """BLOBS without repetitions, the largest first: it is what everything else would wait for."""
    return tuple(sorted({one.digest: one for one in blobs}.values(), key=lambda one: one.size, reverse=True))


def encoded(one: Descriptor) -> dict[str, object]:
    """ONE as the JSON of an index has it."""
    value: dict[str, object] = {**_named(one)}
    if one.artifact_type:
        value["artifactType"] = one.artifact_type
    if one.platform:
        value["platform"] = _platform(one.platform)
    if one.annotations:
        value["annotations"] = dict(one.annotations)
    return value


def _named(one: Descriptor) -> dict[str, object]:
    return {"mediaType": one.media_type, "digest": str(one.digest), "size": one.size}


def _platform(one: Platform) -> dict[str, str]:
    return {"os": one.os, "architecture": one.architecture} | ({"variant": one.variant} if one.variant else {})


def _plain(layer: Layer) -> bool:
    return layer.compression is Compression.NONE
