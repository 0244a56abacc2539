"""A hidden directory beside the output, in which a disk is put together: removed at the end, whatever the end is.

It is made 0700, since an image's secrets go through it, and locked while it is in use. What a killed process left
behind is not locked; the next one that works in the same place removes it.
"""

import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keelboot.command import run
from keelboot.failure import CommandFailed, Failure, NotWritable, OutOfSpace

_PREFIX = ".keelboot-draft-"
_PROBE = 4 << 20  # bytes: more than a filesystem keeps back for its own rounding
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EFBIG, errno.ETXTBSY)
# How C.UTF-8 words the first three: programs that are told of them rarely say so by their exit status.
_FULL_TEXTS = (b"No space left on device", b"Disk quota exceeded")


@contextmanager
def drafting(directory: Path) -> Iterator[Path]:
    """A new directory in DIRECTORY, gone afterwards.

    Raises NotWritable where it cannot be made, OutOfSpace where there is no room for it.
    """
    with explained(directory):
        draft, lock = _make(directory)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(lock)


def writable(output: Path) -> Path:
    """The file that OUTPUT names, links followed. Raises NotWritable where a disk cannot be put there."""
    target = Path(os.path.realpath(output))
    with explained(output):
        try:
            kind = target.stat().st_mode
        except FileNotFoundError:
            if not target.parent.is_dir():
                raise
        else:
            if not stat.S_ISREG(kind):
                raise NotWritable(
                    f"cannot write {output}",
                    why="it is there, and not a file",
                    fix="Name a file. To write to a device, boot the image and use `keelboot install to-disk`.",
                )
    return target


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Tell an operating system's refusal to write TARGET as a failure: OutOfSpace or NotWritable."""
    try:
        yield
    except OSError as error:
        failure = explain(error, target)
        if failure is None:
            raise
        raise failure from error


def explain(error: OSError, target: Path) -> Failure | None:
    """What ERROR means for somebody who wants TARGET written; None where it means a bug."""
    if error.errno in _FULL:
        return full(target)
    if error.errno in _REFUSED:
        return NotWritable(
            f"cannot write {target}",
            why=f"the system says: {error.strerror}",
            fix="Name an output elsewhere, where you may write and a file may become this large.",
        )
    return None


def full(target: Path) -> OutOfSpace:
    """The failure of a filesystem that has no room for TARGET."""
    place = target if target.is_dir() else target.parent
    return OutOfSpace(
        f"cannot write {target}",
        why=f"the filesystem of {place} is full, or your quota there",
        fix=f"Make room there (`df -h {place}` tells how much is left), or name an output elsewhere.",
    )


def run_in(
    draft: Path,
    argv: list[str],
    *,
    purpose: str,
    stdin: bytes | None = None,
    environment: dict[str, str] | None = None,
) -> tuple[bytes, bytes]:
    """Run a program in DRAFT and return what it printed on both its outputs.

    Raises OutOfSpace if it failed for want of room, else what `keelboot.command.run` raises.
    """
    try:
        done = run(argv, purpose=purpose, stdin=stdin, extra_environment=environment, cwd=draft)
    except CommandFailed as error:
        if out_of_room(draft, error.why.encode()):
            raise full(draft.parent) from error
        raise
    return done.stdout, done.stderr


def out_of_room(draft: Path, output: bytes) -> bool:
    """Tell whether a program that printed OUTPUT and failed did so because the filesystem of DRAFT is full.

    mkfs.fat says "failed whilst writing FAT" and no reason: so what it says is not the only thing asked.
    """
    if any(text in output for text in _FULL_TEXTS):
        return True
    probe = draft / "probe"
    try:
        with probe.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _PROBE)
    except OSError as error:
        return error.errno in _FULL
    finally:
        probe.unlink(missing_ok=True)
    return False


def _make(directory: Path) -> tuple[Path, int]:
    _sweep(directory)
    while True:
        draft = directory / f"{_PREFIX}{secrets.token_hex(8)}"
        draft.mkdir(mode=0o700)
        # Between these two lines another process may take the new directory for an abandoned one: then try again.
        with suppress(FileNotFoundError, BlockingIOError):
            lock = _lock(draft)
            if draft.exists():
                return draft, lock
            os.close(lock)


def _sweep(directory: Path) -> None:
    for left in sorted(directory.glob(f"{_PREFIX}*")):
        with suppress(OSError):  # in use, or somebody else's
            lock = _lock(left)
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _lock(draft: Path) -> int:
    fd = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd
