"""The door to the network: one request at a time over connections that are kept, through urllib3 1.26 or 2.

No redirect is followed here, no answer is asked for twice and no body is decoded: that is for those who know what was
asked. Time is bounded by `Patience`: silence, and slowness in the headers and in the body.
"""

import http.client
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError, SSLError
from urllib3.util import Timeout, make_headers, parse_url
from urllib3.util.ssl_match_hostname import CertificateError

from keelboot.failure import Failure
from keelboot.registry.origin import Origin
from keelboot.registry.patience import Patience
from keelboot.registry.throttle import Throttle

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

# The origin, the registry that leads to it, and whether any certificate will do.
Tls = Callable[[Origin, Origin, bool], ssl.SSLContext]
Proxy = Callable[[Origin], str | None]
_KEPT: Final = 8  # connections to one host
_PIECE: Final = 16 << 10  # bytes of a request's body: each of them may take as long as a connection
_IS_OLD: Final = urllib3.__version__.startswith("1.")  # type: ignore[attr-defined]  # it is there in both


class Broken(Exception):  # noqa: N818 - it is what happened to the connection
    """There is no answer, or not all of it. `reached` says that the host was."""

    def __init__(self, why: str, *, reached: bool) -> None:
        super().__init__(why)
        self.reached = reached


class Distrusted(Exception):  # noqa: N818 - it is what happened to the server
    """The server's certificate does not satisfy; asking again will not help."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A body that is made while it goes, and so once: SIZE bytes."""

    size: int
    pieces: Iterator[bytes]


class Cut(Exception):  # noqa: N818 - it is what happened to the work
    """`Connections.cut` was called: whoever works with them is to end."""


class Answer:
    """The answer to one request: its body is still to be read. `headers` are as they came, names in any case."""

    def __init__(
        self, response: "BaseHTTPResponse", method: str, url: str, patience: Patience, throttle: Throttle | None = None
    ) -> None:
        self._response, self.method, self.url = response, method, url
        self._patience, self._throttle = patience, throttle
        self.status: int = response.status
        # RFC 9112, 6.3: these have no body, whatever length their headers tell of.
        self._left = 0 if method == "HEAD" or self.status in (204, 304) else self.length
        self._window_start, self._window_bytes = time.monotonic(), 0

    def header(self, name: str) -> str | None:
        """The value of the header NAME; several of the name are one, with commas between."""
        return self._response.headers.get(name)

    def all_headers(self, name: str) -> list[str]:
        """The values of the header NAME, one for each time it is there."""
        return list(self._response.headers.getlist(name))

    @property
    def length(self) -> int | None:
        """How many bytes the body is said to have, None where it is not said."""
        if self.header("Transfer-Encoding") is not None:
            return None  # which then says where the body ends (RFC 9112, 6.3)
        text = self.header("Content-Length")
        return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 20 else None

    def some(self, size: int) -> bytes:
        """What has come of the body, SIZE bytes at most; nothing at its end. Raises Broken."""
        if self._throttle:
            size = min(size, self._throttle.piece)
        with _translated():
            data = self._receive(size)
        if self._throttle:
            self._throttle.passed(len(data))
        if not data and self._left:
            raise Broken(f"the connection ended {self._left} bytes too early", reached=True)
        if self._left is not None:
            self._left -= len(data)
        self._judge(len(data))
        return data

    def _receive(self, size: int) -> bytes:
        if hasattr(self._response, "read1"):
            return self._response.read1(size, decode_content=False)
        # urllib3 before 2 only has a read that waits until all SIZE bytes are there, however slowly they come.
        data: bytes = self._response._fp.read1(size)  # type: ignore[attr-defined]  # noqa: SLF001 - see above
        return data

    def _judge(self, received: int) -> None:
        """Bound slowness: one byte now and then is not silence, and would go on for days."""
        self._window_bytes += received
        elapsed = time.monotonic() - self._window_start
        if elapsed >= self._patience.silence:
            if received and self._window_bytes < self._patience.slowest * elapsed:
                raise Broken(f"only {self._window_bytes} bytes came in {elapsed:.0f} seconds", reached=True)
            self._window_start, self._window_bytes = time.monotonic(), 0

    def close(self) -> None:
        """Keep the connection if the body was read to its end, drop it otherwise."""
        if self._left == 0 or self._response.closed:
            with suppress(HTTPError, http.client.HTTPException, OSError):
                self._response.drain_conn()  # of nothing; it is what gives the connection back
        else:
            self._response.close()
        self._response.release_conn()


