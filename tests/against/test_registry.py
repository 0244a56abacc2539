"""Images that skopeo and podman pushed to Debian's docker-registry are read from there as they are from disk."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_registry import HTPASSWD, registry
from simulated.authority import Authority
from small_images import BASE, CHANGE, OTHER, snapshot, write_layout


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    for tool in ("docker-registry", "skopeo", "openssl"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout = tmp_path_factory.mktemp("image") / "layout"
    write_layout(layout, BASE, CHANGE, OTHER, compress=False)
    return layout


def skopeo(*words: str | Path) -> None:
    subprocess.run(["skopeo", "--insecure-policy", *words], check=True, capture_output=True)


def push(layout: Path, name: str, *options: str) -> None:
    skopeo("copy", "--dest-tls-verify=false", *options, f"oci:{layout}", f"docker://{name}")


def pulled(keelboot, source: str, store: Path, **more) -> dict[str, object]:
    done = keelboot("store", "pull", source, "--store", store, "--json", **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "options",
    [
        ("--format", "oci"),
        ("--format", "v2s2"),
        ("--format", "oci", "--dest-compress-format", "zstd"),
        ("--format", "oci", "--dest-compress-format", "gzip"),
    ],
    ids=lambda options: "-".join(options).replace("--", ""),
)
def test_same_content_as_on_disk(keelboot, address, image, tmp_path, options):
    name = f"{address}/os/{'-'.join(options).replace('--', '')}:1"
    push(image, name, *options)
    first = pulled(keelboot, f"docker://{name}", tmp_path / "store")
    again = pulled(keelboot, f"docker://{name}", tmp_path / "store")
    pulled(keelboot, f"oci:{image}", tmp_path / "other")
    assert not first["unchanged"]
    assert again["unchanged"]
    contents = [
        {name for name in snapshot(tmp_path / store) if name.startswith("objects/")} for store in ("store", "other")
    ]
    # All that differs are the two records, manifests and configs.
    assert len(contents[0] & contents[1]) >= len(contents[1]) - 3


def test_inspect_tells_the_same_digest(keelboot, address, layout):
    made = layout()
    push(made, f"{address}/os/bootable:1")
    digests = [
        keelboot("inspect", source, "--composefs-digest").stdout
        for source in (f"docker://{address}/os/bootable:1", f"{address}/os/bootable:1", f"oci:{made}")
    ]
    assert len(set(digests)) == 1
    assert len(digests[0].strip()) == 64


def test_podman_pushes(keelboot, address, image, tmp_path):
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    name = f"{address}/os/podman:1"
    with tempfile.TemporaryDirectory(prefix="keelboot-") as run:  # podman refuses longer paths
        podman = ["podman", "--root", tmp_path / "root", "--runroot", run, "--storage-driver", "vfs"]
        loaded = subprocess.run([*podman, "pull", "-q", f"oci:{image}"], capture_output=True, text=True, check=False)
        if loaded.returncode:
            pytest.skip(f"podman cannot keep images here: {loaded.stderr}")
        push = [*podman, "push", "-q", "--tls-verify=false", loaded.stdout.strip(), name]
        subprocess.run(push, check=True, capture_output=True)
    layers = pulled(keelboot, f"docker://{name}", tmp_path / "store")["layers"]
    assert [layer["reused"] for layer in layers] == [False] * 3


def test_what_podman_pulled(keelboot, address, image, tmp_path):
    """podman saves it uncompressed, and calls it what the registry called it."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    name = f"{address}/os/compressed:1"
    push(image, name, "--format", "oci", "--dest-compress-format", "gzip")
    with tempfile.TemporaryDirectory(prefix="keelboot-") as run:
        settings = tmp_path / "storage.conf"
        settings.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/root"\nrunroot = "{run}"\n')
        own = {"CONTAINERS_STORAGE_CONF": str(settings)}
        words = ["podman", "pull", "-q", "--tls-verify=false", name]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **own})
        if done.returncode:
            pytest.skip(f"podman cannot keep images here: {done.stderr}")
        layers = pulled(keelboot, f"containers-storage:{name}", tmp_path / "store", env=own)["layers"]
    assert [layer["reused"] for layer in layers] == [False] * 3


