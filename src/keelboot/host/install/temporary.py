"""Mounts that nobody else sees: in a mount namespace of our own, gone with this process at the latest."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keelboot import command
from keelboot.failure import NotPermitted
from keelboot.host.mounting import unshare


def require_root() -> None:
    """Raise NotPermitted for anybody but root."""
    if os.geteuid():
        raise NotPermitted(
            "cannot install", why="only root may write to disks and mount them", fix="Run it with sudo, or as root."
        )


def leave() -> None:
    """Give this process a mount namespace of its own: what it mounts from now on is seen by its children only."""
    try:
        unshare()
    except OSError as error:
        raise NotPermitted(
            "cannot install",
            why=f"this process may not make a mount namespace ({error.strerror})",
            fix="Run it as root of the machine; in a container, with --privileged.",
        ) from error


@contextmanager
def places() -> Iterator[Path]:
    """An empty directory for mount points, removed at the end."""
    parent = next((path for path in ("/run", "/tmp") if os.access(path, os.W_OK)), None)  # noqa: S108 - mkdtemp below
    with tempfile.TemporaryDirectory(prefix="keelboot-install-", dir=parent) as directory:
        yield Path(directory)


@contextmanager
def mounted(device: str, at: Path, filesystem: str, options: str) -> Iterator[Path]:
    """DEVICE, mounted AT a new directory until the context is left; everything written there is then on the disk."""
    at.mkdir(exist_ok=True)
    purpose = f"mount {device}"
    command.run(["mount", "-t", filesystem, "-o", options, device, at], purpose=purpose)
    try:
        yield at
    finally:
        command.run(["umount", at], purpose=f"unmount {device}")