class Connections:
    """Connections to any number of hosts, for any number of threads. After a fork, a process opens its own."""

    def __init__(
        self, tls: Tls, proxy: Proxy, patience: Patience, *, agent: str, throttle: Throttle | None = None
    ) -> None:
        self._tls, self._proxy, self._patience, self._agent = tls, proxy, patience, agent
        self._throttle = throttle
        self._open: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._is_cut = threading.Event()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._managers: dict[tuple[Origin, Origin, bool], urllib3.PoolManager] = {}

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        body: bytes | memoryview | Flow | None = None,
        sent: Callable[[int], None] | None = None,
        led_by: Origin | None = None,
        insecure: bool = False,
    ) -> Answer:
        """The answer to METHOD at URL, whatever its status is. INSECURE takes any certificate.

        LED_BY is the registry that URL was learned from, None for its own: its authorities count there too.

        SENT is told of the bytes of BODY as they go. Raises Broken, Distrusted, Cut, and Failure for a proxy that
        cannot be used.
        """
        if self._is_cut.is_set():
            raise Cut
        fixed = {"User-Agent": self._agent, "Accept-Encoding": "identity"}
        if body is not None:
            fixed["Content-Length"] = str(body.size if isinstance(body, Flow) else len(body))
        origin = Origin.of(url)
        manager = self._manager(origin, led_by or origin, insecure=insecure)
        with _translated():
            response = manager.urlopen(
                method,
                url,
                redirect=False,
                retries=False,
                headers={**headers, **fixed},
                body=None if body is None else self._pieces(body, sent),
                preload_content=False,
                decode_content=False,
                timeout=Timeout(connect=self._patience.connect, read=self._patience.silence),
            )
        return Answer(response, method, url, self._patience, self._throttle)

    def _pieces(self, body: bytes | memoryview | Flow, sent: Callable[[int], None] | None) -> Iterator[memoryview]:
        size = min(_PIECE, self._throttle.piece if self._throttle else _PIECE)
        for block in body.pieces if isinstance(body, Flow) else (body,):
            for at in range(0, len(block), size):
                piece = memoryview(block)[at : at + size]
                yield piece
                if self._throttle:
                    self._throttle.passed(len(piece))
                if sent:
                    sent(len(piece))

    def cut(self) -> None:
        """End what other threads are doing with connections, at once, and let nobody begin anything."""
        self._is_cut.set()
        for connection in list(self._open):
            if (its_socket := connection.sock) is not None:
                with suppress(OSError):
                    socket.socket.shutdown(its_socket, socket.SHUT_RDWR)

    def pause(self, seconds: float) -> None:
        """Wait, but not once it is over."""
        self._is_cut.wait(seconds)

    def close(self) -> None:
        """Close what is open; the next request opens it again."""
        with self._lock:
            managers, self._managers = self._managers, {}
        if self._pid == os.getpid():
            for manager in managers.values():
                manager.clear()

    def _manager(self, origin: Origin, led_by: Origin, *, insecure: bool) -> urllib3.PoolManager:
        if self._pid != os.getpid():
            # A connection that two processes write to mixes up their requests. Closing the copies here is left to the
            # collector: it closes this process's descriptors and says nothing to the other end. The lock may have been
            # held by a thread that is not in this process.
            self._lock, self._managers, self._pid = threading.Lock(), {}, os.getpid()
        with self._lock:
            key = (origin, led_by, insecure)
            if key not in self._managers:
                self._managers[key] = self._new_manager(*key)
            return self._managers[key]

    def _new_manager(self, origin: Origin, led_by: Origin, insecure: bool) -> urllib3.PoolManager:
        if insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        context = self._tls(origin, led_by, insecure) if origin.scheme == "https" else None
        if context and origin.is_address and _IS_OLD:
            context.check_hostname = False  # which it cannot have for an address: it compares that itself
        proxy = self._proxy(origin)
        manager = (
            _proxied(proxy, context) if proxy else urllib3.PoolManager(num_pools=1, maxsize=_KEPT, ssl_context=context)
        )
        answer_time = self._patience.answer
        manager.pool_classes_by_scheme = {
            "http": _pool_class(HTTPConnectionPool, _impatient(HTTPConnection, answer_time, self._open)),
            "https": _pool_class(HTTPSConnectionPool, _impatient(HTTPSConnection, answer_time, self._open)),
        }
        return manager


