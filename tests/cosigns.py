"""Real cosigns, of Debian's suites, unpacked into the user's cache; and registries that have an interface of referrers.

The suites come from the mirror that this machine's apt has its own release from, by a configuration of its own: nothing
of the machine's is changed, and no root is needed.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SUITES = {2: "trixie", 3: "sid"}
PASSWORD = "pass word"
_GO_REGISTRY = "github.com/google/go-containerregistry/cmd/registry@v0.22.1"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Missing(Exception):  # noqa: N818 - it is what is the matter
    """What a test needs cannot be had here; the text says why."""


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keelboot-tests"


@dataclass
class Cosign:
    """One of them. Keys are in `home`, with `PASSWORD`."""

    program: Path
    home: Path

    @property
    def version(self) -> str:
        """As Debian has it."""
        return (self.program.parents[2] / "version").read_text()

    def __call__(
        self, *words: str | Path, check: bool = True, experimental: bool = False
    ) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "COSIGN_PASSWORD": PASSWORD}
        environment["HTTPS_PROXY"] = "http://127.0.0.1:9"  # to whom nothing leaves this machine
        if experimental:
            environment["COSIGN_EXPERIMENTAL"] = "1"
        done = subprocess.run(
            [self.program, *words],
            cwd=self.home,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done


def cosign(major: int, home: Path) -> Cosign:
    """cosign of the version MAJOR, with HOME as its home. Raises Missing."""
    place = cache() / f"cosign-{major}"
    if not (place / "version").exists():
        _fetch("cosign", SUITES[major], place)
    found = Cosign(place / "usr/bin/cosign", home)
    if not found.version.startswith(f"{major}."):
        raise Missing(f"{SUITES[major]} has cosign {found.version}, not {major}")
    return found


def skopeo() -> list[str]:
    """skopeo that verifies signatures, as words to call it by: Debian 12's was built without. Raises Missing."""
    own = shutil.which("skopeo")
    if own and not _without_signatures(Path(own)):
        return [own]
    return _unpacked("skopeo")


def podman(home: Path) -> tuple[list[str], dict[str, str]]:
    """podman that verifies signatures, by what words and in what environment; its store is in HOME. Raises Missing.

    It calls itself by its file, so it runs with what it was unpacked with as its root, and HOME where it is.
    """
    if os.geteuid() != 0:
        raise Missing("an unpacked podman of another release works for root only")
    # With what it asks for before it does anything, whether that is needed or not.
    root = Path(_unpacked("podman", "netavark", "catatonit")[-1]).parents[2]
    for name in ("proc", "dev", "sys", "var/tmp", str(home).lstrip("/")):
        (root / name).mkdir(parents=True, exist_ok=True)
    for link, target in (("lib64", "usr/lib64"), ("lib", "usr/lib")):
        if not (root / link).is_symlink():
            (root / link).symlink_to(target)
    entering = (
        f"set -e; mount --bind '{root}' '{root}'; mount -t proc proc '{root}/proc'; mount --rbind /dev '{root}/dev'; "
        f"mount --rbind /sys '{root}/sys'; "
        f"mount --bind '{home}' '{root}{home}'; exec chroot '{root}' /usr/bin/podman \"$@\""
    )
    own = ["--root", home / "root", "--runroot", home / "run", "--tmpdir", home / "tmp", "--storage-driver", "vfs"]
    words = ["unshare", "--mount", "sh", "-c", entering, "podman", *map(str, own)]
    return words, {"PATH": os.environ["PATH"], "HOME": str(home)}


def _unpacked(package: str, *others: str) -> list[str]:
    """trixie's PACKAGE, as words to call its program by, which runs with its own libraries."""
    place = cache() / package
    if not (place / "version").exists():
        _fetch(package, "trixie", place, "install", "--download-only", "--no-install-recommends", "-y", *others)
    program = place / "usr/bin" / package
    if _without_signatures(program):
        raise Missing(f"{package} of trixie was built without signatures of this kind, too")
    libraries = next(place.glob("usr/lib/*/libc.so.6")).parent
    return [str(next(libraries.glob("ld-linux*.so.*"))), "--library-path", str(libraries), str(program)]


def _without_signatures(program: Path) -> bool:
    return b"sigstore disabled" in program.read_bytes()


def _fetch(package: str, suite: str, place: Path, *words: str) -> None:
    """Unpack PACKAGE of SUITE into PLACE, as `apt-get WORDS` gets it: with what it needs, or alone."""
    if not all(map(shutil.which, ("apt-get", "dpkg-deb"))):
        raise Missing(f"{package} comes with apt, which is not here")
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as directory:
        draft = Path(directory) / "draft"
        _unpack(package, suite, draft, Path(directory) / "apt", words or ("download",))
        with suppress(OSError):  # another run was quicker
            draft.rename(place)


