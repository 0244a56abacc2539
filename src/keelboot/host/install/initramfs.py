"""What an initramfs holds, by names: cpio archives (newc), one behind the other, the last of them compressed.

Format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. Pure: bytes in, names out.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from keelboot.image.compression import Compression, decompress, detect
from keelboot.image.refusal import Refused

_MAGIC: Final = (b"070701", b"070702")
_HEADER = 110  # bytes: the magic and 13 numbers of 8 hexadecimal digits
_FILE_SIZE, _NAME_SIZE = 6, 11  # which of the numbers
_END = b"TRAILER!!!"
_NAME_MAX = 4096


def programs(chunks: Iterable[bytes]) -> frozenset[str] | None:
    """The base names of all files in the initramfs CHUNKS; None where it is compressed in a way that is not known.

    Raises Refused for what is no initramfs, and MissingTool where the library for Zstandard is not installed.
    """
    found: set[str] = set()
    return frozenset(found) if _collect(_Bytes(chunks), found) else None


def _collect(data: "_Bytes", found: set[str]) -> bool:
    """Add the names in DATA to FOUND; whether all of it could be read."""
    while start := data.after_zeros():
        if start.startswith(_MAGIC):
            found.update(name.rpartition(b"/")[2].decode(errors="replace") for name in _names(data))
        elif detect(start) is Compression.NONE:
            return False
        else:
            return _collect(_Bytes(decompress(data, None)), found)
    return True


def _names(data: "_Bytes") -> Iterator[bytes]:
    """The names in one cpio archive, which DATA is at the start of; afterwards it is behind that."""
    while True:
        header = data.read(_HEADER)
        try:
            numbers = [int(header[at : at + 8], 16) for at in range(6, _HEADER, 8)]
        except ValueError as error:
            raise Refused("it has a cpio header that is none") from error
        if not header.startswith(_MAGIC) or len(header) != _HEADER or not 0 < numbers[_NAME_SIZE] <= _NAME_MAX:
            raise Refused("it has a cpio header that is none")
        name = data.read(numbers[_NAME_SIZE]).rstrip(b"\0")
        data.read(-(_HEADER + numbers[_NAME_SIZE]) % 4)
        if name == _END:
            return
        data.skip(numbers[_FILE_SIZE] + -numbers[_FILE_SIZE] % 4)
        yield name


class _Bytes:
    """Chunks, read as if they were one file."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._left = b""

    def read(self, size: int, /) -> bytes:
        """SIZE bytes, fewer at the end."""
        parts = []
        while size and (self._left or self._more()):
            part, self._left = self._left[:size], self._left[size:]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        while size and (self._left or self._more()):
            step = min(size, len(self._left))
            self._left = self._left[step:]
            size -= step

    def after_zeros(self) -> bytes:
        """Pass over zero bytes, and tell what follows: six bytes or more, none at the end."""
        while self._left or self._more():
            self._left = self._left.lstrip(b"\0")
            if self._left:
                break
        while 0 < len(self._left) < _HEADER and (more := next(self._chunks, b"")):
            self._left += more
        return self._left[:_HEADER]

    def _more(self) -> bool:
        self._left = next(self._chunks, b"")
        return bool(self._left)
