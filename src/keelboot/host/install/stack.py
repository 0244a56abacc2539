"""What a filesystem stands on, and what the initramfs must be told and have so that it finds it again. Pure.

The devices are lsblk's inverse tree: the filesystem's own device first, and below each one what it is made from.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from keelboot.failure import CannotFinish, Failure
from keelboot.host.install.device import Node

# By what is needed: programs of which one has to be in the initramfs, and Debian's packages that bring it there.
PROGRAMS: Final = {
    "crypt": ("systemd-cryptsetup", "cryptsetup"),
    "lvm": ("lvm",),
    "mdraid": ("mdadm",),
}
PACKAGES: Final = {"crypt": "cryptsetup systemd-cryptsetup", "lvm": "lvm2", "mdraid": "mdadm"}
_SINGLE_DASH = re.compile(r"(?<!-)-(?!-)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """ARGUMENTS for the kernel command line, and what the initramfs NEEDS: names of dracut's modules."""

    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


def examine(device: Node) -> Stack:
    """What the devices below DEVICE ask for. Raises Failure for a kind that no initramfs of ours would find."""
    arguments: dict[str, None] = {}
    needs: dict[str, None] = {}
    for word, need in _asked(device, inside_lvm=False):
        arguments[word] = None
        needs[need] = None
    return Stack(arguments=tuple(arguments), needs=tuple(needs))


def _asked(node: Node, *, inside_lvm: bool) -> Iterator[tuple[str, str]]:
    lvm = node.type == "lvm"
    if lvm and not inside_lvm:  # a thin or cached volume stands on volumes of its own, which come with it
        yield f"rd.lvm.lv={_volume(node.path)}", "lvm"
    elif node.type == "crypt":
        for child in node.children:
            if not child.uuid:
                raise Failure(
                    f"cannot install to {node.path}",
                    why=f"{child.path} below it is encrypted without a header that has a UUID, so it is no LUKS",
                    fix="Use LUKS: `cryptsetup luksFormat`.",
                )
            yield f"rd.luks.uuid={child.uuid}", "crypt"
    elif node.type.startswith("raid"):
        for child in node.children:
            if child.uuid:
                yield f"rd.md.uuid={child.uuid}", "mdraid"
    elif node.type not in ("disk", "part", "loop", "lvm"):
        raise Failure(
            f"cannot install to {node.path}",
            why=f"it is a device of type {node.type}, which the initramfs would not find again",
            fix="Known are disks, partitions, LUKS, LVM and MD RAID, in any order.",
        )
    for child in node.children:
        yield from _asked(child, inside_lvm=inside_lvm or lvm)


def _volume(path: str) -> str:
    """GROUP/VOLUME from device-mapper's name, in which a dash of either is written twice."""
    parts = _SINGLE_DASH.split(path.rpartition("/")[2], maxsplit=1)
    if len(parts) != 2:
        raise Failure(
            f"cannot install to {path}",
            why="its name does not tell its volume group",
            fix="Mount it by the name /dev/mapper/GROUP-VOLUME.",
        )
    return "/".join(part.replace("--", "-") for part in parts)


def refuse_initramfs(image: str, stack: Stack, programs: Collection[str]) -> None:
    """Raise CannotFinish unless the initramfs, which has PROGRAMS, can do all that STACK needs."""
    missing = [need for need in stack.needs if not set(PROGRAMS[need]).intersection(programs)]
    if missing:
        packages = " ".join(PACKAGES[need] for need in missing)
        raise CannotFinish(
            f"cannot install {image} there",
            why=f"the root would be on {' on '.join(_WORDS[need] for need in stack.needs)}, and the image's initramfs "
            f"has no {' and no '.join(PROGRAMS[need][-1] for need in missing)}",
            fix=f"Add `RUN apt-get update && apt-get install -y {packages}` to the Containerfile and build it again; "
            f"dracut takes its {' and '.join(missing)} module in by itself then.",
        )


_WORDS = {"crypt": "LUKS", "lvm": "LVM", "mdraid": "RAID"}
