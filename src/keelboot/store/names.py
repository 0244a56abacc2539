"""What things are called in a store, and what its links say (docs/formats/store.md).

Everything whose name starts with a dot is a draft: being made, or left by what was killed while making it.
"""

import os
import re
from typing import Final

from keelboot.image.digest import Digest
from keelboot.image.tree import ObjectId

META: Final = "meta.json"
LOCK: Final = "lock"
OBJECTS: Final = "objects"
IMAGES: Final = "images"
LAYERS: Final = "layers"
REFERENCES: Final = "refs"
DIRECTORIES: Final = (OBJECTS, IMAGES, LAYERS, REFERENCES)
DRAFT: Final = "."
NAME_MAX: Final = 255  # bytes of a file's name, the limit of Linux's filesystems

_TARGET = re.compile(r"\.\./objects/([0-9a-f]{2})/([0-9a-f]{62}|[0-9a-f]{126})")
_PREFIX = re.compile("[0-9a-f]{2}")
_REST = re.compile("[0-9a-f]{62}|[0-9a-f]{126}")
_HEX = re.compile("[0-9a-f]{64}|[0-9a-f]{128}")
# What a reference's file has of it as it is; the rest is percent-encoded.
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~:@+=,")
_ENCODED = re.compile(b"%([0-9A-F]{2})")


def draft_called(file: str) -> bool:
    """Whether FILE is what a draft is called, in any directory of a store."""
    return file.startswith((f"{DRAFT}draft-", f"{DRAFT}{META}."))


def target(name: ObjectId) -> str:
    """What a link to the object says."""
    return f"../{OBJECTS}/{name.path}"


def linked(text: str) -> ObjectId | None:
    """The object a link that says TEXT leads to; None where no link of a store says this."""
    match = _TARGET.fullmatch(text)
    return ObjectId(match[1] + match[2]) if match else None


def object_at(directory: str, file: str) -> ObjectId | None:
    """The object that is called FILE in DIRECTORY of objects/; None where none can be."""
    return ObjectId(directory + file) if _PREFIX.fullmatch(directory) and _REST.fullmatch(file) else None


def image_called(file: str) -> ObjectId | None:
    """The composefs image that FILE in images/ names."""
    return ObjectId(file) if _HEX.fullmatch(file) else None


def layer_called(file: str) -> Digest | None:
    """The layer that FILE in layers/ names, by its DiffID."""
    try:
        return Digest.parse(file)
    except ValueError:
        return None


def reference_file(reference: str) -> str:
    """The file in refs/ for REFERENCE: percent-encoded, so that it has no slash and does not start with a dot.

    Raises ValueError for a reference that is too long to be a file's name.
    """
    encoded = "".join(chr(byte) if chr(byte) in _PLAIN else f"%{byte:02X}" for byte in os.fsencode(reference))
    if encoded.startswith(DRAFT):
        encoded = "%2E" + encoded[1:]
    if not encoded or len(encoded) > NAME_MAX:
        raise ValueError(f"it takes {len(encoded)} bytes as a file's name, of at most {NAME_MAX}")
    return encoded


def reference_called(file: str) -> str | None:
    """The reference that FILE in refs/ is for; None where no reference has this file."""
    try:
        reference = os.fsdecode(_ENCODED.sub(lambda match: bytes.fromhex(match[1].decode()), os.fsencode(file)))
        return reference if reference_file(reference) == file else None
    except ValueError:
        return None
