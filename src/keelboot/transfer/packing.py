"""gzip (RFC 1952) without a time or a name in it: one library on one kind of machine gives the same bytes each time."""

import zlib
from collections.abc import Callable
from hashlib import sha256
from typing import Any, BinaryIO, Final

from keelboot.image.checked import checked
from keelboot.image.digest import Digest
from keelboot.image.documents import Descriptor

isal: Any
try:
    import isal
    from isal import isal_zlib
except ImportError:  # a sixth as fast, and a little smaller
    isal = None

_WITH_HEADER: Final = 31  # zlib's way to say gzip
_LEVEL: Final = 2 if isal else 6

# Which program made the bytes: another one makes others of the same content.
PACKER: Final = f"isal-{isal.__version__}-{_LEVEL}" if isal else f"zlib-{zlib.ZLIB_RUNTIME_VERSION}-{_LEVEL}"


def pack(
    stream: BinaryIO, plain: Descriptor, out: BinaryIO, media_type: str, *, advance: Callable[[int], None]
) -> Descriptor:
    """Write to OUT, as gzip, what is in STREAM, which must be the blob PLAIN; what OUT then is, as MEDIA_TYPE.

    ADVANCE is told of bytes read. Raises Refused.
    """
    compressor: Any = (isal_zlib if isal else zlib).compressobj(_LEVEL, wbits=_WITH_HEADER)
    found, size = sha256(), 0

    def write(data: bytes) -> None:
        nonlocal size
        found.update(data)
        size += len(data)
        out.write(data)

    for block in checked(stream, plain):
        write(compressor.compress(block))
        advance(len(block))
    write(compressor.flush())
    return Descriptor(media_type, Digest("sha256", found.hexdigest()), size)
