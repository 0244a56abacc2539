"""Images as a well-behaved registry gives them."""

import hashlib
import json
import os
import subprocess
import sys
import threading

import pytest

from keelboot import __version__
from keelboot.failure import AccessDenied, CannotFinish, ImageNotFound, InvalidImage, NetworkFailed
from keelboot.image import remote
from keelboot.image.digest import Digest
from keelboot.image.documents import Descriptor
from keelboot.image.reference import Reference
from keelboot.image.transports import exists, fingerprint, open_image
from simulated.registry import Registry

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def index_of(*manifests):
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()


def descriptor(digest, data, **platform):
    return {"mediaType": MANIFEST, "digest": digest, "size": len(data), "platform": {"os": "linux", **platform}}


@pytest.mark.parametrize("jobs", [1, 2])
def test_reads_every_layer(reader, registry, expected, jobs):
    assert reader.read(f"{registry.address}/os/web:1", jobs=jobs) == expected
    assert reader.slept == []


def test_leaves_no_thread(reader, registry):
    """Layers are read by several processes, and one that has threads is not forked."""
    for _ in range(20):
        with reader.registries().open(Reference.parse(f"docker://{registry.address}/os/web:1"), architecture="amd64"):
            assert [one for one in threading.enumerate() if isinstance(one, threading.Timer)] == []


def test_asks_for_each_thing_once(reader, registry):
    """A tag may move between two questions: so there is one, even where the digest is wanted first."""
    registries, reference = reader.registries(), Reference.parse(f"docker://{registry.address}/os/web")
    digest = registries.fingerprint(reference, architecture=None)
    registry.put(b"{}", MANIFEST, "latest")
    with registries.open(reference, architecture=None) as image:
        assert str(image.manifest_digest) == digest
        for layer in image.layers:
            with image.open_layer(layer) as stream:
                assert stream.read() == registry.blobs[str(layer.descriptor.digest)]
    assert [seen.path.rpartition("/")[2][:6] for seen in registry.seen] == ["latest", "sha256", "sha256", "sha256"]
    assert len({seen.connection for seen in registry.seen}) == 1, "the connection was not kept"


def test_says_what_it_is(reader, registry):
    reader.read(f"{registry.address}/os/web:1")
    agents = {seen.headers["User-Agent"] for seen in registry.seen}
    assert agents == {f"keelboot/{__version__} bootc/ compatible"}
    assert {seen.headers["Accept-Encoding"] for seen in registry.seen} == {"identity"}


def test_reads_by_digest(reader, registry, expected):
    digest = next(name for name in registry.manifests if ":" in name)
    registry.put(b"{}", MANIFEST, "1")  # what the tag says is of no importance then
    assert reader.read(f"{registry.address}/os/web:1@{digest}") == expected
    assert registry.seen[0].path.endswith(digest)


def test_picks_the_platform(reader, registry, expected):
    digest = next(name for name in registry.manifests if ":" in name)
    _, data = registry.manifests[digest]
    other = registry.put(b'{"other": 1}', MANIFEST)
    index = index_of(
        descriptor(digest, data, architecture="amd64"),
        descriptor(other, b'{"other": 1}', architecture="arm64"),
    )
    registry.put(index, INDEX, "many")
    reference = Reference.parse(f"docker://{registry.address}/os/web:many")
    assert reader.read(reference.name, architecture="x86_64") == expected
    assert reader.registries().fingerprint(reference, architecture="amd64") == digest
    assert reader.registries().fingerprint(reference, architecture="aarch64") == other
    with pytest.raises(CannotFinish, match="no image for linux/s390x"):
        reader.read(reference.name, architecture="s390x")


def test_index_in_an_index_is_refused(reader, registry):
    inner = index_of()
    digest = registry.put(inner, INDEX)
    outer = {"mediaType": INDEX, "digest": digest, "size": len(inner)}
    registry.put(index_of(outer), INDEX, "deep")
    with pytest.raises(InvalidImage, match="not the manifest of an image"):
        reader.read(f"{registry.address}/os/web:deep")


