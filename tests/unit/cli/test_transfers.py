"""push, pull and copy as they are typed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from keelboot.cli import pull, push
from keelboot.failure import Failure
from keelboot.registry.upload import CHUNK
from simulated import registry as fault
from simulated.registry import Registry, serving
from small_images import BASE, write_layout

SOURCE = str(Path(__file__).resolve().parents[3] / "src")


@pytest.fixture
def registry():
    with serving(Registry()) as started:
        yield started


@pytest.fixture
def image(tmp_path):
    write_layout(tmp_path / "layout", BASE, {"noise": os.urandom(3_000_000)})
    return tmp_path / "layout"


@pytest.fixture
def own(tmp_path):
    """An environment with nothing of the user's."""
    return {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}


@pytest.mark.parametrize(
    ("image", "destination", "source", "target"),
    [
        ("oci:web", "docker://r.example.org/web:1", "oci:web", "docker://r.example.org/web:1"),
        ("web:1", "r.example.org/web:1", "containers-storage:web:1", "docker://r.example.org/web:1"),
        ("r.example.org/web:1", None, "containers-storage:r.example.org/web:1", "docker://r.example.org/web:1"),
        ("localhost:5000/web", None, "containers-storage:localhost:5000/web", "docker://localhost:5000/web"),
    ],
)
def test_push_from_where_to_where(image, destination, source, target):
    assert tuple(map(str, push.ends(image, destination))) == (source, target)


@pytest.mark.parametrize(
    ("image", "destination", "fix"),
    [
        ("oci:web", "oci:other", "keelboot copy oci:web oci:other"),
        ("localhost/web", None, "keelboot push localhost/web docker://HOST/NAME"),
        ("web", None, "docker://HOST/NAME"),
        ("oci:web.d", None, "docker://HOST/NAME"),
    ],
)
def test_push_to_nowhere(image, destination, fix):
    with pytest.raises(Failure) as caught:
        push.ends(image, destination)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("image", "destination", "source", "target"),
    [
        ("r.example.org/web:1", None, "docker://r.example.org/web:1", "containers-storage:r.example.org/web:1"),
        ("debian:trixie", None, "docker://debian:trixie", "containers-storage:debian:trixie"),
        ("docker://debian", "oci:x", "docker://debian", "oci:x"),
        ("containers-storage:web", "oci:x", "containers-storage:web", "oci:x"),
    ],
)
def test_pull_from_where_to_where(image, destination, source, target):
    assert tuple(map(str, pull.ends(image, destination))) == (source, target)


@pytest.mark.parametrize("image", ["oci:web", f"r.example.org/web@sha256:{'0' * 64}", "containers-storage:web"])
def test_pull_to_nowhere(image):
    with pytest.raises(Failure, match="cannot pull"):
        pull.ends(image, None)


def test_json_and_text(keelboot, registry, image, own):
    name = f"{registry.address}/os/web:1"
    planned = keelboot("push", f"oci:{image}", name, "--dry-run", "--quiet", env=own)
    assert planned.returncode == 0, planned.stderr
    assert "would copy" in planned.stdout
    assert planned.stdout.count("sent layer sha256:") == 2
    done = keelboot("push", f"oci:{image}", name, "--json", env=own)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["digest"] in registry.manifests
    assert told["bytesSent"] == sum(one["size"] for one in told["blobs"])
    assert "Copying 3 blobs, 3.0 MB" in done.stderr
    again = keelboot("push", f"oci:{image}", name, "-q", env=own)
    assert "3 there already" in again.stdout
    assert again.stderr == ""
    pulled = keelboot("pull", name, f"oci:{own['TMPDIR']}/copy", env=own)
    assert f"digest {told['digest']}" in pulled.stdout


def test_failures_have_their_exit_codes(keelboot, registry, image, own):
    name = f"{registry.address}/os/web:1"
    assert keelboot("pull", name, "oci:x", env=own).returncode == 4
    assert keelboot("push", "oci:/nowhere", name, env=own).returncode == 4
    (image / "there.tar").touch()
    assert keelboot("copy", f"oci:{image}", f"docker-archive:{image}/there.tar", env=own).returncode == 9
    assert keelboot("copy", f"oci:{image}", name, "--limit-rate", "fast", env=own).returncode == 2
    assert keelboot("copy", f"oci:{image}", name, env={**own, "KEELBOOT_LIMIT_RATE": "1K"}).returncode == 2
    registry.faults["upload"] = [fault.answering(403)] * 9
    done = keelboot("push", f"oci:{image}", name, "--json", env=own)
    assert done.returncode == 25
    assert json.loads(done.stderr.splitlines()[-1])["error"]["class"] == "AccessDenied"
    assert keelboot("push", f"oci:{image}", "127.0.0.1:1/os/web", env=own, timeout=60).returncode == 24


def test_limit(keelboot, registry, image, own):
    started = time.monotonic()
    done = keelboot("push", f"oci:{image}", f"{registry.address}/os/web:1", "--limit-rate", "2M", env=own)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started > 1.2


