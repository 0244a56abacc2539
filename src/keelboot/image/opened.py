"""An image as a transport opened it: its documents are read and checked, its layers wait to be read.

A transport only says which manifest is meant and where blobs are; everything that follows from that is here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol, runtime_checkable

from keelboot.image.compression import Compression
from keelboot.image.digest import Digest
from keelboot.image.documents import (
    Config,
    Descriptor,
    Manifest,
    normal_architecture,
    parse_config,
    parse_manifest,
    verified,
)
from keelboot.image.reference import Reference
from keelboot.image.refusal import ForOthers, Refused
from keelboot.image.strictjson import DOCUMENT_MAX


class Blobs(Protocol):
    """Where the blobs of an image are."""

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """The bytes stored as that blob, not yet compared with its digest. Raises Refused where there are none."""


@runtime_checkable
class Resumable(Blobs, Protocol):
    """Blobs that can be had from any byte on: what was read of them before need not be read again."""

    def resume_blob(self, descriptor: Descriptor, offset: int) -> BinaryIO:
        """The bytes of that blob from OFFSET on, which is less than its size. Raises Refused where there are none."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: the blob that holds it, and the digest of what it holds when expanded."""

    descriptor: Descriptor
    diff_id: Digest

    @property
    def compression(self) -> Compression:
        """How the blob is compressed, by its media type."""
        return self.descriptor.compression


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose documents agree with each other and with their digests. Layers are verified when they are read."""

    reference: Reference
    manifest_bytes: bytes
    manifest_digest: Digest
    manifest: Manifest
    config_bytes: bytes
    config: Config
    layers: Sequence[Layer]  # lowest first
    blobs: Blobs

    def open_layer(self, layer: Layer) -> BinaryIO:
        """The layer's blob as it is stored, compressed or not; the caller closes and verifies. Raises Refused."""
        return self.blobs.open_blob(layer.descriptor)


def read_document(blobs: Blobs, descriptor: Descriptor) -> bytes:
    """The document DESCRIPTOR names, its length bounded before and its digest checked after reading. Raises Refused."""
    if descriptor.size > DOCUMENT_MAX:
        raise Refused(f"it has {descriptor.size} bytes, more than {DOCUMENT_MAX}")
    with blobs.open_blob(descriptor) as file:
        return verified(file.read(descriptor.size + 1), descriptor)


def open_manifest(reference: Reference, descriptor: Descriptor, blobs: Blobs, *, architecture: str | None) -> Image:
    """The image whose manifest DESCRIPTOR names. ARCHITECTURE, if given, is the only one accepted. Raises Refused."""
    manifest_bytes = read_document(blobs, descriptor)
    manifest = parse_manifest(manifest_bytes, descriptor.media_type)
    config_bytes = read_document(blobs, manifest.config)
    config = parse_config(config_bytes)
    if config.os != "linux":
        raise Refused(f"it is an image for {config.os!a}")
    wanted = config.architecture if architecture is None else normal_architecture(architecture)
    if config.architecture != wanted:
        raise ForOthers(f"it is an image for {config.architecture!a}, not for {wanted}")
    if len(manifest.layers) != len(config.diff_ids):
        raise Refused(f"it has {len(manifest.layers)} layers, and digests of {len(config.diff_ids)}")
    layers = tuple(Layer(blob, diff_id) for blob, diff_id in zip(manifest.layers, config.diff_ids, strict=True))
    return Image(reference, manifest_bytes, descriptor.digest, manifest, config_bytes, config, layers, blobs)
