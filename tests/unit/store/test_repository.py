import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from keelboot.failure import Failure, NotWritable, OutOfSpace
from keelboot.image.tree import ObjectId
from keelboot.store.meta import Meta
from keelboot.store.repository import Lock, Repository, explained, opened

NAME = ObjectId("ab" + "c" * 62)


def test_a_store_is_made_in_a_new_directory(store: Path) -> None:
    with opened(store / "deep/er", Lock.SHARED, create=True):
        pass
    assert sorted(path.name for path in (store / "deep/er").iterdir()) == [
        "images", "layers", "lock", "meta.json", "objects", "refs",
    ]  # fmt: skip
    assert (store / "deep/er/meta.json").read_bytes() == Meta("sha256").encode()


@pytest.mark.parametrize("left", [(), ("objects",), ("lock", "objects", "refs"), (".meta.json.0123",)])
def test_a_store_half_made_is_finished(left: tuple[str, ...], store: Path) -> None:
    store.mkdir()
    for name in left:
        (store / name).mkdir() if name in ("objects", "refs") else (store / name).touch()
    with opened(store, Lock.SHARED, create=True) as repository:
        assert repository.meta == Meta("sha256")


def test_the_first_store_of_a_disk_is_taken_as_it_is(store: Path) -> None:
    """`keelboot disk` makes objects/, images/ and meta.json only."""
    (store / "objects").mkdir(parents=True)
    (store / "images").mkdir()
    (store / "meta.json").write_bytes(Meta("sha256").encode())
    with opened(store, Lock.SHARED) as repository:
        assert repository.links(repository.references) == []


def test_a_directory_with_other_things_is_refused(store: Path) -> None:
    store.mkdir()
    (store / "thesis.tex").touch()
    with pytest.raises(NotWritable, match="cannot make a store") as refused, opened(store, Lock.SHARED, create=True):
        pass
    assert "thesis.tex" in refused.value.why
    assert [path.name for path in store.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", [None, b"", b"{}", Meta("sha256").encode().replace(b"1", b"2", 1)])
def test_what_is_no_store_is_refused(content: bytes | None, store: Path) -> None:
    store.mkdir()
    if content is not None:
        (store / "meta.json").write_bytes(content)
    with pytest.raises(Failure, match="as a store"), opened(store, Lock.SHARED):
        pass


def test_a_store_that_is_not_there_is_not_made(store: Path) -> None:
    with pytest.raises(Failure, match="as a store"), opened(store, Lock.ALONE):
        pass
    assert not store.exists()


@pytest.mark.usefixtures("repository")
def test_features_of_a_newer_version_forbid_to_write(store: Path) -> None:
    (store / "meta.json").write_bytes(Meta("sha256", (), ("newer",)).encode())
    with opened(store, Lock.NONE) as found:
        assert not found.meta.writable
    with pytest.raises(Failure, match="as a store") as refused, opened(store, Lock.SHARED):
        pass
    assert "newer" in refused.value.why


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [
        (Lock.SHARED, Lock.SHARED, False),
        (Lock.SHARED, Lock.ALONE, True),
        (Lock.ALONE, Lock.SHARED, True),
        (Lock.ALONE, Lock.ALONE, True),
        (Lock.ALONE, Lock.NONE, False),
    ],
)
def test_who_waits_for_whom(first: Lock, second: Lock, waits: bool, store: Path) -> None:
    entered = threading.Event()

    def enter() -> None:
        with opened(store, second):
            entered.set()

    with opened(store, Lock.SHARED, create=True):
        pass
    thread = threading.Thread(target=enter)
    with opened(store, first):
        thread.start()
        assert entered.wait(0.3) != waits
    assert entered.wait(10)
    thread.join()


def test_the_lock_ends_with_its_process(store: Path) -> None:
    with opened(store, Lock.SHARED, create=True):
        pass
    child = os.fork()
    if not child:
        fd = os.open(store / "lock", os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os._exit(0)
    os.waitpid(child, 0)
    with opened(store, Lock.ALONE):
        pass


def test_links_are_replaced_at_once(repository: Repository, store: Path) -> None:
    other = ObjectId("0" * 64)
    for name in (NAME, other, other):
        repository.publish(repository.references, "x", name)
        assert repository.follow(repository.references, "x") == name
    assert [link.object for link in repository.links(repository.references)] == [other]
    assert [path.name for path in (store / "refs").iterdir()] == ["x"]


@pytest.mark.parametrize("make", ["file", "directory", "elsewhere", "nothing"])
def test_what_is_no_link_of_a_store_leads_nowhere(make: str, repository: Repository, store: Path) -> None:
    place = store / "layers/x"
    match make:
        case "file":
            place.touch()
        case "directory":
            place.mkdir()
        case "elsewhere":
            place.symlink_to("/etc/passwd")
    assert repository.follow(repository.layers, "x") is None


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, OutOfSpace),
        (errno.EDQUOT, OutOfSpace),
        (errno.EROFS, NotWritable),
        (errno.EACCES, NotWritable),
        (errno.EIO, Failure),
        (errno.EMFILE, Failure),
        (errno.EBADF, OSError),  # a bug
    ],
)
def test_refusals_of_the_system_are_told(number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind) as told, explained(Path("/somewhere")):
        raise OSError(number, os.strerror(number))
    assert type(told.value) is kind