def test_type_in_index_must_be_the_type_served(reader, registry):
    digest = next(name for name in registry.manifests if ":" in name)
    _, data = registry.manifests[digest]
    registry.put(index_of(descriptor(digest, data, architecture="amd64")), INDEX, "many")
    registry.manifests[digest] = ("application/vnd.docker.distribution.manifest.v2+json", data)
    with pytest.raises(InvalidImage, match="its descriptor says"):
        reader.read(f"{registry.address}/os/web:many")


def test_missing_tag_names_near_ones(reader, registry):
    registry.put(b"{}", MANIFEST, "13.2")
    with pytest.raises(ImageNotFound, match="has no such tag") as caught:
        reader.read(f"{registry.address}/os/web:13.1")
    assert "13.2" in caught.value.fix
    assert caught.value.exit_code == 4


def test_missing_digest(reader, registry):
    with pytest.raises(ImageNotFound, match="does not have it"):
        reader.read(f"{registry.address}/os/web@sha256:{'0' * 64}")


def test_missing_blob(reader, registry):
    registry.blobs = {name: data for name, data in registry.blobs.items() if len(data) < 1 << 20}
    with pytest.raises(InvalidImage, match=r"layer 2 of 2.* is missing at http://"):
        reader.read(f"{registry.address}/os/web:1")


def test_nobody_listens(reader):
    with pytest.raises(NetworkFailed, match="Connection refused, 2 times") as caught:
        reader.read("127.0.0.1:1/os/web")
    assert caught.value.exit_code == 24


def test_unknown_host(reader):
    with pytest.raises(NetworkFailed, match="cannot be resolved"):
        reader.read("registry.invalid/os/web")


def test_transports_open_what_was_provided(reader, registry):
    reference = Reference.parse(f"docker://{registry.address}/os/web:1")
    try:
        remote.provide(reader.registries)
        with open_image(reference) as image:
            assert fingerprint(reference) == str(image.manifest_digest)
        assert exists(reference)
        assert not exists(Reference.parse(f"docker://{registry.address}/os/web:none"))
    finally:
        remote.provide(None)


def test_forked_process_opens_its_own_connection(reader, registry):
    """Two processes that write to one connection read each other's answers."""
    reference = Reference.parse(f"docker://{registry.address}/os/web:1")
    with reader.registries().open(reference, architecture=None) as image:
        before = {seen.connection for seen in registry.seen}
        child = os.fork()
        if child == 0:
            with image.open_layer(image.layers[0]) as stream:
                stream.read()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with image.open_layer(image.layers[0]) as stream:
            assert len(stream.read()) == image.layers[0].descriptor.size
    *_, of_child, of_parent = registry.seen
    assert of_child.connection not in before
    assert {of_parent.connection} == before


def test_stream_is_read_in_any_portions(reader, registry):
    reference = Reference.parse(f"docker://{registry.address}/os/web:1")
    with reader.registries().open(reference, architecture=None) as image:
        whole = registry.blobs[str(image.layers[1].descriptor.digest)]
        with image.open_layer(image.layers[1]) as stream:
            pieces = [stream.read(size) for size in (1, 0, 7, 300_000, 1 << 20, 1 << 20, 1 << 20)]
            assert b"".join(pieces) == whole
            assert [len(piece) for piece in pieces[5:]] == [1 << 20, len(whole) - 300_008 - (2 << 20)]
            assert stream.read(5) == b""


def test_empty_blob(reader, registry):
    registry.blobs[f"sha256:{hashlib.sha256().hexdigest()}"] = b""
    reference = Reference.parse(f"docker://{registry.address}/os/web:1")
    blob = Descriptor("x", Digest("sha256", hashlib.sha256().hexdigest()), 0)
    with reader.registries().open(reference, architecture=None) as image, image.blobs.open_blob(blob) as stream:
        assert stream.read(10) == b""


