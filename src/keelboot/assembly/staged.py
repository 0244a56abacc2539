"""Reading back what was staged: the content only, without the fs-verity metadata behind it in the same file."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from keelboot.disk.sealed_objects import SealedObjects
from keelboot.failure import InvalidImage
from keelboot.image.tree import External, Regular

_BLOCK = 1 << 20
_SMALL = 1 << 20  # bytes; files that are read by name (os-release, kargs.d) have a few hundred


def chunks(objects: SealedObjects, content: External) -> Iterator[bytes]:
    """The bytes of CONTENT, block by block."""
    with (objects.directory / content.object.path).open("rb") as file:
        left = content.size
        while left:
            block = file.read(min(left, _BLOCK))
            if not block:
                raise EOFError(f"{content.object.hex} was staged with {content.size} bytes and has fewer")
            left -= len(block)
            yield block


def read(objects: SealedObjects, node: Regular) -> bytes:
    """The whole content of a small file. Raises InvalidImage for one of more than 1 MiB."""
    if isinstance(node.content, bytes):
        return node.content
    if node.content.size > _SMALL:
        raise InvalidImage(
            "cannot use the image",
            why=f"a configuration file in it has {node.content.size} bytes, more than {_SMALL}",
            fix="Correct /usr/lib/os-release and /usr/lib/bootc/kargs.d in the image.",
        )
    return b"".join(chunks(objects, node.content))


def sha256(objects: SealedObjects, content: External) -> bytes:
    """The SHA-256 of CONTENT, raw."""
    digest = hashlib.sha256()
    for block in chunks(objects, content):
        digest.update(block)
    return digest.digest()


def copy(objects: SealedObjects, content: External, target: Path) -> Path:
    """Write CONTENT as a plain file to TARGET, and return that."""
    with target.open("wb") as file:
        for block in chunks(objects, content):
            file.write(block)
    return target
