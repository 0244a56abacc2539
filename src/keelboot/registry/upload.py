"""A blob on its way to a registry (OCI distribution specification 1.1, "Pushing blobs").

    POST uploads/           -> Location             what is small enough:    POST, PUT
    PATCH Location  0-...   -> Location
    PATCH Location  ...     -> Location             a chunk at a time; one that broke off is sent again from where the
    PUT Location?digest=    -> 201, and the blob is there                    registry says that it ends (GET Location)

An upload of several chunks has a bookmark: what a process that was killed had begun, the next one takes up where the
registry says that it ends. What is there is read and hashed once more, and not sent.

Before PUT the registry shows nothing of it. The digest is compared before the last byte leaves. Location is wherever
the registry says; credentials go there only if it is at the registry's own origin.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import new as new_hash
from typing import BinaryIO, Final, NoReturn

from keelboot.failure import Failure, NetworkFailed
from keelboot.image.documents import Descriptor
from keelboot.image.refusal import Refused
from keelboot.registry.answers import Again, told
from keelboot.registry.bookmark import Bookmark, Bookmarks, NoBookmark, no_bookmarks
from keelboot.registry.connections import Answer, Flow
from keelboot.registry.endpoint import Ask, Endpoint
from keelboot.registry.origin import redirected

CHUNK: Final = 16 << 20  # bytes, kept in memory until the registry has them
_CHUNK_MIN: Final = 256 << 10  # what a proxy before a registry lets through at the very least
_CHUNK_MAX: Final = 128 << 20
_BLOCK: Final = 1 << 20
_ANEW_MAX: Final = 6  # times that an upload is begun again because of what the registry says of it
_BYTES = {"Content-Type": "application/octet-stream"}
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,19})")

Advance = Callable[[int], None]


def has(endpoint: Endpoint, descriptor: Descriptor) -> bool:
    """Whether the registry has the blob, as far as it says."""
    answer = endpoint.ask(f"blobs/{descriptor.digest}", Ask(method="HEAD"))
    answer.close()
    if answer.status in (401, 403):
        raise endpoint.failure(answer, f"the blob {descriptor.digest}")
    # One that was cut short when it was stored is there by name only.
    return answer.status == 200 and answer.length in (None, descriptor.size)


class Session:
    """An upload as the registry knows it: `location`, where BOOKMARK is, is where the next part of it goes."""

    def __init__(
        self,
        endpoint: Endpoint,
        descriptor: Descriptor,
        location: str | None = None,
        *,
        bookmark: Bookmark | None = None,
    ) -> None:
        self.endpoint, self.descriptor, self.location = endpoint, descriptor, location
        self.bookmark = bookmark or NoBookmark()
        self.least = 0  # bytes that the registry wants in each chunk

    def begin(self) -> None:
        """Have one."""
        if self.location is not None:
            self.bookmark.put(self.location)
            return
        answer = self.endpoint.ask("blobs/uploads/", Ask(method="POST"))
        if answer.status != 202:
            raise self.endpoint.failure(answer, "an upload")
        self.accept(answer)
        least = answer.header("OCI-Chunk-Min-Length") or ""
        self.least = int(least) if least.isascii() and least.isdigit() and len(least) < 12 else 0

    def accept(self, answer: Answer) -> None:
        """Go on where ANSWER says. Raises NetworkFailed where one may not."""
        answer.close()
        location = answer.header("Location")
        try:
            if location is None:
                raise Refused("it does not say where (no Location)")  # noqa: TRY301 - told with the others
            self.location = redirected(answer.url, location)
        except Refused as error:
            raise NetworkFailed(
                f"cannot write to {self.endpoint.origin}",
                why=f"it takes an upload, and {error}",
                fix="The registry does not follow the OCI distribution specification; its administrator can tell why.",
            ) from error
        self.bookmark.put(self.location)

    def once(self, ask: Ask, *, closing: bool = False) -> Answer:
        """One try of ASK there; CLOSING says what blob it was. Raises Again."""
        assert self.location is not None
        url = self.location
        if closing:
            url += f"{'&' if '?' in url else '?'}digest={self.descriptor.digest}"
        return self.endpoint.once(url, ask)

    def cancel(self) -> None:
        """Have the registry forget what it got, if it will."""
        self.bookmark.remove()
        if self.location is not None:
            with suppress(Again, Failure, Refused):
                self.once(Ask(method="DELETE")).close()
            self.location = None


class _Anew(Exception):  # noqa: N818 - it is what has to be done
    """The registry does not go on with this upload; another one may do. COUNTED says that a pause was not made.

    SMALLER says that it may yet, by smaller requests.
    """

    def __init__(self, why: str, *, counted: bool = True, smaller: bool = False) -> None:
        super().__init__(why)
        self.counted, self.smaller = counted, smaller


class Upload:
    """Sends the blob that DESCRIPTOR names, which OPEN_BLOB opens from its start, to ENDPOINT's repository.

    ADVANCE is told of bytes as they are sent, and of a negative number where they have to be sent again.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        advance: Advance,
        *,
        chunk: int = CHUNK,
        bookmarks: Bookmarks = no_bookmarks,
    ) -> None:
        self._endpoint, self._descriptor, self._open_blob, self._advance = endpoint, descriptor, open_blob, advance
        self._bookmarks = bookmarks if descriptor.size > chunk else no_bookmarks
        self.chunk: int | None = chunk  # bytes to send at once; None is all, for registries that want that
        self._told = 0  # what ADVANCE was told
        self._failures = self._anew = 0
        self._secured = 0  # where the count of failures last began anew

    def run(self, location: str | None = None) -> None:
        """Do it; LOCATION is of an upload that was begun already, and to which nothing was sent.

        Raises NetworkFailed, AccessDenied, Refused, and what the source raises: the bookmark then stays.
        """
        with self._bookmarks(self._endpoint.name, self._descriptor.digest) as bookmark:
            taken = _remembered(self._endpoint, bookmark.location)
            while True:
                session = Session(self._endpoint, self._descriptor, taken or location, bookmark=bookmark)
                try:
                    with self._open_blob() as stream:
                        _Pass(self, session, stream, taken_up=taken is not None).run()
                except _Anew as anew:
                    self._begin_anew(anew, taken)
                    if taken is None:
                        location = None
                    # The bookmark is of the old one until there is a new one: the network may be what was wrong.
                    taken = session.location if taken and anew.smaller else None
                else:
                    bookmark.remove()
                    if taken and location:  # which nobody has a use for
                        Session(self._endpoint, self._descriptor, location).cancel()
                    self.tell(self._descriptor.size)
                    return

    def _begin_anew(self, anew: _Anew, taken: str | None) -> None:
        """Be ready to, because of ANEW, after an upload that was begun here, or that was TAKEN up."""
        if taken is not None:  # what another process was told of the registry counts for nothing
            self._failures = self._secured = 0
        else:
            self._anew += anew.counted
            if self._anew > _ANEW_MAX:
                raise NetworkFailed(
                    f"cannot write to {self._endpoint.origin}",
                    why=f"it does not go on with an upload: {anew}, {self._anew} times",
                    fix="Run the same command again; what has arrived is not sent a second time.",
                ) from anew
        self.tell(0)

    def failed(self, again: Again, secured: int) -> None:
        """Wait for the next try, of which those after some progress do not count; SECURED bytes are there."""
        if secured - self._secured >= self._endpoint.patience.progress:
            self._failures, self._secured = 0, secured
        self._failures += 1
        self._endpoint.wait(again, self._failures)
        self.tell(secured)

    def skipped(self, count: int) -> None:
        """Count what was sent another time."""
        self.sent(count)
        self._secured += count

    def sent(self, count: int) -> None:
        """Count what has left."""
        self._told += count
        self._advance(count)

    def tell(self, sent: int) -> None:
        """Say that SENT bytes have left in all."""
        if sent != self._told:
            self._advance(sent - self._told)
            self._told = sent

    def judge(self, answer: Answer, at: int) -> NoReturn:
        """What to do about an ANSWER, after AT bytes, that is neither success nor passing.

        Raises _Anew, or the failure that it is.
        """
        size = min(self.chunk or self._descriptor.size, self._descriptor.size)
        if answer.status == 413 and size > _CHUNK_MIN:
            self.chunk = max(_CHUNK_MIN, size // 4)
            raise _Anew(f"it answered 413{told(answer)}", smaller=True)
        if at and self.chunk is not None and answer.status in (400, 405, 411, 501):
            self.chunk = None  # some registries take no second chunk
        elif answer.status not in (404, 416):  # the registry has lost it, or has something else of it
            raise self._endpoint.failure(answer, f"the blob {self._descriptor.digest}")
        raise _Anew(f"it answered {answer.status}{told(answer)}")


class _Pass:
    """One way through the blob, from its first byte on."""

    def __init__(self, upload: Upload, session: Session, stream: BinaryIO, *, taken_up: bool) -> None:
        self._upload, self._session, self._stream, self._taken_up = upload, session, stream, taken_up
        self._descriptor = session.descriptor
        self._hash = new_hash(self._descriptor.digest.algorithm)
        self._read = 0  # bytes read from the stream
        self._at = 0  # bytes that the registry has
        self._taken_at = 0  # what it had of them before

    def run(self) -> None:
        """Send everything. Raises _Anew."""
        size = self._descriptor.size
        self._session.begin()
        if self._taken_up:
            self._skip()
        elif self._upload.chunk is None and size > CHUNK:
            self._session.bookmark.remove()  # what takes one piece only does not go on
            self._flow()
            return
        chunk = max(self._upload.chunk or size, min(self._session.least, _CHUNK_MAX))
        while size - self._read > chunk:
            self._patch(self._take(chunk))
        self._close(self._take(size - self._read))

    def _skip(self) -> None:
        """Read what the registry has of an upload that another process began. Raises _Anew."""
        self._find_out(0, self._descriptor.size)
        self._taken_at = self._at
        while self._read < self._at:
            self._upload.skipped(len(self._take(min(_BLOCK, self._at - self._read))))

    def _take(self, size: int) -> bytes:
        """The next SIZE bytes of the blob; with its last ones, its digest was found right."""
        pieces, missing = [], size
        while missing:
            piece = self._stream.read(missing)
            if not piece:
                self._wrong(f"it has {self._read} bytes, its descriptor says {self._descriptor.size}")
            self._hash.update(piece)
            self._read += len(piece)
            missing -= len(piece)
            pieces.append(piece)
        if self._read == self._descriptor.size:
            if self._stream.read(1):
                self._wrong(f"it is longer than the {self._read} bytes of its descriptor")
            if self._hash.hexdigest() != self._descriptor.digest.hex:
                self._wrong(f"its digest is not {self._descriptor.digest}")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _wrong(self, why: str) -> NoReturn:
        self._session.cancel()
        raise Refused(f"the blob {self._descriptor.digest}: {why}")

    def _patch(self, chunk: bytes) -> None:
        end = self._read
        while self._at < end:
            rest = memoryview(chunk)[self._at - end :]
            headers = {**_BYTES, "Content-Range": f"{self._at}-{end - 1}"}
            try:
                answer = self._once(Ask(method="PATCH", headers=headers, body=rest, sent=self._upload.sent))
            except Again as again:
                self._failed(again)
                self._find_out(end - len(chunk), end)
                continue
            if answer.status != 202:
                self._judge(answer)
            self._accept(answer)
            self._at = end

    def _close(self, chunk: bytes) -> None:
        end = self._read
        while True:
            rest = memoryview(chunk)[len(chunk) - (end - self._at) :]
            headers = {**_BYTES, "Content-Range": f"{self._at}-{end - 1}"} if self._at and len(rest) else _BYTES
            try:
                self._closed(self._put(rest, headers))
            except Again as again:
                self._failed(again)
                if has(self._session.endpoint, self._descriptor):  # the answer was lost, and nothing else
                    return
                self._find_out(end - len(chunk), end)
            else:
                return

    def _flow(self) -> None:
        """Send all of it in one request that is larger than what is kept in memory."""

        def pieces() -> Iterator[bytes]:
            while rest := self._descriptor.size - self._read:
                yield self._take(min(_BLOCK, rest))

        try:
            self._closed(self._put(Flow(self._descriptor.size, pieces()), _BYTES))
        except Again as again:
            self._upload.failed(again, 0)
            if not has(self._session.endpoint, self._descriptor):
                raise _Anew(again.why, counted=False) from again

    def _put(self, body: memoryview | Flow, headers: dict[str, str]) -> Answer:
        ask = Ask(method="PUT", headers=headers, body=body, sent=self._upload.sent)
        return self._once(ask, closing=True)

    @contextmanager
    def _excused(self) -> Iterator[None]:
        """Let it be no failure that an upload that was taken up brings nothing, or it would fail for ever.

        Raises _Anew.
        """
        try:
            yield
        except (Failure, Refused) as error:
            if self._taken_up and self._at == self._taken_at:
                raise _Anew(str(error)) from error
            raise

    def _once(self, ask: Ask, *, closing: bool = False) -> Answer:
        with self._excused():
            return self._session.once(ask, closing=closing)

    def _accept(self, answer: Answer) -> None:
        with self._excused():
            self._session.accept(answer)

    def _failed(self, again: Again) -> None:
        with self._excused():
            self._upload.failed(again, self._at)

    def _judge(self, answer: Answer) -> NoReturn:
        """What to do about ANSWER; if it is about an upload that was taken up, it says nothing of another one."""
        if self._taken_up and answer.status != 413:
            raise _Anew(f"it answered {answer.status}{told(answer)}")
        self._upload.judge(answer, self._at)

    def _closed(self, answer: Answer) -> None:
        """See that ANSWER says that the blob is there. Raises _Anew where it does not."""
        if answer.status == 201:
            answer.close()
        elif answer.status not in (200, 204) or not has(self._session.endpoint, self._descriptor):
            self._judge(answer)

    def _find_out(self, start: int, end: int) -> None:
        """Ask how much has arrived: from START to END is what can be sent again. Raises _Anew."""
        while True:
            try:
                answer = self._once(Ask())
                break
            except Again as again:
                self._failed(again)
        answer.close()
        header = (answer.header("Range") or "").strip()
        found = _RANGE.fullmatch(header)
        if answer.status != 204 or (header and not found):
            raise _Anew(f"it answered {answer.status} when asked how much has arrived")
        there = int(found[1]) + 1 if found else 0
        if there == 1 and self._at == 0:
            there = 0  # registries say 0-0 for nothing as well as for one byte
        if not start <= there <= end:
            raise _Anew(f"it says that {there} bytes have arrived, and {self._at} had")
        if answer.header("Location") is not None:
            self._accept(answer)
        self._at = there


def _remembered(endpoint: Endpoint, location: str | None) -> str | None:
    """LOCATION, if the registry might have said so today: what was kept is not trusted more than a header is."""
    try:
        return redirected(f"{endpoint.origin}/v2/", location) if location is not None else None
    except Refused:
        return None
