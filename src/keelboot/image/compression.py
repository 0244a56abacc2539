"""Compressed streams, expanded within bounds: gzip (RFC 1952), Zstandard (RFC 8878) or none.

What a stream is declared to be and how it begins must agree; several members or frames in a row are one stream, as both
RFCs say; anything else after the last one is refused. Each step gives at most `BLOCK` bytes whatever it is fed, so a
bomb costs time in proportion to what the reader takes and no memory.
"""

import zlib
from collections.abc import Iterator
from enum import Enum
from typing import Any, Protocol

from keelboot.failure import MissingTool
from keelboot.image.refusal import Refused

igzip_lib: Any
try:
    from isal import igzip_lib
except ImportError:  # twice as fast as zlib, and not everywhere
    igzip_lib = None

BLOCK = 512 << 10  # of expanded data
_CHUNK = 256 << 10  # of compressed data
# What `zstd` itself accepts without being told otherwise. Memory, per stream.
_ZSTD_WINDOW_MAX = 1 << 27


class Compression(Enum):
    """How a stream is compressed; the values are the suffixes of OCI's media types."""

    NONE = ""
    GZIP = "gzip"
    ZSTD = "zstd"


class Readable(Protocol):
    """Where compressed bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Up to SIZE bytes, none at the end."""


def detect(start: bytes) -> Compression:
    """How a stream that begins with START (four bytes or more) is compressed."""
    if start.startswith(b"\x1f\x8b\x08"):
        return Compression.GZIP
    # A frame, or one of the skippable frames in which zstd:chunked keeps its table of contents.
    if start.startswith(b"\x28\xb5\x2f\xfd") or (start[1:4] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50):
        return Compression.ZSTD
    return Compression.NONE


def decompress(stream: Readable, declared: Compression | None) -> Iterator[bytes]:
    """The expanded bytes of STREAM in blocks of at most `BLOCK` bytes; the stream is read to its end.

    DECLARED is what the media type says; None where the format does not say and the bytes decide. Raises Refused, and
    MissingTool where the library for Zstandard is not installed.
    """
    first = stream.read(_CHUNK)
    while 0 < len(first) < 4 and (more := stream.read(_CHUNK)):
        first += more
    found = detect(first)
    if declared is not None and found is not declared:
        raise Refused(f"it is declared as {_NAMES[declared]} and is {_NAMES[found]}")
    match found:
        case Compression.GZIP:
            return _gzip(first, stream)
        case Compression.ZSTD:
            return _zstd(first, stream)
        case Compression.NONE:
            return _plain(first, stream)


_NAMES = {Compression.NONE: "not compressed", Compression.GZIP: "gzip", Compression.ZSTD: "Zstandard"}


def _plain(first: bytes, stream: Readable) -> Iterator[bytes]:
    block = first
    while block:
        yield block
        block = stream.read(BLOCK)


def _gzip(first: bytes, stream: Readable) -> Iterator[bytes]:
    data = first
    member = _member()
    while True:
        try:
            block = member.decompress(data, BLOCK)
        except Exception as error:
            # isal's own error class derives from Exception alone
            if isinstance(error, MemoryError):
                raise
            raise Refused(f"its gzip data are damaged ({error})") from error
        if block:
            yield block
        if member.eof:
            data = member.unused_data or stream.read(_CHUNK)
            if not data:
                return
            while len(data) < 3 and (more := stream.read(_CHUNK)):
                data += more
            if detect(data) is not Compression.GZIP:
                raise Refused("there is something after the end of its gzip data")
            member = _member()
        elif member.needs_input:
            data = stream.read(_CHUNK)
            if not data:
                raise Refused("its gzip data are cut short")
        else:
            data = b""


class _Member(Protocol):
    """One gzip member; the interface of the standard library's BZ2Decompressor."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _ZlibMember:
    """zlib with that interface."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def needs_input(self) -> bool:
        # Expanded data that zlib holds back come with the next input: the member's last eight bytes expand to nothing.
        return not self._object.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, max_length)


def _member() -> _Member:
    if igzip_lib is None:
        return _ZlibMember()
    member: _Member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return member


class _Restarted:
    """A stream of which the first bytes were already read."""

    def __init__(self, first: bytes, stream: Readable) -> None:
        self._first, self._stream = first, stream

    def read(self, size: int) -> bytes:
        if self._first:
            taken, self._first = self._first[:size], self._first[size:]
            return taken
        return self._stream.read(size)


def _zstd(first: bytes, stream: Readable) -> Iterator[bytes]:
    zstandard = _zstandard()
    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX).stream_reader(
        _Restarted(first, stream), read_size=_CHUNK, read_across_frames=True, closefd=False
    )
    while True:
        try:
            block = reader.read(BLOCK)
        except zstandard.ZstdError as error:
            raise Refused(f"its Zstandard data are damaged, or followed by something else ({error})") from error
        if not block:
            return
        yield block


def _zstandard() -> Any:  # noqa: ANN401 - the module has no types
    try:
        import zstandard  # noqa: PLC0415 - only images that are compressed so need it
    except ImportError as error:
        raise MissingTool(
            "cannot read an image compressed with Zstandard",
            why="the Python library zstandard is not installed",
            fix="Install it (Debian: python3-zstandard), or save the image with gzip.",
        ) from error
    return zstandard
