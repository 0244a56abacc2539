"""A registry in memory, on loopback: what the OCI distribution specification has, and every fault on demand.

It serves what an image layout holds, and takes what is pushed. `faults` has a queue for each kind of request (manifest,
blob, token, tags, referrers; head, upload, patch, put, status, publish for those that write); a request takes the next
fault of its queue, and is answered well once that is empty. `seen` is all that was asked.
"""

import base64
import hashlib
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

_PASSED = ("Content-Type", "Content-Range", "Docker-Content-Digest")


@dataclass
class Reply:
    """What is to be sent; a fault changes it, or sends something of its own and returns None."""

    status: int
    headers: dict[str, str]
    body: bytes


Fault = Callable[["Handler", Reply], Reply | None]


@dataclass
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: Message  # names in any case
    connection: int  # the client's port: equal for requests on one connection


@dataclass
class Registry:
    """Start it with `serving`."""

    host: str = "127.0.0.1"
    scheme: str = "http"
    port: int = 0
    user: tuple[str, str] | None = None  # name and password; None lets everyone in
    realm: str | None = None  # the token server; None is basic authentication
    token: str = "the-token"
    digest_header: bool = True
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # by tag and by digest
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    seen: list[Seen] = field(default_factory=list)
    sent: int = 0  # bytes of bodies of blobs
    sent_of: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # the same, by digest
    uploads: dict[str, bytearray] = field(default_factory=dict)
    begun: int = 0  # of them
    cuts: dict[str, list[int]] = field(
        default_factory=lambda: defaultdict(list)
    )  # by kind: a reset after so many bytes
    stalls: dict[str, list[int]] = field(
        default_factory=lambda: defaultdict(list)
    )  # by kind: no more is read after so many bytes, and what came is kept
    received: int = 0  # bytes of bodies
    elsewhere: dict[str, dict[str, bytes]] = field(default_factory=dict)  # by repository: what may be mounted
    chunks: bool = True  # whether an upload may have several
    largest: int = 1 << 40  # bytes of a request
    least: int = 0  # bytes of a chunk, as it asks for
    forgetful: bool = False  # loses an upload that a connection broke off
    lists: bool = False  # whether it has an API of referrers
    page: int = 100  # referrers in an answer
    upload_url: str = ""  # where uploads go, if elsewhere
    upstream: str = ""  # the address of a registry that answers in place of this one: then only the faults are here
    aimed: Callable[[str], bool] | None = None  # which paths meet the faults of the queue `aimed`

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"

    def add(self, layout: Path, *tags: str) -> str:
        """Serve the one image of LAYOUT under TAGS; its manifest's digest."""
        for path in (layout / "blobs/sha256").iterdir():
            self.blobs[f"sha256:{path.name}"] = path.read_bytes()
        first = json.loads((layout / "index.json").read_text())["manifests"][0]
        self.put(self.blobs[first["digest"]], first["mediaType"], *tags)
        return str(first["digest"])

    def put(self, data: bytes, media_type: str, *tags: str) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        for name in (digest, *tags):
            self.manifests[name] = (media_type, data)
        return digest

    def count(self, kind: str) -> int:
        return sum(f"/{kind}/" in seen.path for seen in self.seen)

    def secrets(self) -> list[str]:
        """The values of Authorization that came here."""
        return [seen.headers["Authorization"] for seen in self.seen if "Authorization" in seen.headers]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 20

    @property
    def registry(self) -> Registry:
        return self.server.registry  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        if not self.path.startswith("/token"):
            self.write("upload")
            return
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_HEAD(self) -> None:
        self.write("head")

    def do_PATCH(self) -> None:
        self.write("patch")

    def do_PUT(self) -> None:
        self.write("publish" if "/manifests/" in self.path else "put")

    def do_DELETE(self) -> None:
        self.write("delete")

    def write(self, kind: str) -> None:
        """Answer what changes something, or asks before it does."""
        registry = self.registry
        registry.seen.append(Seen(self.command, self.path, self.headers, self.client_address[1]))
        size = int(self.headers.get("Content-Length", 0)) if kind != "head" else 0
        cut = registry.cuts[kind].pop(0) if registry.cuts[kind] else None
        stall = registry.stalls[kind].pop(0) if registry.stalls[kind] else None
        self.body = self.rfile.read(min(size if limit is None else limit for limit in (size, cut, stall)))
        short = len(self.body) < size or cut is not None
        if short:
            self.keep()
        registry.received += len(self.body)
        if short:
            if stall is not None:
                self.server.ended.wait(100)  # type: ignore[attr-defined]
            self.reset()
            return
        reply: Reply | None = error(413, "TOO_LARGE", {}) if size > registry.largest else self.written(kind)
        if registry.faults[kind]:
            reply = registry.faults[kind].pop(0)(self, reply or error(500, "BUG", {}))
        if reply is not None:
            self.send(reply, only=0 if kind == "head" else None)

    def keep(self) -> None:
        """What came of a chunk before the connection broke off."""
        upload = self.path.partition("?")[0].rpartition("/")[2]
        if self.registry.forgetful:
            self.registry.uploads.pop(upload, None)
        elif (self.headers["Content-Range"] or "0-").startswith(f"{len(self.registry.uploads.get(upload, ''))}-"):
            self.registry.uploads[upload] += self.body

    def written(self, kind: str) -> Reply:
        registry = self.registry
        if not self.allowed():
            scheme = f'Bearer realm="{registry.realm}",service="here"' if registry.realm else 'Basic realm="here, now"'
            return error(401, "UNAUTHORIZED", {"WWW-Authenticate": scheme})
        path, _, query = self.path.partition("?")
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        name = path.rpartition("/")[2]
        if kind == "head":
            known = registry.blobs.get(name) if "/blobs/" in path else registry.manifests.get(name, (0, None))[1]
            if known is None:
                return error(404, "UNKNOWN", {})
            return Reply(200, {"Docker-Content-Digest": f"sha256:{hashlib.sha256(known).hexdigest()}"}, known)
        if kind == "publish":
            return self.published(name)
        if kind == "upload":
            known = registry.elsewhere.get(asked.get("from", ""), {}).get(asked.get("mount", ""))
            if known is not None:
                registry.blobs[asked["mount"]] = known
                return Reply(201, {"Location": f"/v2/x/blobs/{asked['mount']}"}, b"")
            registry.begun += 1
            name = f"upload-{registry.begun}"
            registry.uploads[name] = bytearray()
            return self.going_on(202, name)
        if name not in registry.uploads:
            return error(404, "BLOB_UPLOAD_UNKNOWN", {})
        upload = registry.uploads[name]
        start = re.match("([0-9]+)-", self.headers.get("Content-Range", "") or f"{len(upload)}-")
        assert start
        if int(start[1]) != len(upload):
            return error(416, "RANGE_INVALID", {})
        if not registry.chunks and upload and self.body:
            return error(400, "CHUNKS_UNSUPPORTED", {})
        upload += self.body
        if kind == "patch":
            return self.going_on(202, name)
        del registry.uploads[name]
        if kind == "delete":
            return Reply(204, {}, b"")
        if f"sha256:{hashlib.sha256(upload).hexdigest()}" != asked.get("digest"):
            return error(400, "DIGEST_INVALID", {})
        registry.blobs[asked["digest"]] = bytes(upload)
        return Reply(201, {"Location": f"/v2/x/blobs/{asked['digest']}"}, b"")

    def going_on(self, status: int, name: str) -> Reply:
        registry = self.registry
        least = {"OCI-Chunk-Min-Length": str(registry.least)} if registry.least else {}
        there = {"Range": f"0-{max(0, len(registry.uploads[name]) - 1)}"}
        location = f"{registry.upload_url or ''}/v2/x/blobs/uploads/{name}?state=a%20b"
        return Reply(status, {"Location": location, **there, **least}, b"")

    def published(self, name: str) -> Reply:
        registry = self.registry
        document = json.loads(self.body)
        media_type = self.headers["Content-Type"]
        blobs = [*document.get("layers", []), *([document["config"]] if "config" in document else [])]
        if any(one["digest"] not in registry.blobs for one in blobs):
            return error(404, "MANIFEST_BLOB_UNKNOWN", {})
        if any(one["digest"] not in registry.manifests for one in document.get("manifests", [])):
            return error(404, "MANIFEST_UNKNOWN", {})
        digest = registry.put(self.body, media_type, name)
        subject = document.get("subject", {}).get("digest")
        stated = {"OCI-Subject": subject} if subject and registry.lists else {}
        return Reply(201, {"Docker-Content-Digest": digest, **stated}, b"")

    def do_GET(self) -> None:
        registry = self.registry
        registry.seen.append(Seen(self.command, self.path, self.headers, self.client_address[1]))
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags)/([^/?]+)(\?.*)?", self.path)
        kind = found[2].rstrip("s") if found else "token" if self.path.startswith("/token") else "other"
        if other := re.fullmatch(r"/v2/.+/(referrers|uploads)/([^/?]+)(\?.*)?", self.path):
            kind = {"referrers": "referrers", "uploads": "status"}[other[1]]
        reply: Reply | None = self.reply(found[2] if found else kind, (found or other or ("",) * 4)[3 if found else 2])
        if registry.aimed and registry.aimed(self.path) and (kind == "token" or self.allowed()):
            kind = "aimed"
        if registry.faults[kind]:
            reply = registry.faults[kind].pop(0)(self, reply)
        if reply is not None:
            self.send(reply)

    def forwarded(self) -> Reply:
        """What the registry that this one stands before answers."""
        connection = HTTPConnection(self.registry.upstream, timeout=20)
        passed = {name: self.headers[name] for name in ("Accept", "Range") if name in self.headers}
        connection.request("GET", self.path, headers=passed)
        answer = connection.getresponse()
        headers = {name: answer.headers[name] for name in _PASSED if name in answer.headers}
        reply = Reply(answer.status, headers, answer.read())
        connection.close()
        return reply

    def reply(self, kind: str, what: str) -> Reply:
        registry = self.registry
        if kind == "token":
            return self.token()
        if not self.allowed():
            scheme = f'Bearer realm="{registry.realm}",service="here"' if registry.realm else 'Basic realm="here, now"'
            return error(401, "UNAUTHORIZED", {"WWW-Authenticate": scheme})
        if registry.upstream:
            return self.forwarded()
        if kind == "manifests" and what in registry.manifests:
            media_type, data = registry.manifests[what]
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            stated = {"Docker-Content-Digest": digest} if registry.digest_header else {}
            return Reply(200, {"Content-Type": media_type, **stated}, data)
        if kind == "blobs" and what in registry.blobs:
            return self.ranged(registry.blobs[what])
        if kind == "referrers" and registry.lists:
            return self.referrers(what)
        if kind == "status" and what in registry.uploads:
            return self.going_on(204, what)
        if kind == "tags":
            tags = sorted(name for name in registry.manifests if ":" not in name)
            return Reply(200, {"Content-Type": "application/json"}, json.dumps({"name": "x", "tags": tags}).encode())
        return error(404, "UNKNOWN", {})

    def referrers(self, subject: str) -> Reply:
        found = []
        for name, (media_type, data) in self.registry.manifests.items():
            document = json.loads(data)
            if ":" in name and document.get("subject", {}).get("digest") == subject:
                found.append({"mediaType": media_type, "digest": name, "size": len(data)})
        at = int(parse_qs(urlsplit(self.path).query).get("at", ["0"])[0])
        page = self.registry.page
        more = {"Link": f'</v2/x/referrers/{subject}?at={at + page}>; rel="next"'} if len(found) > at + page else {}
        media_type = "application/vnd.oci.image.index.v1+json"
        body = {"schemaVersion": 2, "mediaType": media_type, "manifests": found[at : at + page]}
        return Reply(200, {"Content-Type": media_type, **more}, json.dumps(body).encode())

    def ranged(self, data: bytes) -> Reply:
        asked = re.fullmatch("bytes=([0-9]+)-", self.headers.get("Range", ""))
        if not asked:
            return Reply(200, {"Content-Type": "application/octet-stream"}, data)
        first = int(asked[1])
        return Reply(206, {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}, data[first:])

    def allowed(self) -> bool:
        registry = self.registry
        if registry.user is None:
            return True
        given = self.headers.get("Authorization", "")
        return given == (f"Bearer {registry.token}" if registry.realm else basic(*registry.user))

    def token(self) -> Reply:
        registry = self.registry
        user = registry.user or ("", "")
        if self.command == "POST":
            form = parse_qs(self.body.decode())
            right = form["refresh_token"] == [user[1]] and form["grant_type"] == ["refresh_token"]
        else:
            scope = parse_qs(urlsplit(self.path).query).get("scope", [""])[0]
            right = self.headers.get("Authorization") == basic(*user) and re.search(":(pull|pull,push)$", scope)
        if not right:
            return error(401, "DENIED", {})
        return Reply(200, {"Content-Type": "application/json"}, json.dumps({"token": registry.token}).encode())

    def send(self, reply: Reply, *, length: int | None = None, only: int | None = None) -> None:
        """REPLY, with LENGTH as its Content-Length, of which ONLY so many bytes are sent."""
        self.send_response(reply.status)
        headers = {"Content-Length": str(len(reply.body) if length is None else length), **reply.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        body = reply.body if only is None else reply.body[:only]
        with suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)
        if "/blobs/" in self.path:
            self.registry.sent += len(body)
            self.registry.sent_of[self.path.rpartition("/")[2]] += len(body)

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.end()

    def end(self) -> None:
        self.close_connection = True
        self.connection.close()