@contextmanager
def stalled(words, own, registry, size):
    """keelboot with WORDS, from when the registry has got SIZE bytes, which are all that it takes."""
    command = [sys.executable, "-m", "keelboot.cli.main", *words]
    environment = {**os.environ, **own, "PYTHONPATH": SOURCE}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            while registry.received < size:
                time.sleep(0.02)
                assert process.poll() is None, process.stderr.read()
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An image with a layer of three chunks: two are larger than one request, the third ends it."""
    layout = tmp_path_factory.mktemp("large") / "layout"
    write_layout(layout, {"noise": random.Random(1).randbytes(40_000_000)})
    return layout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("kind", ["oci", "registry"])
def test_an_upload_goes_on_after_the_process(keelboot, registry, large, own, kind, number):
    """From the byte that the registry had when it ended, between two chunks or within one."""
    registry.stalls["patch"] = [1 << 40, 5_000_000]
    with serving(Registry()) as source:
        source.add(large, "1")
        came_from = f"oci:{large}" if kind == "oci" else f"docker://{source.address}/os/web:1"
        words = ["copy", came_from, f"docker://{registry.address}/os/web:1", "--json"]
        with stalled(words, own, registry, CHUNK + 5_000_000) as process:
            process.send_signal(number)
            process.wait()
        assert registry.manifests == {}
        (upload,) = registry.uploads.values()
        there, before, posts = len(upload), registry.received, registry.begun
        assert there == CHUNK + 5_000_000
        done = keelboot(*words, env=own)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] in registry.manifests
    assert {blob.name: blob.read_bytes() for blob in (large / "blobs/sha256").iterdir()} == {
        name.removeprefix("sha256:"): data for name, data in (registry.blobs | manifests(registry)).items()
    }
    size = max(len(data) for data in registry.blobs.values())
    assert size - there <= registry.received - before < size - there + 10_000
    assert registry.begun - posts <= 1, "besides the config's, another upload was begun"
    assert list((Path(own["XDG_CACHE_HOME"]) / "keelboot/uploads").iterdir()) == []


def manifests(registry):
    return {name: data for name, (_, data) in registry.manifests.items() if ":" in name}


def test_an_upload_that_was_thrown_away(keelboot, registry, large, own):
    registry.stalls["patch"] = [1 << 40, 5_000_000]
    words = ["push", f"oci:{large}", f"{registry.address}/os/web:1", "--json"]
    with stalled(words, own, registry, CHUNK + 5_000_000) as process:
        process.kill()
        process.wait()
    registry.uploads.clear()
    done = keelboot(*words, env=own)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] in registry.manifests


@pytest.mark.parametrize("content", [b"{", bytes(100_000)])
def test_a_bookmark_that_is_none(keelboot, registry, large, own, content):
    registry.stalls["patch"] = [5_000_000]
    words = ["push", f"oci:{large}", f"{registry.address}/os/web:1", "--json"]
    with stalled(words, own, registry, 5_000_000):
        (file,) = (Path(own["XDG_CACHE_HOME"]) / "keelboot/uploads").iterdir()
    file.write_bytes(content)
    done = keelboot(*words, env=own)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] in registry.manifests


def test_two_at_once_send_each_its_own(keelboot, registry, large, own):
    """Neither waits for the other, nor do their bytes come together in one upload."""
    registry.stalls["patch"] = [1 << 40, 5_000_000]
    words = ["push", f"oci:{large}", f"{registry.address}/os/web:1", "--json"]
    with stalled(words, own, registry, CHUNK + 5_000_000):
        (first,) = registry.uploads
        done = keelboot(*words, env=own)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["digest"] in registry.manifests
        assert list(registry.uploads) == [first]
    size = max(len(data) for data in registry.blobs.values())
    assert registry.received >= size + CHUNK + 5_000_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["oci", "oci-archive", "registry"])
def test_interrupted(registry, image, own, tmp_path, kind, number):
    """At once, wherever it waits, with nothing half visible and no temporary file."""
    registry.add(image, "1")
    where = {"oci": "oci:{}/copy", "oci-archive": "oci-archive:{}/copy.tar", "registry": "docker://{}/os/copy:2"}[kind]
    with serving(Registry()) as other:
        target = where.format(other.address if kind == "registry" else tmp_path)
        large = max(registry.blobs, key=lambda name: len(registry.blobs[name]))

        def stall(handler, reply):
            if large not in handler.path:
                return reply
            return fault.stalled(1_000_000, 100)(handler, reply)

        registry.faults["blob"] = [stall] * 9
        words = [sys.executable, "-m", "keelboot.cli.main", "copy", f"docker://{registry.address}/os/web:1", target]
        environment = {**os.environ, **own, "PYTHONPATH": SOURCE}
        with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as process:
            while large not in "".join(seen.path for seen in registry.seen):
                time.sleep(0.02)
                assert process.poll() is None, process.stderr.read()
            time.sleep(0.3)
            started = time.monotonic()
            process.send_signal(number)
            told = process.stderr.read()
        assert process.returncode == 128 + number, told
        assert time.monotonic() - started < 50
        assert "Traceback" not in told
        assert other.manifests == {}
    assert not (tmp_path / "copy.tar").exists()
    assert not (tmp_path / "copy/index.json").exists()
    left = {path.name for path in tmp_path.rglob("*")} - {"layout", "cache", "home", "copy"}
    assert not [name for name in left if name.startswith((".", "keelboot-"))], left
