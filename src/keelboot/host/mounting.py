"""mount(2) and its kin, called directly: processes of mount(8) would take most of the time that `status` has."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

RDONLY: Final = 1
NOSUID: Final = 2
NODEV: Final = 4
NOEXEC: Final = 8
REMOUNT: Final = 1 << 5
BIND: Final = 1 << 12
REC: Final = 1 << 14
PRIVATE: Final = 1 << 18
_CLONE_NEWNS = 0x20000  # unshare(2); Python has os.unshare from 3.12 on
_DETACH = 2  # umount2(2)


def mount(source: Path | str | None, target: Path, kind: str | None, flags: int, options: str = "") -> None:
    """Mount SOURCE at TARGET, or change the mount there. Raises OSError, which names TARGET."""
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(
        libc.mount(
            os.fsencode(source) if source else None,
            os.fsencode(target),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            options.encode() or None,
        ),
        target,
    )


def bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Have at TARGET what is at SOURCE, writable or not whatever it is there. Raises OSError."""
    mount(source, target, None, BIND)
    mount(None, target, None, PRIVATE)
    mount(None, target, None, BIND | REMOUNT | (RDONLY if read_only else 0))


def bind_all(source: Path, target: Path) -> None:
    """Have at TARGET what is at SOURCE, with all that is mounted below it. Raises OSError."""
    mount(source, target, None, BIND | REC)
    # What is mounted below would otherwise be unmounted at SOURCE too, as soon as it is here.
    mount(None, target, None, REC | PRIVATE)


def unmount(target: Path) -> None:
    """Take away what is mounted at TARGET; at once if nobody uses it, else when nobody does any more."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(target), 0):
        detach(target)


def detach(target: Path) -> None:
    """Take away what is mounted at TARGET, with all that is mounted below it, whoever uses it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with suppress(OSError):
        _checked(libc.umount2(os.fsencode(target), _DETACH), target)


def unshare() -> None:
    """Give this process mounts of its own: what is mounted from now on, nobody else sees. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.unshare(_CLONE_NEWNS), Path("/"))
    mount(None, Path("/"), None, REC | PRIVATE)


def _checked(result: int, target: Path) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
