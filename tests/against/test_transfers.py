"""What keelboot pushes to Debian's docker-registry, skopeo and podman take unchanged, and the other way round."""

import hashlib
import json
import os
import platform
import random
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from docker_registry import HTPASSWD, SECRET, registry, token_server
from keelboot.image.digest import Digest
from keelboot.image.documents import OCI_MANIFEST, Descriptor
from keelboot.image.reference import Reference
from keelboot.registry.opening import Registries
from keelboot.registry.places import Places
from keelboot.registry.referrers import fallback_tag, parse_artifact
from simulated.authority import Authority
from small_images import BASE, CHANGE, write_layout

SOURCE = str(Path(__file__).resolve().parents[2] / "src")
SAID = b"hello from the image"


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    for tool in ("docker-registry", "skopeo", "openssl"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


def program(text: bytes) -> bytes:
    """A program for x86-64 that prints TEXT, without a library."""
    code = bytes.fromhex("b801000000bf01000000488d351a000000ba") + struct.pack("<I", len(text))
    code += bytes.fromhex("0f05b83c00000031ff0f05") + bytes(10)
    start, size = 0x400000, 120 + len(code) + len(text)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, start + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 1, 5, 0, start, start, size, size, 4096) + code + text


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with a program, in three layers."""
    layout = tmp_path_factory.mktemp("image") / "layout"
    users = b"root:x:0:0::/:/hello\n"
    write_layout(layout, BASE, {"hello": program(SAID), "etc": None, "etc/passwd": users}, CHANGE)
    return layout


@pytest.fixture
def own(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "REGISTRY_AUTH_FILE": ""}


@dataclass
class Podman:
    """podman with a store of its own."""

    environment: Mapping[str, str]

    def __call__(self, *words: str | Path) -> str:
        done = subprocess.run(
            ["podman", *words], capture_output=True, text=True, check=False, env={**os.environ, **self.environment}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def digest(self, name: str) -> str:
        return self("image", "inspect", "--format", "{{.Digest}}", name)

    def run(self, name: str, directory: Path) -> str:
        """What /hello in the image NAME prints; by a build, as that needs least of the machine it is on."""
        directory.mkdir()
        (directory / "Containerfile").write_text(f'FROM {name}\nRUN ["/hello"]\n')
        return self("build", "--isolation", "chroot", "--network", "host", "--pull=never", "--no-cache", directory)


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Podman]:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    with tempfile.TemporaryDirectory(prefix="keelboot-") as run:  # podman refuses longer paths
        settings = tmp_path / "storage.conf"
        settings.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/root"\nrunroot = "{run}"\n')
        found = Podman({"CONTAINERS_STORAGE_CONF": str(settings)})
        try:
            found("info")
        except AssertionError as error:
            pytest.skip(f"podman cannot keep images here: {error}")
        yield found


def skopeo(*words: str | Path) -> bytes:
    return subprocess.run(["skopeo", "--insecure-policy", *words], check=True, capture_output=True).stdout


def raw(name: str) -> bytes:
    return skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{name}")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def told(done) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def top(layout: Path) -> str:
    return json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]


def test_podman_and_skopeo_take_it_unchanged(keelboot, address, image, own, podman, tmp_path):
    name = f"{address}/os/unchanged:1"
    pushed = told(keelboot("push", f"oci:{image}", name, "--json", env=own))
    assert pushed["digest"] == top(image) == digest_of(raw(name))
    skopeo("copy", "--src-tls-verify=false", f"docker://{name}", f"oci:{tmp_path}/skopeo:x")
    assert top(tmp_path / "skopeo") == top(image)
    podman("pull", "-q", "--tls-verify=false", name)
    assert podman.digest(name) == top(image)
    if platform.machine() == "x86_64":
        assert SAID.decode() in podman.run(name, tmp_path / "build")


def test_from_podmans_store_and_back(keelboot, address, image, own, podman, tmp_path):
    """What podman has is pushed as an image with the same id, and comes back with its digest."""
    own = own | podman.environment
    kept = told(keelboot("copy", f"oci:{image}", "containers-storage:localhost/web:1", "--json", env=own))
    assert podman.digest("localhost/web:1") == kept["digest"] == top(image)
    name = f"{address}/os/stored:1"
    first = told(keelboot("push", "localhost/web:1", name, "--json", env=own))
    again = told(keelboot("push", "localhost/web:1", f"{address}/os/stored:2", "--json", env=own))
    other = told(keelboot("push", "localhost/web:1", f"{address}/os/again:1", "--json", env=own))
    archived = told(keelboot("copy", "localhost/web:1", f"oci-archive:{tmp_path}/web.tar", "--json", env=own))
    assert first["digest"] == again["digest"] == other["digest"] == archived["digest"] == digest_of(raw(name))
    assert {one["how"] for one in first["blobs"]} == {"sent"}
    assert {one["how"] for one in again["blobs"]} == {"there"}
    assert {one["how"] for one in other["blobs"]} == {"mounted"}
    identity = podman("image", "inspect", "--format", "{{.Id}}", "localhost/web:1")
    assert json.loads(raw(name))["config"]["digest"] == f"sha256:{identity}"
    podman("rmi", "--all", "--force")
    pulled = told(keelboot("pull", name, "--json", env=own))
    assert pulled["destination"] == f"containers-storage:{name}"
    assert podman.digest(name) == first["digest"]
    assert podman("images", "--quiet").count("\n") == 0, "there is more than the image"
    if platform.machine() == "x86_64":
        assert SAID.decode() in podman.run(name, tmp_path / "build")
    again = told(keelboot("push", name, "--json", env=own))
    assert again["digest"] == first["digest"], "it came out of the store as another image"


def test_what_docker_load_takes(keelboot, image, own, podman, tmp_path):
    """By podman, and read by skopeo; the image's id is the one it has everywhere."""
    own = own | podman.environment
    identity = json.loads((image / "blobs/sha256" / top(image)[7:]).read_text())["config"]["digest"][7:]
    file = f"docker-archive:{tmp_path}/web.tar"
    told(keelboot("copy", f"oci:{image}", f"{file}:localhost/loaded:1", "--json", env=own))
    podman("load", "--quiet", "--input", tmp_path / "web.tar")
    assert podman("image", "inspect", "--format", "{{.Id}}", "localhost/loaded:1") == identity
    told(keelboot("copy", "localhost/loaded:1", f"{file}:localhost/loaded:1", "--force", "--json", env=own))
    skopeo("copy", f"{file}:localhost/loaded:1", f"oci:{tmp_path}/skopeo:x")
    manifest = json.loads((tmp_path / "skopeo/blobs/sha256" / top(tmp_path / "skopeo")[7:]).read_text())
    config = json.loads((tmp_path / "skopeo/blobs/sha256" / manifest["config"]["digest"][7:]).read_text())
    before = json.loads((image / "blobs/sha256" / identity).read_text())
    assert config["rootfs"]["diff_ids"] == before["rootfs"]["diff_ids"]