def _proxied(proxy: str, context: ssl.SSLContext | None) -> urllib3.PoolManager:
    try:
        parsed = parse_url(proxy if "://" in proxy else f"http://{proxy}")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"its scheme is {parsed.scheme}")  # noqa: TRY301 - told with the others
        headers = make_headers(proxy_basic_auth=parsed.auth) if parsed.auth else None
        url = parsed._replace(auth=None).url
        return urllib3.ProxyManager(url, maxsize=_KEPT, proxy_headers=headers, ssl_context=context)
    except (ValueError, HTTPError) as error:
        raise Failure(
            "cannot use the proxy that the environment names",
            why="it is not the URL of an http or https proxy",
            fix="Write http_proxy and https_proxy like http://proxy.example.org:3128.",
        ) from error


def _pool_class(pool: type[HTTPConnectionPool], connection: type[HTTPConnection]) -> type[HTTPConnectionPool]:
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


def _impatient(
    connection: type[HTTPConnection], seconds: float, known: weakref.WeakSet[HTTPConnection]
) -> type[HTTPConnection]:
    """CONNECTION, with SECONDS for all headers of an answer together: a socket's timeout begins anew with each byte.

    Those that were opened are KNOWN.
    """

    def getresponse(self: HTTPConnection):  # type: ignore[no-untyped-def]  # noqa: ANN202 - differs between urllib3 1.26 and 2
        waited_for, late = self.sock, threading.Event()

        def cut() -> None:
            late.set()
            with suppress(OSError):
                # Not SSLSocket's own method: it takes the TLS state away from the thread that is reading.
                socket.socket.shutdown(waited_for, socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            answer = connection.getresponse(self)
        finally:
            timer.cancel()
            timer.join()  # a process that has threads is not forked, and layers are read by several
        if late.is_set():
            # http.client takes headers that break off for all of them.
            answer.close()
            raise TimeoutError("the headers take too long")
        return answer

    def connect(self: HTTPConnection) -> None:
        known.add(self)
        connection.connect(self)

    return type(connection.__name__, (connection,), {"getresponse": getresponse, "connect": connect})


@contextmanager
def _translated() -> Iterator[None]:
    """Turns what urllib3, http.client and sockets raise into Broken and Distrusted."""
    try:
        yield
    except (HTTPError, http.client.HTTPException, OSError) as error:
        reason = _certificate(error)
        if reason is not None:
            raise Distrusted(reason) from error
        raise Broken(_words(error), reached=not isinstance(error, NewConnectionError)) from error


def _certificate(error: BaseException) -> str | None:
    """Why a certificate was refused, if it was."""
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message or str(cause)
        if isinstance(cause, CertificateError):  # urllib3's own comparison, see _IS_OLD
            return str(cause)
    return None


def _words(error: BaseException) -> str:
    """What went wrong, in the words of the operating system or of OpenSSL where it was one of these."""
    chain = _chain(error)
    for cause in chain:
        if isinstance(cause, socket.gaierror):
            return f"its name cannot be resolved ({cause.strerror})"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({cause.reason or cause.strerror or cause})"
        if isinstance(cause, TimeoutError):
            return "it does not answer in time"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    if isinstance(error, SSLError):
        return "TLS failed"
    text = str(error.args[-1] if error.args else error)
    # What is no HTTP is quoted here, whatever it would do to a terminal.
    return ascii(text)[1:-1][:200] or type(error).__name__


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    pending: list[BaseException] = [error]
    while pending and len(found) < 16:
        one = pending.pop(0)
        if one in found:
            continue
        found.append(one)
        pending.extend(part for part in (*one.args, one.__cause__, one.__context__) if isinstance(part, BaseException))
    return found