def error(status: int, code: str, headers: dict[str, str]) -> Reply:
    body = {"errors": [{"code": code, "message": f"no\x1b[31m: {code.lower()}"}]}
    return Reply(status, headers, json.dumps(body).encode())


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# Faults.


def truncated(after: int) -> Fault:
    """All headers, AFTER bytes, and the end of the connection."""

    def fault(handler: Handler, reply: Reply) -> None:
        handler.send(reply, only=after)
        handler.close_connection = True

    return fault


def reset(after: int) -> Fault:
    """AFTER bytes, and a TCP reset."""

    def fault(handler: Handler, reply: Reply) -> None:
        handler.send(reply, only=after)
        time.sleep(0.05)  # what was sent has to arrive: a reset may overtake it
        handler.reset()

    return fault


def dropped(handler: Handler, _: Reply) -> None:
    """No answer at all."""
    handler.end()


def stalled(after: int, seconds: float) -> Fault:
    """AFTER bytes, and silence."""

    def fault(handler: Handler, reply: Reply) -> None:
        handler.send(reply, only=after)
        handler.server.ended.wait(seconds)  # type: ignore[attr-defined]
        handler.close_connection = True

    return fault


def trickling(pause: float, count: int) -> Fault:
    """One byte after the other, with a pause before each, COUNT times."""

    def fault(handler: Handler, reply: Reply) -> None:
        handler.send(reply, only=0)
        with suppress(BrokenPipeError, ConnectionResetError):
            for byte in reply.body[:count]:
                time.sleep(pause)
                handler.wfile.write(bytes((byte,)))
        handler.close_connection = True

    return fault


