"""podman itself, on a store of the test's own."""

import io
import os
import shutil
import subprocess
import tarfile

import pytest

from keelboot.failure import ImageNotFound, MissingTool, OutOfSpace
from keelboot.image.layers import read_tree
from keelboot.image.reference import Reference
from keelboot.image.transports import exists, fingerprint, open_image, storage
from keelboot.image.tree import walk


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty store; the driver works for every user and on every filesystem."""
    if not shutil.which("podman"):
        pytest.skip("podman is not installed")
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/root"\nrunroot = "{tmp_path}/run"\n'
        f'rootless_storage_path = "{tmp_path}/root"\n'
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    yield tmp_path
    # Files of a rootless store belong to the user's sub-ids, which only podman can remove.
    prefix = [] if os.getuid() == 0 else ["podman", "unshare"]
    subprocess.run([*prefix, "rm", "-rf", tmp_path / "root", tmp_path / "run"], check=False)


def _import(store, name, content):
    with tarfile.open(store / "x.tar", "w") as archive:
        for directory in ("etc", "var"):
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        info = tarfile.TarInfo("etc/x")
        info.size, info.mode, info.mtime = len(content), 0o640, 1_700_000_000
        archive.addfile(info, io.BytesIO(content))
    done = subprocess.run(["podman", "import", "-q", store / "x.tar", name], check=True, capture_output=True, text=True)
    return done.stdout.strip().removeprefix("sha256:")


def test_opens(store, sink, tmp_path):
    image_id = _import(store, "localhost/web:1", b"x" * 100)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for text in ("web:1", "localhost/web:1", "containers-storage:localhost/web:1", image_id, f"sha256:{image_id}"):
        assert exists(Reference.parse(text))
        assert fingerprint(Reference.parse(text)) == image_id
    reference = Reference.parse("web:1")
    with open_image(reference, scratch=scratch) as image:
        assert image.reference == reference
        assert list(scratch.iterdir())
        root = read_tree(image, sink)
    assert list(scratch.iterdir()) == []
    assert [path for path, _ in walk(root)] == [b"/", b"/etc", b"/etc/x", b"/var"]
    node = root.children[b"etc"].children[b"x"]
    assert (node.permissions, node.mtime, sink.read(node)) == (0o640, 1_700_000_000, b"x" * 100)


def test_nothing_is_left_when_the_reader_fails(store, tmp_path):
    _import(store, "localhost/web:1", b"x")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(KeyboardInterrupt), open_image(Reference.parse("web:1"), scratch=scratch):
        raise KeyboardInterrupt
    assert list(scratch.iterdir()) == []


def test_unknown(store, tmp_path, monkeypatch):
    _import(store, "localhost/web:1", b"x")
    assert not exists(Reference.parse("web:2"))
    with pytest.raises(ImageNotFound) as failure, open_image(Reference.parse("web:2")):
        pass
    assert "localhost/web:1" in failure.value.fix
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    with pytest.raises(ImageNotFound) as failure:
        fingerprint(Reference.parse("saved"))
    assert "oci:saved" in failure.value.fix


def test_without_podman(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("keelboot.command._SBIN", ())
    with pytest.raises(MissingTool):
        exists(Reference.parse("web:1"))


def test_a_full_disk(store, tmp_path, monkeypatch):
    """What podman says on a full disk becomes OutOfSpace; /dev/full is where every write fails so."""
    _import(store, "localhost/web:1", b"x" * 100)
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "podman").write_text(
        f'#!/bin/sh\n[ "$1" = save ] || exec {shutil.which("podman")} "$@"\nexec dd if=/dev/zero of=/dev/full count=1\n'
    )
    (fake / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", str(fake), prepend=os.pathsep)
    with pytest.raises(OutOfSpace) as failure, open_image(Reference.parse("web:1"), scratch=tmp_path):
        pass
    assert "TMPDIR" in failure.value.fix
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("keelboot-")]


def test_large_copies_do_not_go_to_memory(monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    assert storage._large_scratch() == ("/var/tmp" if os.access("/var/tmp", os.W_OK) else "/tmp")
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/srv/tmp")
    assert storage._large_scratch() == "/srv/tmp"
