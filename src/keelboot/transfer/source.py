"""Where what is copied comes from: any transport, for one architecture or as a whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from keelboot.image.documents import Descriptor, is_index, parse_contents, verified
from keelboot.image.opened import Blobs, read_document
from keelboot.image.reference import Reference, Transport
from keelboot.image.refusal import Refused, refusing
from keelboot.image.transports import open_image, open_layout
from keelboot.registry.client import Client
from keelboot.registry.opening import Registries
from keelboot.transfer.parcel import Document, Parcel, each_once, image_parcel

_DOCUMENTS_MAX: Final = 500  # of one index and those in it
_DEPTH_MAX: Final = 3


@contextmanager
def opened_parcel(
    reference: Reference,
    registries: Registries,
    *,
    architecture: str | None,
    whole: bool,
    packed: bool,
    scratch: Path | None,
) -> Iterator[Parcel]:
    """What REFERENCE names, readable until the context is left: the image for ARCHITECTURE, or the WHOLE index.

    Plain layers are to be PACKED, or stay as they are. SCRATCH is where a copy from podman's store may lie. Raises as
    keelboot.image.transports.open_image does.
    """
    if reference.transport is Transport.REGISTRY and not whole:
        with registries.open(reference, architecture=architecture) as image:
            yield image_parcel(image, packed=packed)
    elif not whole or reference.transport in (Transport.STORAGE, Transport.DOCKER_ARCHIVE):
        with open_image(reference, architecture=architecture, scratch=scratch) as image:
            yield image_parcel(image, packed=packed)
    elif reference.transport is Transport.REGISTRY:
        with refusing(reference, "its documents"):
            resolved = registries.resolve(reference)
            parcel = _whole(reference, resolved.document.descriptor, resolved.client)
        yield parcel
    else:
        with open_layout(reference) as layout:
            with refusing(reference, "its documents"):
                parcel = _whole(reference, layout.top(reference), layout)
            yield parcel


def _whole(reference: Reference, top: Descriptor, opened: Blobs) -> Parcel:
    """All that TOP leads to, what is no image among it: signatures and provenance are listed beside images."""
    documents: dict[object, Document] = {}
    blobs: list[Descriptor] = []

    def walk(one: Descriptor, depth: int) -> None:
        if one.digest in documents:
            return
        if depth > _DEPTH_MAX:
            raise Refused(f"it has indexes nested {depth} deep")
        data = _read(opened, one)
        contents = parse_contents(data, one.media_type)
        for inner in contents.documents:
            walk(inner, depth + 1)
        if not is_index(one.media_type):
            blobs.extend(contents.blobs)
        documents[one.digest] = (one, data)
        if len(documents) > _DOCUMENTS_MAX:
            raise Refused(f"it has more than {_DOCUMENTS_MAX} manifests")

    walk(top, 0)
    return Parcel(reference, tuple(documents.values()), each_once(blobs), opened)


def _read(opened: Blobs, one: Descriptor) -> bytes:
    if isinstance(opened, Client):  # to which blobs and manifests are two things, and the type tells one from the other
        return verified(opened.fetch(one.digest, (one.media_type,)).data, one)
    return read_document(opened, one)
