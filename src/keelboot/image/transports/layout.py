"""Images in OCI's image layout (image-layout.md of the specification): the transports `oci:` and `oci-archive:`.

oci-layout              {"imageLayoutVersion": "1.0.0"}
index.json              names manifests, or indexes of them, with tags as annotations
blobs/sha256/HEX...     documents and layers
"""

import platform
from collections.abc import Sequence
from typing import BinaryIO

from keelboot.failure import ImageNotFound
from keelboot.image.documents import (
    REF_NAME,
    Descriptor,
    choose,
    is_index,
    is_manifest,
    normal_architecture,
    parse_index,
)
from keelboot.image.opened import Image, open_manifest, read_document
from keelboot.image.reference import Reference
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import DOCUMENT_MAX, Members, parse
from keelboot.image.transports.folder import Folder

_VERSION = "1.0.0"


class Layout:
    """An image layout in FOLDER. All methods raise Refused."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        marker = Members(parse(self._read("oci-layout")), "", ("imageLayoutVersion",))
        if marker.text("imageLayoutVersion") != _VERSION:
            raise Refused(f"oci-layout: its version is not {_VERSION}")
        self._index = parse_index(self._read("index.json"), None)

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        digest = descriptor.digest
        file = self._folder.open(f"blobs/{digest.algorithm}/{digest.hex}")
        if file is None:
            raise Refused(f"the blob {digest} is missing")
        return file

    def _read(self, name: str) -> bytes:
        file = self._folder.open(name)
        if file is None:
            raise Refused(f"{name} is missing: it is not an image layout")
        with file:
            return file.read(DOCUMENT_MAX + 1)

    def open(self, reference: Reference, architecture: str | None) -> Image:
        """The image REFERENCE names. ARCHITECTURE picks one of an index, and is checked; None is this machine's.

        Raises ImageNotFound when the tag is unknown, or missing where there are several.
        """
        return open_manifest(reference, self.find(reference, architecture), self, architecture=architecture)

    def find(self, reference: Reference, architecture: str | None) -> Descriptor:
        """The descriptor of that image's manifest."""
        wanted = normal_architecture(architecture or platform.machine())
        chosen = choose(self._tagged(reference), wanted)
        if is_index(chosen.media_type):
            # One level below index.json; an index in that one is refused by its type.
            index = parse_index(read_document(self, chosen), chosen.media_type)
            chosen = choose(index.manifests, wanted)
        if not is_manifest(chosen.media_type):
            raise Refused(f"it is {chosen.media_type!a}, not the manifest of an image")
        return chosen

    def top(self, reference: Reference) -> Descriptor:
        """What REFERENCE names as a whole: a manifest, or an index of several."""
        found = self._tagged(reference)
        if len(found) > 1:
            raise Refused("it has several images and no index of them")
        return found[0]

    def _tagged(self, reference: Reference) -> Sequence[Descriptor]:
        """The manifests REFERENCE's tag names, all of them where it has none."""
        entries = self._index.manifests
        tags = sorted({entry.annotations[REF_NAME] for entry in entries if REF_NAME in entry.annotations})
        if reference.tag is not None:
            entries = tuple(entry for entry in entries if entry.annotations.get(REF_NAME) == reference.tag)
        if not entries or (reference.tag is None and len(tags) > 1):
            raise ImageNotFound(
                f"cannot open {reference}",
                why="no image there has this name" if reference.tag else "there is more than one image, or none",
                fix=f"The images there are: {', '.join(map(ascii, tags)) or 'none with a name'}. "
                f"Write {reference.transport}:{reference.location}:NAME.",
            )
        return entries
