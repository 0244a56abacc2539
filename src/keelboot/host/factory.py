"""A fresh /etc and /var at the next boot: docs/formats/deployment.md, "Factory reset".

This only puts the mark; the initramfs does the work, before anything uses what goes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keelboot.durable import replacing, sync_directory
from keelboot.host import etc
from keelboot.host.sysroot import Sysroot
from keelboot.image.tree import ObjectId

MARK: Final = "factory-reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What a factory reset takes: paths below /etc that were added or changed here, names in /var."""

    etc: tuple[str, ...]
    var: tuple[str, ...]
    deployments: int  # whose /etc goes


def is_due(sysroot: Sysroot) -> bool:
    """Whether the next boot does it."""
    return (sysroot.state / MARK).exists()


def loss(sysroot: Sysroot, booted: ObjectId, var: Path = Path("/var")) -> Loss:
    """What would be gone. Raises OSError."""
    changes = etc.drift(sysroot.deployment(booted) / "etc/upper").changes
    return Loss(
        etc=tuple(change.path for change in changes if change.kind != "removed"),
        var=tuple(sorted(path.name for path in var.iterdir() if path.name != "lost+found")),
        deployments=sum(1 for path in sysroot.deployments.glob("*/etc")),
    )


def request(sysroot: Sysroot) -> None:
    """Have the next boot do it; durable when this returns. Raises OSError."""
    with replacing(sysroot.state / MARK) as file:
        file.write(b"The next boot starts with a fresh /etc and /var. Remove this file to keep them.\n")


def cancel(sysroot: Sysroot) -> bool:
    """Take the mark away; whether there was one. Raises OSError."""
    try:
        (sysroot.state / MARK).unlink()
    except FileNotFoundError:
        return False
    sync_directory(sysroot.state)
    return True