def test_mounts(keelboot, address, image, own):
    told(keelboot("push", f"oci:{image}", f"{address}/os/one:1", "--json", env=own))
    for source in (f"docker://{address}/os/one:1", f"oci:{image}"):
        copied = told(keelboot("copy", source, f"docker://{address}/os/{source[:3]}:1", "--json", env=own))
        assert {one["how"] for one in copied["blobs"]} == {"mounted"}
        assert copied["digest"] == top(image)
        skopeo("copy", "--src-tls-verify=false", f"docker://{address}/os/{source[:3]}:1", "dir:" + own["HOME"])


@pytest.mark.parametrize("compression", ["zstd", "gzip", None])
@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_what_others_pushed_is_copied_as_it_is(keelboot, address, image, own, tmp_path, compression, form):
    if (compression, form) == ("zstd", "v2s2"):
        pytest.skip("Docker's format has no zstd")
    name = f"{address}/os/theirs-{compression}-{form}".lower()
    options = ["--dest-compress-format", compression] if compression else []
    skopeo("copy", "--dest-tls-verify=false", "--format", form, *options, f"oci:{image}", f"docker://{name}:1")
    copied = told(keelboot("copy", f"docker://{name}:1", f"docker://{name}-too:1", "--json", env=own))
    assert raw(f"{name}:1") == raw(f"{name}-too:1")
    tag = ":x" if form == "oci" else ""  # by a name, skopeo finds manifests of OCI's own type only
    told(keelboot("pull", f"{name}:1", f"oci:{tmp_path}/copy{tag}", "--json", env=own))
    assert top(tmp_path / "copy") == copied["digest"]
    told(keelboot("copy", f"oci:{tmp_path}/copy{tag}", f"oci-archive:{tmp_path}/copy.tar{tag}", "--json", env=own))
    for place in (f"oci:{tmp_path}/copy{tag}", f"oci-archive:{tmp_path}/copy.tar{tag}"):
        assert json.loads(skopeo("inspect", place))["Digest"] == copied["digest"]


