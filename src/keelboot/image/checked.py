"""A blob's bytes as they come, compared with what names it before the last of them are handed on."""

from collections.abc import Iterator
from hashlib import new as new_hash
from typing import BinaryIO, Final

from keelboot.image.documents import Descriptor
from keelboot.image.refusal import Refused

_BLOCK: Final = 1 << 20


def checked(stream: BinaryIO, descriptor: Descriptor) -> Iterator[bytes]:
    """The bytes of STREAM, which must be the blob DESCRIPTOR names, in blocks. Raises Refused."""
    found, size = new_hash(descriptor.digest.algorithm), 0
    while size < descriptor.size:
        try:
            block = stream.read(min(_BLOCK, descriptor.size - size))
        except OSError as error:
            raise Refused(f"the blob {descriptor.digest} cannot be read ({error.strerror})") from error
        if not block:
            raise Refused(f"the blob {descriptor.digest} has {size} bytes, its descriptor says {descriptor.size}")
        found.update(block)
        size += len(block)
        if size == descriptor.size:
            _compare(stream, descriptor, found.hexdigest())
        yield block
    if not descriptor.size:
        _compare(stream, descriptor, found.hexdigest())


def _compare(stream: BinaryIO, descriptor: Descriptor, found: str) -> None:
    if stream.read(1):
        raise Refused(f"the blob {descriptor.digest} is longer than the {descriptor.size} bytes of its descriptor")
    if found != descriptor.digest.hex:
        raise Refused(f"the digest of the blob {descriptor.digest} is {descriptor.digest.algorithm}:{found}")
