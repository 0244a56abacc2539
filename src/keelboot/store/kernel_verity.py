"""The kernel's fs-verity of single files (Linux, filesystems/fsverity.rst; include/uapi/linux/fsverity.h)."""

import errno
import fcntl
import os
import struct
from typing import Final

from keelboot.composefs.verity import BLOCK, Algorithm
from keelboot.image.tree import ObjectId

_ENABLE: Final = 0x40806685  # _IOW('f', 133, struct fsverity_enable_arg)
_MEASURE: Final = 0xC0046686  # _IOWR('f', 134, struct fsverity_digest)
_ENABLE_ARGUMENT = struct.Struct(
    "<IIIIQIIQ88x"
)  # version, algorithm, block, salt size, salt, signature size, -, signature
_DIGEST = struct.Struct("<HH")  # algorithm, room for the digest; then the digest
_NUMBERS = {"sha256": 1, "sha512": 2}
_DIGEST_MAX = 64
# A filesystem that has no fs-verity does not know the call; one that could have it, and has not, says so.
_UNSUPPORTED = (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS)


class Unsupported(Exception):  # noqa: N818 - it is what the filesystem is
    """The filesystem, or the kernel, has no fs-verity."""


def enable(fd: int, algorithm: Algorithm) -> None:
    """Seal the file that FD, the only descriptor of it and not open for writing, belongs to.

    A cut in the middle leaves the file unsealed, never half sealed. Raises Unsupported, and OSError.
    """
    try:
        fcntl.ioctl(fd, _ENABLE, _ENABLE_ARGUMENT.pack(1, _NUMBERS[algorithm], BLOCK, 0, 0, 0, 0, 0))
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise Unsupported(os.strerror(error.errno)) from error
        if error.errno != errno.EEXIST:  # it is sealed already
            raise


def measured(fd: int) -> ObjectId | None:
    """What the kernel checks the file's reads against; None where it is not sealed. Raises Unsupported, OSError."""
    buffer = bytearray(_DIGEST.pack(0, _DIGEST_MAX) + bytes(_DIGEST_MAX))
    try:
        fcntl.ioctl(fd, _MEASURE, buffer)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise Unsupported(os.strerror(error.errno)) from error
        if error.errno == errno.ENODATA:
            return None
        raise
    _, size = _DIGEST.unpack_from(buffer)
    return ObjectId(bytes(buffer[_DIGEST.size : _DIGEST.size + size]).hex())
