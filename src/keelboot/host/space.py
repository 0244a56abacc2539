"""Whether a new version fits, asked before a byte of it is written. Only what is really missing counts.

The store is asked for what the manifest says of the layers. Kernel and files for /var are in the layers: an image of
`keelboot build` says in a label what they are. Where that does not settle it, and there is not room for whatever the
layers may hold, they are read once more than otherwise, beforehand, and nothing of them is kept. Neither decides alone:
once the layers are in the store, ESP and /var are asked for what is there.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from keelboot.boot import esp
from keelboot.boot.systemd_boot import boot_digest
from keelboot.failure import OutOfSpace
from keelboot.host.sysroot import Sysroot
from keelboot.image import needs
from keelboot.image.compression import Compression
from keelboot.image.digest import Digest
from keelboot.image.documents import Config
from keelboot.image.needs import Needs
from keelboot.image.opened import Image, Layer
from keelboot.image.tree import Directory
from keelboot.store.survey import Survey

# Software compresses to a third or less. Some files of a changed layer are there already, and what is counted too low
# ends in the same refusal a little later: so the factor is rather low, and nothing that fits is refused.
_EXPANSION: Final = 2
_DOCUMENTS: Final = 32 << 20  # bytes for composefs image, records and filesystem


def missing(layers: Sequence[Layer], known: Callable[[Digest], bool]) -> int:
    """Bytes of the store that LAYERS take, without those that are KNOWN there, by DiffID."""
    return sum(_expanded(layer) for layer in layers if not known(layer.diff_id))


def _expanded(layer: Layer) -> int:
    return layer.descriptor.size * (1 if layer.compression is Compression.NONE else _EXPANSION)


def require_store(sysroot: Sysroot, image: object, size: int) -> None:
    """Raises OutOfSpace unless the store has room for SIZE bytes of contents of IMAGE."""
    available = _free(sysroot.store)
    wanted = size + _DOCUMENTS if size else 0
    if wanted > available:
        raise OutOfSpace(
            f"Insufficient free space for {image}",
            why=f"the store needs about {_shown(wanted)} more and has {_shown(available)}",
            fix="Nothing was changed. `keelboot gc` frees what no deployment needs; `keelboot status` lists them.",
        )


def require_needed(
    sysroot: Sysroot, image: Image, called: object, *, var: Path | None, survey: Callable[[], Survey]
) -> None:
    """Raises OutOfSpace where the ESP or VAR has no room for IMAGE, and what SURVEY raises.

    SURVEY reads the layers of IMAGE, and is only called where that is needed to decide. VAR is as for `require_stated`.
    """
    require_stated(sysroot, image.config, called, var=var)
    if not _undecided(sysroot, image, var):
        return
    found = survey()
    needed = needs.measure(found.tree, image.config.diff_ids, found.sha256)
    if needed:  # else it does not boot, which its deployment would tell
        _require_kernel(sysroot, needed)
    if var:
        require_var(var, found.tree, called)


def _undecided(sysroot: Sysroot, image: Image, var: Path | None) -> bool:
    """Whether the ESP or VAR has no room for the most that IMAGE can need there, by its label or by its layers."""
    # A label that was inherited tells of the layers below, and the others are small then.
    label, told = needs.inherited(image.config)
    others = image.layers[told:]
    if others:
        # Kernel and initramfs are compressed themselves: all layers, with the rest of the system, have more bytes.
        most = sum(layer.descriptor.size for layer in others)
        most += label.kernel.size + label.initramfs.size if label else 0
        with esp.explained(sysroot.esp):
            if esp.needed(sysroot.esp, "", [most]) > esp.free(sysroot.esp) + esp.reclaimable(sysroot.esp):
                return True
    seeds = sum(label.var.values() if label else ()) + sum(map(_expanded, others))
    return var is not None and seeds > _free(var)


def require_stated(
    sysroot: Sysroot, config: Config, image: object, *, var: Path | None, rehearse: bool = False
) -> None:
    """Raises OutOfSpace where CONFIG, that of IMAGE, says in its label that the ESP or VAR has no room for it.

    Without a label that counts for its layers only an entry has to fit, which every version has. VAR is None where
    there is no /var yet, REHEARSE is as for `require_esp`.
    """
    stated = needs.stated(config)
    if stated is None:
        require_esp(sysroot, "", (), rehearse=rehearse)
        return
    _require_kernel(sysroot, stated, rehearse=rehearse)
    if var:
        # Of a directory that is there, some files may be missing: only the layers tell which.
        top = os.fsencode(var)
        missing = sum(size for path, size in stated.var.items() if not os.path.lexists(top + b"/" + path))
        _require_var(var, missing, image)


def _require_kernel(sysroot: Sysroot, needed: Needs, *, rehearse: bool = False) -> None:
    files = (needed.kernel, needed.initramfs)
    kernel = boot_digest(*(bytes.fromhex(file.digest.hex) for file in files))
    require_esp(sysroot, kernel, [file.size for file in files], rehearse=rehearse)


def require_esp(sysroot: Sysroot, kernel: str, sizes: Sequence[int], *, rehearse: bool = False) -> None:
    """Raises OutOfSpace unless the ESP has room for the kernel KERNEL, whose files have SIZES, and an entry.

    What no entry names there is removed if that makes the room; REHEARSE only counts it.
    """
    with esp.explained(sysroot.esp):
        wanted, available = esp.needed(sysroot.esp, kernel, sizes), esp.free(sysroot.esp)
        if wanted <= available:
            return
        if rehearse:
            wanted = esp.needed(sysroot.esp, kernel, sizes, without=esp.unused_kernels(sysroot.esp))
            available += esp.reclaimable(sysroot.esp)
        else:
            esp.remove_unused(sysroot.esp)
            wanted, available = esp.needed(sysroot.esp, kernel, sizes), esp.free(sysroot.esp)
    if wanted > available:
        needing = "the kernel and its initramfs need" if sizes else "a boot entry needs"
        raise OutOfSpace(
            "Insufficient free space on the ESP",
            why=f"{needing} {_shown(wanted)} more, and it has {_shown(available)}",
            fix="What boots has not changed. `keelboot unpin` and `keelboot gc` free kernels of older deployments.",
        )


def missing_in_var(tree: Directory, var: Path) -> int:
    """Bytes that the first boot of TREE's deployment copies into VAR, by the lines that the finish stage makes."""
    return sum(size for path, size in needs.seeds(tree) if not os.path.lexists(os.fsencode(var) + path))


def require_var(var: Path, tree: Directory, image: object) -> None:
    """Raises OutOfSpace unless VAR has room for what IMAGE, whose tree is TREE, seeds there."""
    _require_var(var, missing_in_var(tree, var), image)


def _require_var(var: Path, wanted: int, image: object) -> None:
    available = _free(var)
    if wanted > available:
        raise OutOfSpace(
            f"Insufficient free space in {var} for {image}",
            why=f"the image brings {_shown(wanted)} of files for it, and it has {_shown(available)}",
            fix=f"What boots has not changed. `du -xh {var} | sort -h | tail` shows what takes the space there.",
        )


def _free(directory: Path) -> int:
    """Bytes that can still be written there, or where it will be made."""
    while not directory.exists():
        directory = directory.parent
    state = os.statvfs(directory)
    return state.f_bavail * state.f_frsize


def _shown(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"