def test_help_loads_no_network():
    code = "import sys; from keelboot.cli.main import main; main(['--help']); sys.exit('urllib3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_mirrors_are_asked_first(reader, registry, serve, image, expected):
    mirror = serve(Registry(host="127.0.0.2"))
    mirror.add(image, "1")
    mirrors = f'[[registry]]\nlocation="{registry.address}/os"\n[[registry.mirror]]\nlocation="{mirror.address}/copy"\n'
    reader.write("etc/containers/registries.conf", mirrors + "insecure=true\n")
    assert reader.read(f"{registry.address}/os/web:1") == expected
    assert registry.seen == []
    assert mirror.seen[-1].path.startswith("/v2/copy/web/blobs/")


@pytest.mark.parametrize("trouble", ["gone", "unknown", "denied", "damaged"])
def test_registry_is_asked_where_a_mirror_fails(reader, registry, serve, expected, trouble):
    mirror = serve(Registry(user=("a", "b") if trouble == "denied" else None))
    if trouble == "damaged":
        mirror.put(b'{"damaged":', MANIFEST, "1")
        mirror.manifests["1"] = ("text/plain", b"{}")
    port = 1 if trouble == "gone" else mirror.port
    reader.write(
        "etc/containers/registries.conf",
        f'[[registry]]\nprefix="{registry.address}"\nlocation="{registry.address}"\n'
        f'[[registry.mirror]]\nlocation="127.0.0.1:{port}"\n',
    )
    assert reader.read(f"{registry.address}/os/web:1") == expected


def test_other_location_and_alias(reader, registry, expected):
    reader.write(
        "home/.config/containers/registries.conf",
        f'[[registry]]\nprefix="os.example.org"\nlocation="{registry.address}/os"\n'
        '[aliases]\n"short"="os.example.org/web"\n',
    )
    assert reader.read("os.example.org/web:1") == expected
    assert reader.read("short:1") == expected
    reference = Reference.parse("docker://short:1")
    assert str(reader.registries().name(reference)) == "os.example.org/web"


def test_blocked(reader, registry):
    reader.write("etc/containers/registries.conf", f'[[registry]]\nlocation="{registry.address}"\nblocked=true\n')
    with pytest.raises(AccessDenied, match="blocks"):
        reader.read(f"{registry.address}/os/web:1")
    assert registry.seen == []


def test_insecure_registry_may_speak_plain_http(reader, serve, image, expected):
    registry = serve(Registry(host="127.0.0.2"))
    registry.add(image, "1")
    with pytest.raises(NetworkFailed, match="TLS failed"):
        reader.read(f"{registry.address}/os/web:1")
    assert registry.seen == []
    reader.write("etc/containers/registries.conf", f'[[registry]]\nlocation="{registry.address}"\ninsecure=true\n')
    assert reader.read(f"{registry.address}/os/web:1") == expected


def test_proxy_is_used(reader, registry, expected):
    """Plain http through a proxy is a request for the whole URL, which our registry takes for a path."""
    proxied = []

    def through(handler, _):
        proxied.append(handler.path)
        path = handler.path.removeprefix("http://127.0.0.3:5000")
        return handler.reply("manifests" if "/manifests/" in path else "blobs", path.rpartition("/")[2])

    registry.faults["other"] = [through] * 10
    registry.faults["manifest"] = registry.faults["blob"] = registry.faults["other"]
    reader.environment = {"http_proxy": f"http://me:secret@{registry.address}"}
    reader.write("etc/containers/registries.conf", '[[registry]]\nlocation="127.0.0.3:5000"\ninsecure=true\n')
    assert reader.read("127.0.0.3:5000/os/web:1") == expected
    assert all(path.startswith("http://127.0.0.3:5000/v2/os/web/") for path in proxied)
    assert {seen.headers["Proxy-Authorization"] for seen in registry.seen} == {"Basic bWU6c2VjcmV0"}