def slow_headers(pause: float, count: int) -> Fault:
    """Header after header, without an end."""

    def fault(handler: Handler, _: Reply) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for number in range(count):
                handler.wfile.write(b"X-%d: y\r\n" % number)
                time.sleep(pause)
        handler.close_connection = True

    return fault


def answering(status: int, headers: dict[str, str] | None = None, body: bytes = b"{}") -> Fault:
    """Another answer."""
    return lambda _handler, _reply: Reply(status, headers or {}, body)


def redirecting(location: str, status: int = 307) -> Fault:
    return answering(status, {"Location": location}, b"")


def with_headers(headers: Mapping[str, str]) -> Fault:
    """The right answer with other headers."""

    def fault(_: Handler, reply: Reply) -> Reply:
        return Reply(reply.status, {**reply.headers, **headers}, reply.body)

    return fault


def with_body(change: Callable[[bytes], bytes]) -> Fault:
    """The right headers with another body, of whatever length."""

    def fault(_: Handler, reply: Reply) -> Reply:
        return Reply(reply.status, reply.headers, change(reply.body))

    return fault


def chunked(tail: bytes = b"0\r\n\r\n", extra: bytes = b"") -> Fault:
    """The right body and EXTRA, without a length."""

    def fault(handler: Handler, reply: Reply) -> None:
        handler.send_response(reply.status)
        for name, value in {**reply.headers, "Transfer-Encoding": "chunked"}.items():
            handler.send_header(name, value)
        handler.end_headers()
        body = reply.body + extra
        with suppress(BrokenPipeError, ConnectionResetError):
            for at in range(0, len(body), 10_000):
                piece = body[at : at + 10_000]
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            handler.wfile.write(tail)
        handler.close_connection = not tail

    return fault


def whole(handler: Handler, _: Reply) -> Reply:
    """Everything, whatever part was asked for."""
    digest = handler.path.rpartition("/")[2]
    return Reply(200, {}, handler.registry.blobs[digest])


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, registry: Registry, context: ssl.SSLContext | None) -> None:
        super().__init__((registry.host, registry.port), Handler)
        self.registry, self.context = registry, context
        self.ended = threading.Event()
        self._open: list[socket.socket] = []
        self._answering: list[threading.Thread] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self._open.append(request)
        self._answering.append(thread)
        thread.start()

    def end(self) -> None:
        """Break off what is under way; no thread is left then, as a process that has some is not forked."""
        self.shutdown()
        self.server_close()
        self.ended.set()
        for connection in self._open:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._answering:
            thread.join()

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        if self.context is not None:
            connection.settimeout(5)
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, *_: object) -> None:
        """Connections that the client drops are part of the tests."""


@contextmanager
def serving(registry: Registry, context: ssl.SSLContext | None = None) -> Iterator[Registry]:
    """REGISTRY at an address of its own, over TLS with CONTEXT."""
    if context is not None:
        registry.scheme = "https"
    server = _Server(registry, context)
    registry.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.end()
        thread.join()
