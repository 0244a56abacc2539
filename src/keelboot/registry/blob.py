"""A blob while it comes from a registry: when the connection breaks, the rest is asked for, and nothing is lost.

Every byte that came is handed on once, so that whoever hashes the stream has hashed the resumed bytes too.
"""

import io
import re
from typing import BinaryIO, Final

from keelboot.failure import ImageNotFound
from keelboot.image.documents import Descriptor
from keelboot.image.refusal import Refused
from keelboot.registry.answers import Again
from keelboot.registry.connections import Answer, Broken
from keelboot.registry.endpoint import Endpoint

_BLOCK: Final = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


class BlobStream(io.RawIOBase, BinaryIO):
    """The bytes of the blob that DESCRIPTOR names, from OFFSET on.

    Never more than the descriptor says, and not yet compared with its digest.
    """

    def __init__(self, endpoint: Endpoint, descriptor: Descriptor, *, offset: int = 0) -> None:
        super().__init__()
        self._endpoint, self._descriptor = endpoint, descriptor
        self._answer: Answer | None = None
        self._at = offset  # bytes handed on, or kept for it
        self._skip = 0  # bytes to drop, as the registry began before `_at`
        self._failures = 0
        self._secured = offset  # where the count of failures last began anew

    def start(self) -> None:
        """Ask for the blob. Raises what reading raises."""
        while self._answer is None:
            try:
                self._answer = self._open()
            except Again as again:
                self._failed(again)

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """SIZE bytes, fewer at the end only. Raises NetworkFailed, AccessDenied, Refused."""
        rest = self._descriptor.size - self._at
        wanted = rest if size is None or size < 0 else min(size, rest)
        pieces = []
        while wanted > 0:
            piece = self._some(min(wanted, _BLOCK))
            pieces.append(piece)
            wanted -= len(piece)
            self._at += len(piece)
        if self._at == self._descriptor.size and self._answer is not None:
            self._end(self._answer)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None
        super().close()

    def _some(self, size: int) -> bytes:
        """The next bytes, SIZE at most and at least one."""
        while True:
            self.start()
            assert self._answer is not None
            try:
                if self._skip:
                    self._skip -= len(self._received(min(self._skip, _BLOCK)))
                    continue
                return self._received(size)
            except Broken as error:
                self._answer.close()
                self._answer = None
                self._failed(Again(f"{error} (at byte {self._at} of {self._descriptor.size})"))

    def _received(self, size: int) -> bytes:
        assert self._answer is not None
        piece = self._answer.some(size)
        if not piece:
            raise Broken("the connection ended too early", reached=True)
        return piece

    def _failed(self, again: Again) -> None:
        """Wait for the next try. Tries that brought something do not count: a long way may have many stones."""
        if self._at - self._secured >= self._endpoint.patience.progress:
            self._failures, self._secured = 0, self._at
        self._failures += 1
        self._endpoint.wait(again, self._failures)

    def _end(self, answer: Answer) -> None:
        """All is there: see that nothing follows, and give the connection back."""
        try:
            if answer.length is None and answer.some(1):
                raise Refused(f"it is longer than the {self._descriptor.size} bytes of its descriptor")
        except Broken:  # after the last byte: of no importance
            pass
        finally:
            answer.close()
            self._answer = None

    def _open(self) -> Answer:
        """The answer that holds the blob from `_at` on, or from its start, and then `_skip` says so."""
        blob = self._descriptor
        answer = self._endpoint.get(f"blobs/{blob.digest}", offset=self._at)
        try:
            self._check(answer)
        except BaseException:
            answer.close()
            raise
        return answer

    def _check(self, answer: Answer) -> None:
        blob = self._descriptor
        if answer.status == 206 and self._at:
            start = self._part(answer)
        elif answer.status == 200:
            start = 0
        elif answer.status == 416:
            raise Again(f"it does not have the {blob.size} bytes that it announced")
        else:
            failure = self._endpoint.failure(answer, f"the blob {blob.digest}")
            if isinstance(failure, ImageNotFound):
                raise Refused(f"the blob {blob.digest} is missing at {self._endpoint.origin}")
            raise failure
        encoding = answer.header("Content-Encoding")
        if encoding not in (None, "", "identity"):
            raise Refused(f"it came encoded as {encoding[:40]!a}, which was not asked for")
        if answer.length is not None and answer.length != blob.size - start:
            raise Refused(f"{answer.length + start} bytes were announced, its descriptor says {blob.size}")
        self._skip = self._at - start

    def _part(self, answer: Answer) -> int:
        """Where the part that the registry sends begins; it has to go on to the end. Raises Again."""
        text = answer.header("Content-Range") or ""
        found = _CONTENT_RANGE.fullmatch(text.strip())
        if found:
            first, last, size = int(found[1]), int(found[2]), found[3]
            if first == self._at and last == self._descriptor.size - 1 and size in ("*", str(self._descriptor.size)):
                return first
        raise Again(f"asked for the bytes from {self._at} on, it sent others ({text[:100]!a})")