def _unpack(package: str, suite: str, draft: Path, apt: Path, words: tuple[str, ...]) -> None:
    for name in ("lists/partial", "archives/partial", "parts"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    (apt / "sources").write_text(f"deb [signed-by={_KEYRING}] {_mirror()} {suite} main\n")
    settings = {
        "Dir::Etc::sourcelist": apt / "sources",
        "Dir::Etc::sourceparts": apt / "parts",
        "Dir::Etc::preferencesparts": apt / "parts",
        "Dir::State": apt,
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt,
        "APT::Sandbox::User": "root",
        "Acquire::Check-Valid-Until": "false",  # of a frozen mirror
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    options = [f"-o{name}={value}" for name, value in settings.items()]
    try:
        for line in (["update"], [*words, package]):
            command = ["apt-get", "-q", *options, *line]
            subprocess.run(command, cwd=apt / "archives", check=True, capture_output=True, timeout=600)
        packages = sorted((apt / "archives").glob("*.deb"))
        for one in packages:
            subprocess.run(["dpkg-deb", "-x", one, draft], check=True, capture_output=True)
        (version,) = (one.name.split("_")[1] for one in packages if one.name.startswith(f"{package}_"))
    except (subprocess.SubprocessError, ValueError) as error:
        raise Missing(f"{package} of {suite} cannot be had: {getattr(error, 'stderr', None) or error!r}") from error
    (draft / "version").write_text(version)


def _mirror() -> str:
    """The mirror that this machine's apt has its own release from."""
    words = [
        "apt-get",
        "indextargets",
        "--no-release-info",
        "--format",
        "$(REPO_URI) $(RELEASE)",
        "Created-By: Packages",
    ]
    listed = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    release = re.search(r"^VERSION_CODENAME=(.+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
    found = [line.split()[0] for line in listed.splitlines() if release and line.split()[1] == release[1]]
    if not found or not Path(_KEYRING).exists():
        raise Missing("apt of this machine has no mirror of Debian")
    return found[0]


@contextmanager
def go_registry(directory: Path) -> Iterator[str]:
    """The registry of go-containerregistry, which has an interface of referrers; its address. Raises Missing."""
    program = cache() / "registry"
    if not program.exists():
        if shutil.which("go") is None:
            raise Missing("a second registry comes with go, which is not here")
        environment = {**os.environ, "GOBIN": str(cache()), "GOFLAGS": "-mod=mod"}
        try:
            subprocess.run(
                ["go", "install", _GO_REGISTRY], env=environment, check=True, capture_output=True, timeout=600
            )
        except subprocess.SubprocessError as error:
            raise Missing(f"go cannot build a second registry: {getattr(error, 'stderr', None) or error!r}") from error
    log = directory / "go-registry.log"
    with log.open("wb") as output, subprocess.Popen([program, "-port", "0"], stderr=output, stdout=output) as process:
        try:
            yield _listening(process, log)
        finally:
            process.terminate()


def _listening(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while not (found := re.search(r"serving on (?:port |.*:)([0-9]+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return f"127.0.0.1:{found[1]}"


@contextmanager
def with_referrers(address: str) -> Iterator[str]:
    """The registry at ADDRESS with an interface of referrers before it; the address of that."""
    server = _Front(("127.0.0.1", 0), _FrontHandler)
    server.behind = address
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Front(ThreadingHTTPServer):
    daemon_threads = True
    behind = ""

    def __init__(self, *words: object) -> None:
        super().__init__(*words)  # type: ignore[arg-type]
        self.attached: dict[tuple[str, str], list[dict[str, object]]] = {}


class _FrontHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Front

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if found := re.fullmatch(r"/v2/(.+)/referrers/([^/?]+)(\?.*)?", self.path):
            return self._listed(found[1], found[2])
        with closing(HTTPConnection(self.server.behind, timeout=60)) as connection:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name not in ("Transfer-Encoding", "Date")}
        found = re.fullmatch(r"/v2/(.+)/manifests/[^/?]+", self.path)
        if found and self.command == "PUT" and answer.status == 201:
            headers |= self._attached(found[1], body, answer.headers["Docker-Content-Digest"])
        return self._send(answer.status, headers, data)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - the library's names

    def _attached(self, repository: str, manifest: bytes, digest: str) -> dict[str, str]:
        document = json.loads(manifest)
        subject = document.get("subject", {}).get("digest")
        if subject is None:
            return {}
        listed = self.server.attached.setdefault((repository, subject), [])
        entry = {"mediaType": document["mediaType"], "digest": digest, "size": len(manifest)}
        entry["artifactType"] = document.get("artifactType") or document["config"]["mediaType"]
        if "annotations" in document:
            entry["annotations"] = document["annotations"]
        if all(one["digest"] != digest for one in listed):
            listed.append(entry)
        return {"OCI-Subject": subject}

    def _listed(self, repository: str, subject: str) -> None:
        media_type = "application/vnd.oci.image.index.v1+json"
        manifests = self.server.attached.get((repository, subject), [])
        body = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}).encode()
        self._send(200, {"Content-Type": media_type}, body)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        if self.command != "HEAD":
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