def test_index_of_several_platforms(keelboot, address, tmp_path):
    many = tmp_path / "many"
    write_layout(many, BASE, CHANGE)  # compressed, so that skopeo leaves it as it is
    index = json.loads((many / "index.json").read_text())
    (amd64,) = index["manifests"]
    amd64["platform"] = {"os": "linux", "architecture": "amd64"}
    manifest = many / "blobs/sha256" / amd64["digest"].removeprefix("sha256:")
    other = {**json.loads(manifest.read_text()), "annotations": {"for": "another"}}
    data = json.dumps(other).encode()
    put(many, data)
    arm64 = {**amd64, **described(data), "platform": {"os": "linux", "architecture": "arm64"}}
    inner = json.dumps({**index, "mediaType": INDEX, "manifests": [amd64, arm64]}).encode()
    put(many, inner)
    outer = {**index, "manifests": [{"mediaType": INDEX, **described(inner)}]}
    (many / "index.json").write_text(json.dumps(outer))
    push(many, f"{address}/os/many:1", "--all")
    source = f"docker://{address}/os/many:1"
    raw = subprocess.run(["skopeo", "inspect", "--tls-verify=false", "--raw", source], check=True, capture_output=True)
    expected = {one["platform"]["architecture"]: one["digest"] for one in json.loads(raw.stdout)["manifests"]}
    chosen = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    assert pulled(keelboot, source, tmp_path / "store")["manifestDigest"] == expected[chosen]


INDEX = "application/vnd.oci.image.index.v1+json"


def described(data: bytes) -> dict[str, object]:
    return {"digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}


def put(layout: Path, data: bytes) -> None:
    (layout / "blobs/sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)


def test_tls_and_password(keelboot, image, tmp_path):
    """With the files that `skopeo login` and an administrator write."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("127.0.0.1")
    passwords = tmp_path / "htpasswd"
    passwords.write_text(HTPASSWD)
    tls = {"addr": "127.0.0.1:0", "tls": {"certificate": str(certificate), "key": str(key)}}
    auth = {"htpasswd": {"realm": "here", "path": str(passwords)}}
    with registry(tmp_path / "registry", http=tls, auth=auth) as address:
        plain = keelboot("inspect", f"docker://{address}/os/web:1")
        assert plain.returncode == 24
        assert f"certs.d/{address}/ca.crt" in plain.stderr
        home = tmp_path / "home"
        authority.trust(home, address)
        (home / ".config").mkdir()
        shutil.move(home / "etc/containers", home / ".config/containers")
        source, user = f"docker://{address}/os/web:1", {"HOME": str(home), "REGISTRY_AUTH_FILE": ""}
        done = keelboot("store", "pull", source, "--store", tmp_path / "store", env=user)
        assert done.returncode == 25, done.stderr
        assert f"podman login {address}" in done.stderr
        certificates, auth_file = home / ".config/containers/certs.d" / address, tmp_path / "auth.json"
        login = ["--authfile", str(auth_file), "--cert-dir", str(certificates), "-u", "me", "-p", "pass:word", address]
        skopeo("login", *login)
        options = ["--authfile", str(auth_file), "--dest-cert-dir", str(certificates)]
        skopeo("copy", *options, f"oci:{image}", source)
        pulled(keelboot, source, tmp_path / "store", env=user | {"REGISTRY_AUTH_FILE": str(auth_file)})


def test_names_that_are_not_there(keelboot, address, image):
    push(image, f"{address}/os/some:13.2")
    done = keelboot("inspect", f"docker://{address}/os/some:13.1")
    assert done.returncode == 4
    assert "13.2" in done.stderr
    done = keelboot("inspect", f"docker://{address}/os/none:1")
    assert done.returncode == 4
    assert "MANIFEST_UNKNOWN" in done.stderr or "NAME_UNKNOWN" in done.stderr