def test_index_of_several_platforms(keelboot, address, image, own, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(image, whole)
    blobs = whole / "blobs/sha256"

    def put(data: bytes, **more: object) -> dict[str, object]:
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": OCI_MANIFEST, "digest": digest_of(data), "size": len(data), **more}

    manifest = json.loads((blobs / top(whole)[7:]).read_bytes())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_bytes())
    inner = []
    for name in ("amd64", "arm64", "riscv64"):
        own_config = put(json.dumps({**config, "architecture": name}).encode())
        data = json.dumps({**manifest, "config": own_config | {"mediaType": manifest["config"]["mediaType"]}}).encode()
        inner.append(put(data, platform={"os": "linux", "architecture": name}))
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": inner}
    entry = put(json.dumps(index).encode()) | {"mediaType": index["mediaType"]}
    (whole / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    name = f"{address}/os/whole:1"
    pushed = told(keelboot("push", f"oci:{whole}", name, "--all", "--json", env=own))
    assert raw(name) == json.dumps(index).encode()
    assert pushed["images"] == 3
    skopeo("copy", "--all", "--src-tls-verify=false", f"docker://{name}", f"oci:{tmp_path}/skopeo:x")
    told(keelboot("pull", name, f"oci:{tmp_path}/copy:x", "--all", "--json", env=own))
    assert top(tmp_path / "copy") == top(tmp_path / "skopeo") == pushed["digest"]
    one = told(keelboot("pull", name, f"oci:{tmp_path}/one", "--arch", "arm64", "--json", env=own))
    assert one["digest"] == inner[1]["digest"]


def test_goes_on_after_it_was_killed(keelboot, address, own, tmp_path):
    """Layers that had arrived are not sent again, and nothing was to be seen before."""
    noise = random.Random(3)
    layers = [{f"noise-{number}": noise.randbytes(8_000_000)} for number in range(4)]
    write_layout(tmp_path / "large", *layers)
    name = f"{address}/os/killed:1"
    words = ["push", f"oci:{tmp_path}/large", name, "--limit-rate", "12M", "--jobs", "1"]
    environment = {**os.environ, **own, "PYTHONPATH": SOURCE}
    with subprocess.Popen([sys.executable, "-m", "keelboot.cli.main", *words], env=environment) as process:
        time.sleep(2.2)
        process.send_signal(signal.SIGKILL)
    seen = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{name}"], check=False, capture_output=True
    )
    assert seen.returncode != 0
    done = told(keelboot("push", f"oci:{tmp_path}/large", name, "--json", env=own))
    ways = [one["how"] for one in done["blobs"]]
    assert 1 <= ways.count("there") <= 3, ways
    assert done["digest"] == top(tmp_path / "large") == digest_of(raw(name))


