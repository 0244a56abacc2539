"""The files that tell where uploads go on: one process's at a time, and never a reason to fail."""

import json
import os
import signal
import subprocess
import sys

import pytest

from keelboot.image.digest import Digest
from keelboot.registry.name import Name
from keelboot.transfer import bookmarks
from keelboot.transfer.bookmarks import Bookmarks

NAME, BLOB = Name.parse("registry.example.org/os/web"), Digest.of(b"blob")
HELD = "import fcntl, signal; fcntl.flock(0, fcntl.LOCK_EX); print(flush=True); signal.pause()"


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "cache/uploads"


def put(directory, location="https://registry.example.org/x?a", name=NAME, blob=BLOB):
    with Bookmarks(directory).of(name, blob) as mark:
        mark.put(location)


def location(directory, name=NAME, blob=BLOB):
    with Bookmarks(directory).of(name, blob) as mark:
        return mark.location


def test_stays_until_it_is_removed(directory):
    assert location(directory) is None
    assert list(directory.iterdir()) == []
    put(directory)
    put(directory, "https://registry.example.org/x")
    assert location(directory) == location(directory) == "https://registry.example.org/x"
    with Bookmarks(directory).of(NAME, BLOB) as mark:
        mark.remove()
        mark.put("https://registry.example.org/y")
    assert location(directory) == "https://registry.example.org/y"
    with Bookmarks(directory).of(NAME, BLOB) as mark:
        mark.remove()
    assert location(directory) is None
    assert list(directory.iterdir()) == []


def test_is_on_disk_at_once(directory):
    """Whatever comes next may be the end of the process."""
    with Bookmarks(directory).of(NAME, BLOB) as mark:
        for text in ("https://a/long/one", "https://b/"):
            mark.put(text)
            (file,) = directory.iterdir()
            assert json.loads(file.read_text())["location"] == text


def test_belongs_to_one_blob_and_one_repository(directory):
    put(directory)
    assert location(directory, blob=Digest.of(b"other")) is None
    assert location(directory, name=Name.parse("registry.example.org/os/other")) is None
    (file,) = directory.iterdir()
    put(directory, "https://b/", blob=Digest.of(b"other"))
    (other,) = set(directory.iterdir()) - {file}
    file.write_bytes(other.read_bytes())
    assert location(directory) is None, "it says itself that it is another one's"


def test_is_nobody_elses(directory):
    put(directory)
    for path in (directory, *directory.iterdir()):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'"x"', b"\xff", b'{"location": 1}', b"[" * 30000, b"{}" * 40000]
)
def test_nonsense_is_none(directory, content):
    put(directory)
    (file,) = directory.iterdir()
    file.write_bytes(content)
    assert location(directory) is None
    put(directory)
    assert location(directory)


def test_one_that_another_process_has(directory):
    put(directory)
    (file,) = directory.iterdir()
    with (
        file.open("r+b") as opened,
        subprocess.Popen([sys.executable, "-c", HELD], stdin=opened, stdout=subprocess.PIPE) as other,
    ):
        assert other.stdout
        other.stdout.readline()
        with Bookmarks(directory).of(NAME, BLOB) as mark:
            assert mark.location is None
            mark.put("https://elsewhere/")
            mark.remove()
        other.send_signal(signal.SIGKILL)
    assert location(directory) == "https://registry.example.org/x?a"


def test_the_oldest_go(directory, monkeypatch):
    monkeypatch.setattr(bookmarks, "_FILES_MAX", 3)
    blobs = [Digest.of(b"%d" % number) for number in range(6)]
    with Bookmarks(directory).of(NAME, blobs[0]) as first:
        first.put("https://a/")
        (held,) = directory.iterdir()
        os.utime(held, (1, 1))
        for number, blob in enumerate(blobs[1:]):
            before = set(directory.iterdir())
            put(directory, blob=blob)
            for file in set(directory.iterdir()) - before:
                os.utime(file, (number + 2, number + 2))
        assert held.exists(), "somebody has it"
    assert [location(directory, blob=blob) is not None for blob in blobs[-2:]] == [True, True]
    assert len(list(directory.iterdir())) <= 4


def test_nowhere_to_keep_it(tmp_path):
    put(None)
    assert location(None) is None
    (tmp_path / "file").write_text("x")
    put(tmp_path / "file/uploads")
    assert location(tmp_path / "file/uploads") is None
    directory = tmp_path / "uploads"
    put(directory)
    (file,) = directory.iterdir()
    file.unlink()
    file.symlink_to(tmp_path / "file")
    put(directory)
    assert (tmp_path / "file").read_text() == "x"
