"""Whether a new version fits, asked before a byte of it is written. Only what is really missing counts."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from keelboot.boot import esp
from keelboot.failure import OutOfSpace
from keelboot.host.sysroot import Sysroot
from keelboot.image.compression import Compression
from keelboot.image.digest import Digest
from keelboot.image.opened import Layer
from keelboot.image.tree import Directory, Regular, resolve, walk

# Software compresses to a third or less. Some files of a changed layer are there already, and what is counted too low
# ends in the same refusal a little later: so the factor is rather low, and nothing that fits is refused.
_EXPANSION: Final = 2
_FACTORY: Final = "/usr/share/factory/var"
_DOCUMENTS: Final = 32 << 20  # bytes for composefs image, records and filesystem


def missing(layers: Sequence[Layer], known: Callable[[Digest], bool]) -> int:
    """Bytes of the store that LAYERS take, without those that are KNOWN there, by DiffID."""
    return sum(
        layer.descriptor.size * (1 if layer.compression is Compression.NONE else _EXPANSION)
        for layer in layers
        if not known(layer.diff_id)
    )


def require_store(sysroot: Sysroot, image: object, size: int) -> None:
    """Raises OutOfSpace unless the store has room for SIZE bytes of contents of IMAGE."""
    state = os.statvfs(sysroot.store if sysroot.store.exists() else sysroot.root)
    available = state.f_bavail * state.f_frsize
    wanted = size + _DOCUMENTS if size else 0
    if wanted > available:
        raise OutOfSpace(
            f"Insufficient free space for {image}",
            why=f"the store needs about {_shown(wanted)} more and has {_shown(available)}",
            fix="Nothing was changed. `keelboot gc` frees what no deployment needs; `keelboot status` lists them.",
        )


def require_esp(sysroot: Sysroot, kernel: str, sizes: Sequence[int]) -> None:
    """Raises OutOfSpace unless the ESP has room for the kernel KERNEL, whose files have SIZES, and an entry.

    What no entry names there is removed if that makes the room.
    """
    with esp.explained(sysroot.esp):
        if esp.needed(sysroot.esp, kernel, sizes) <= esp.free(sysroot.esp):
            return
        esp.remove_unused(sysroot.esp)
        wanted, available = esp.needed(sysroot.esp, kernel, sizes), esp.free(sysroot.esp)
    if wanted > available:
        raise OutOfSpace(
            "Insufficient free space on the ESP",
            why=f"the kernel and its initramfs need {_shown(wanted)} more, and it has {_shown(available)}",
            fix="What boots has not changed. `keelboot unpin` and `keelboot gc` free kernels of older deployments.",
        )


def missing_in_var(tree: Directory, var: Path) -> int:
    """Bytes that the first boot of TREE's deployment copies into VAR, by the lines that the finish stage makes."""
    factory = resolve(tree, _FACTORY)
    if not isinstance(factory, Directory):
        return 0
    return sum(
        node.size
        for path, node in walk(factory)
        if isinstance(node, Regular) and not os.path.lexists(os.fsencode(var) + path)
    )


def require_var(var: Path, tree: Directory, image: object) -> None:
    """Raises OutOfSpace unless VAR has room for what IMAGE, whose tree is TREE, seeds there."""
    state = os.statvfs(var)
    available = state.f_bavail * state.f_frsize
    wanted = missing_in_var(tree, var)
    if wanted > available:
        raise OutOfSpace(
            f"Insufficient free space in {var} for {image}",
            why=f"the image brings {_shown(wanted)} of files for it, and it has {_shown(available)}",
            fix=f"What boots has not changed. `du -xh {var} | sort -h | tail` shows what takes the space there.",
        )


def _shown(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"