class Dam(socketserver.ThreadingTCPServer):
    """What stands before the registry at BEHIND: `passed` are the bytes that went there.

    Of the second PATCH it lets BYTES through, and is `shut` then, until it is opened.
    """

    daemon_threads = True

    def __init__(self, behind: str, size: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        host, _, port = behind.partition(":")
        self.behind = host, int(port)
        self.size, self.patches, self.passed = size, 0, 0
        self.shut = threading.Event()
        self.opened = False


class _Passing(socketserver.BaseRequestHandler):
    server: Dam

    def handle(self) -> None:
        dam = self.server
        with socket.create_connection(dam.behind) as behind, suppress(OSError):
            threading.Thread(target=self.pass_back, args=(behind,), daemon=True).start()
            while data := self.request.recv(1 << 16):
                dam.patches += data.startswith(b"PATCH ")
                if dam.patches == 2 and not dam.opened:
                    data = data[: dam.size]
                    dam.size -= len(data)
                    if not dam.size:
                        dam.shut.set()
                behind.sendall(data)
                dam.passed += len(data)

    def pass_back(self, behind: socket.socket) -> None:
        with suppress(OSError):
            while data := behind.recv(1 << 16):
                self.request.sendall(data)


@pytest.mark.parametrize(("size", "rest"), [(0, 24_000_000), (3_000_000, 41_000_000)], ids=["between", "within"])
def test_goes_on_with_a_blob_after_it_was_killed(address, keelboot, own, tmp_path, size, rest):
    """Between two chunks. Within one, this registry does not find its way back: all of it goes again, and is right."""
    write_layout(tmp_path / "large", {"noise": random.Random(5).randbytes(40_000_000)})
    with Dam(address, size) as dam:
        threading.Thread(target=dam.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        name = f"127.0.0.1:{dam.server_address[1]}/os/dammed-{size}:1"
        words = ["push", f"oci:{tmp_path}/large", name, "--json"]
        environment = {**os.environ, **own, "PYTHONPATH": SOURCE}
        with subprocess.Popen([sys.executable, "-m", "keelboot.cli.main", *words], env=environment) as process:
            shut = dam.shut.wait(100)
            process.kill()
        assert shut
        dam.opened, before = True, dam.passed
        done = told(keelboot(*words, env=own))
        dam.shutdown()
    assert dam.passed - before < rest
    path = name.partition("/")[2]
    assert done["digest"] == top(tmp_path / "large") == digest_of(raw(f"{address}/{path}"))
    skopeo("copy", "--src-tls-verify=false", f"docker://{address}/{path}", f"oci:{tmp_path}/skopeo:x")


@contextmanager
def breaking(address: str, *after: int) -> Iterator[str]:
    """What stands before the registry at ADDRESS, and resets its connections AFTER so many bytes of what is sent."""
    host, _, port = address.partition(":")
    left = list(after)

    class Between(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((host, int(port))) as behind:
                threading.Thread(target=self.pass_back, args=(behind,), daemon=True).start()
                passed = 0
                with suppress(OSError):
                    while data := self.request.recv(1 << 16):
                        behind.sendall(data)
                        passed += len(data)
                        if left and passed >= left[0]:
                            left.pop(0)
                            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                            self.request.close()
                            return

        def pass_back(self, behind: socket.socket) -> None:
            with suppress(OSError):
                while data := behind.recv(1 << 16):
                    self.request.sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Between) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        assert left == [], "the connection was not broken"


def test_goes_on_where_the_connection_broke(keelboot, address, own, tmp_path):
    """In the middle of a chunk, twice, and in the last request."""
    write_layout(tmp_path / "large", {"noise": random.Random(4).randbytes(40_000_000)})
    with breaking(address, 21_000_000, 3_000_000) as front:
        done = told(keelboot("push", f"oci:{tmp_path}/large", f"{front}/os/broken:1", "--json", env=own))
    assert done["digest"] == digest_of(raw(f"{address}/os/broken:1"))
    skopeo("copy", "--src-tls-verify=false", f"docker://{address}/os/broken:1", f"oci:{tmp_path}/skopeo:x")
    assert top(tmp_path / "skopeo") == done["digest"]


def test_tls_and_password(keelboot, image, own, tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("127.0.0.1")
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    tls = {"addr": "127.0.0.1:0", "tls": {"certificate": str(certificate), "key": str(key)}}
    auth = {"htpasswd": {"realm": "here", "path": str(tmp_path / "htpasswd")}}
    with registry(tmp_path / "registry", http=tls, auth=auth) as address:
        name = f"{address}/os/web:1"
        plain = keelboot("push", f"oci:{image}", name, env=own)
        assert plain.returncode == 24, plain.stderr
        assert f"certs.d/{address}/ca.crt" in plain.stderr
        authority.trust(tmp_path / "system", address)
        (tmp_path / "home/.config").mkdir(parents=True)
        shutil.move(tmp_path / "system/etc/containers", tmp_path / "home/.config/containers")
        denied = keelboot("push", f"oci:{image}", name, env=own)
        assert denied.returncode == 25, denied.stderr
        assert f"podman login {address}" in denied.stderr
        file = tmp_path / "auth.json"
        file.write_text(json.dumps({"auths": {address: {"auth": "bWU6d3Jvbmc="}}}))
        wrong = keelboot("push", f"oci:{image}", name, env=own | {"REGISTRY_AUTH_FILE": str(file)})
        assert wrong.returncode == 25
        assert str(file) in wrong.stderr
        file.write_text(json.dumps({"auths": {address: {"auth": SECRET}}}))
        own["REGISTRY_AUTH_FILE"] = str(file)
        pushed = told(keelboot("push", f"oci:{image}", name, "--json", env=own))
        assert pushed["digest"] == top(image)
        pulled = told(keelboot("pull", name, f"oci:{tmp_path}/copy", "--json", env=own))
        assert pulled["digest"] == top(image)


def test_token(keelboot, image, own, tmp_path):
    """For pushing, and for taking blobs from another repository."""
    with (
        token_server(tmp_path / "tokens") as tokens,
        registry(tmp_path / "registry", auth=tokens.configuration) as address,
    ):
        file = tmp_path / "auth.json"
        file.write_text(json.dumps({"auths": {address: {"auth": SECRET}}}))
        own["REGISTRY_AUTH_FILE"] = str(file)
        pushed = told(keelboot("push", f"oci:{image}", f"{address}/os/web:1", "--json", env=own))
        assert pushed["digest"] == top(image)
        assert tokens.asked == [["repository:os/web:pull,push"]]
        tokens.asked.clear()
        copied = told(
            keelboot("copy", f"docker://{address}/os/web:1", f"docker://{address}/os/two:1", "--json", env=own)
        )
        assert {one["how"] for one in copied["blobs"]} == {"mounted"}
        assert tokens.asked == [
            ["repository:os/web:pull"],
            ["repository:os/two:pull,push", "repository:os/web:pull"],
        ]
        pulled = told(keelboot("pull", f"{address}/os/two:1", f"oci:{tmp_path}/copy", "--json", env=own))
        assert pulled["digest"] == top(image)
        file.write_text(json.dumps({"auths": {address: {"auth": "bWU6d3Jvbmc="}}}))
        wrong = keelboot("push", f"oci:{image}", f"{address}/os/web:2", env=own)
        assert wrong.returncode == 25
        assert str(file) in wrong.stderr
        assert "wrong" not in wrong.stderr


def test_referrers_without_an_api(keelboot, address, image, own, tmp_path):
    """docker-registry 2.8 has none: the list is an index under a tag, which skopeo sees as well."""
    name = f"{address}/os/signed:1"
    told(keelboot("push", f"oci:{image}", name, "--json", env=own))
    registries = Registries(Places.usual({"HOME": str(tmp_path)}, uid=1000, root=tmp_path))
    reference = Reference.parse(f"docker://{name}")
    subject = registries.resolve(reference).document.descriptor
    publisher = registries.publisher(reference)
    assert publisher.client.referrers(subject.digest) == ()
    attached = []
    for kind in ("application/vnd.example.one", "application/vnd.example.two"):
        config, bundle = b"{}", json.dumps({"kind": kind}).encode()
        described = []
        for data, media_type in ((config, "application/vnd.oci.empty.v1+json"), (bundle, kind)):
            blob = Descriptor(media_type, Digest.of(data), len(data))
            (tmp_path / "blob").write_bytes(data)
            publisher.put_blob(blob, lambda: (tmp_path / "blob").open("rb"))
            described.append({"mediaType": media_type, "digest": str(blob.digest), "size": len(data)})
        about = {"mediaType": subject.media_type, "digest": str(subject.digest), "size": subject.size}
        value = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind, "config": described[0]}
        data = json.dumps(value | {"layers": described[1:], "subject": about}).encode()
        attached.append(parse_artifact(data, Descriptor(OCI_MANIFEST, Digest.of(data), len(data))))
        publisher.attach(attached[-1])
    assert publisher.client.attached(subject.digest) == (attached, [])
    listed = json.loads(raw(f"{address}/os/signed:{fallback_tag(subject.digest)}"))
    assert [one["artifactType"] for one in listed["manifests"]] == [one.artifact_type for one in attached]
    registries.close()
