import errno
import os
from pathlib import Path

import pytest

from keelboot.disk import drafts
from keelboot.failure import CommandFailed, Failure, NotWritable, OutOfSpace


def test_is_gone_whatever_the_end_is(tmp_path: Path) -> None:
    def interrupted() -> None:
        with drafts.drafting(tmp_path) as draft:
            (draft / "folder").mkdir()
            (draft / "folder" / "half").write_bytes(b"written")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_what_was_killed_is_swept_by_the_next(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        with drafts.drafting(tmp_path) as draft:
            (draft / "half").write_bytes(b"written")
            os._exit(0)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    with drafts.drafting(tmp_path) as draft:
        assert list(tmp_path.iterdir()) == [draft]


def test_what_is_in_use_is_not_swept(tmp_path: Path) -> None:
    with drafts.drafting(tmp_path) as one, drafts.drafting(tmp_path) as other:
        assert sorted(tmp_path.iterdir()) == sorted([one, other])


def test_nothing_else_is_swept(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_bytes(b"")
    (tmp_path / ".keelboot-draft-link").symlink_to(kept)
    (tmp_path / ".keelboot-draft-file").write_bytes(b"")
    with drafts.drafting(tmp_path):
        pass
    assert len(list(tmp_path.rglob("*"))) == 4


@pytest.mark.parametrize("place", ["missing/disk.raw", "file/disk.raw", "folder", "device"])
def test_not_writable(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/null")
    with pytest.raises(NotWritable):
        drafts.writable(tmp_path / place)


def test_writable_follows_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("folder/disk")
    (tmp_path / "folder").mkdir()
    assert drafts.writable(tmp_path / "link") == tmp_path.resolve() / "folder" / "disk"
    assert drafts.writable(tmp_path / "new") == tmp_path.resolve() / "new"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, OutOfSpace),
        (errno.EDQUOT, OutOfSpace),
        (errno.EROFS, NotWritable),
        (errno.EACCES, NotWritable),
        (errno.EFBIG, NotWritable),
    ],
)
def test_refusals_of_the_system_are_explained(number: int, kind: type[Failure], tmp_path: Path) -> None:
    with pytest.raises(kind), drafts.explained(tmp_path):
        raise OSError(number, os.strerror(number))


def test_a_bug_is_not_dressed_up(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"), drafts.explained(tmp_path):
        os.close(-1)


def test_a_program_without_room(tmp_path: Path) -> None:
    with pytest.raises(OutOfSpace), drafts.drafting(tmp_path) as draft:
        drafts.run_in(draft, ["sh", "-c", "echo 'write: No space left on device' >&2; exit 1"], purpose="write")


def test_a_program_that_fails_otherwise(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="cannot write"), drafts.drafting(tmp_path) as draft:
        drafts.run_in(draft, ["sh", "-c", "exit 1"], purpose="write")
