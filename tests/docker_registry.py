"""Debian's docker-registry on loopback, with whatever locks it can have."""

import base64
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

# me, pass:word; htpasswd -nbBC 4
HTPASSWD = "me:$2y$04$sej23PuAbfyMa7aH71WJ6uewKseRktNv/KAOVr7P/7IcHtuCT8Fa6\n"
USER = ("me", "pass:word")
SECRET = base64.b64encode(b"me:pass:word").decode()


@contextmanager
def registry(directory: Path, **more: object) -> Iterator[str]:
    """A registry that keeps its images in DIRECTORY; its address. MORE goes into its configuration."""
    config = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "images")}},
        "http": {"addr": "127.0.0.1:0"},
        **more,
    }
    directory.mkdir(exist_ok=True)
    file = directory / "config.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    log = directory / "log"
    with log.open("wb") as output, subprocess.Popen(["docker-registry", "serve", file], stderr=output) as process:
        try:
            deadline = time.monotonic() + 60
            while not (found := re.search(r"listening on ([0-9.]+:[0-9]+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield found[1]
        finally:
            process.terminate()


class TokenServer(ThreadingHTTPServer):
    """Gives `USER` tokens for whatever is asked, signed with the key of an RSA certificate; `asked` are the scopes."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), _TokenHandler)
        self.directory = directory
        self.asked: list[list[str]] = []
        words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens"]
        self._openssl("req", *words, "-keyout", "token.key", "-out", "token.crt")

    @property
    def configuration(self) -> dict[str, object]:
        """What the registry has to be told."""
        realm = f"http://127.0.0.1:{self.server_address[1]}/token"
        bundle = str(self.directory / "token.crt")
        return {"token": {"realm": realm, "service": "here", "issuer": "tests", "rootcertbundle": bundle}}

    def token(self, scopes: list[str]) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        certificate = "".join((self.directory / "token.crt").read_text().splitlines()[1:-1])
        now = int(time.time())
        claims = {"iss": "tests", "sub": USER[0], "aud": "here", "iat": now, "nbf": now - 5, "exp": now + 300}
        head = {"alg": "RS256", "typ": "JWT", "x5c": [certificate]}
        parts = [_encoded(json.dumps(part).encode()) for part in (head, {**claims, "jti": "1", "access": access})]
        signature = self._openssl("dgst", "-sha256", "-sign", "token.key", data=".".join(parts).encode())
        return ".".join((*parts, _encoded(signature)))

    def _openssl(self, *words: str, data: bytes = b"") -> bytes:
        done = subprocess.run(["openssl", *words], cwd=self.directory, check=True, capture_output=True, input=data)
        return done.stdout


class _TokenHandler(BaseHTTPRequestHandler):
    server: TokenServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        self.server.asked.append(scopes)
        right = self.headers.get("Authorization") == f"Basic {SECRET}"
        body = json.dumps({"token": self.server.token(scopes)} if right else {}).encode()
        self.send_response(200 if right else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@contextmanager
def token_server(directory: Path) -> Iterator[TokenServer]:
    directory.mkdir(exist_ok=True)
    server = TokenServer(directory)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
