"""What an installation onto a whole disk will do, before anything is touched: partitions, sizes, commands. Pure.

The partitions are those of `keelboot disk` (docs/formats/disk.md), with three differences: the store gets a quarter of
a large disk, up to 32 GiB, since it cannot grow later; the identifiers are this disk's own, so that a machine can see
two disks made from one image; and the filesystem may be btrfs, whose /var is a subvolume of the store's, or xfs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from keelboot.disk import identifiers, layout
from keelboot.disk.contents import Usage
from keelboot.disk.layout import BLOCK, EXT4_FEATURES, GIB, GROW, MIB, STORE_NAME, VAR_NAME, VAR_TYPE, Partition
from keelboot.failure import OutOfSpace

VERIFYING: Final = ("ext4", "btrfs")  # filesystems with fs-verity
TOOLS: Final = {"ext4": "mke2fs", "btrfs": "mkfs.btrfs", "xfs": "mkfs.xfs", "vfat": "mkfs.fat"}
PACKAGES: Final = {"mke2fs": "e2fsprogs", "mkfs.btrfs": "btrfs-progs", "mkfs.xfs": "xfsprogs", "mkfs.fat": "dosfstools"}

_STORE_SHARE = 4  # the store gets one part in so many
_STORE_MOST = 32 * GIB
_VAR_LEAST = {"ext4": 256 * MIB, "xfs": 512 * MIB}  # mkfs.xfs refuses less than 300 MiB
_XFS_LOG = 64 * MIB
_LABELS = {  # xfs has room for twelve characters
    ("xfs", STORE_NAME): "keelboot",
    ("xfs", VAR_NAME): "keelboot-var",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A partition and the filesystem that is made on it; INODES is for ext4."""

    partition: Partition
    filesystem: str
    label: str
    uuid: UUID | None = None
    volume_id: int = 0
    inodes: int = 0
    reserved: int = 0

    def command(self, device: str) -> list[str]:
        """The command that makes the filesystem on DEVICE."""
        match self.filesystem:
            case "vfat":
                return ["mkfs.fat", "-F", "32", "-n", self.label, "-i", f"{self.volume_id:08x}", device]
            case "ext4":
                # Feature by feature, so that a newer live system makes nothing that the image's kernel cannot read.
                return [
                    *("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-O", ",".join(("none", *EXT4_FEATURES))),
                    *("-I", "256", "-N", str(self.inodes), "-J", f"size={layout.journal(self.partition.size)}"),
                    *("-m", str(self.reserved), "-L", self.label, "-U", str(self.uuid), "-E", "root_owner=0:0", device),
                ]
            case "btrfs":
                return ["mkfs.btrfs", "-q", "-f", "-L", self.label, "-U", str(self.uuid), device]
            case _:
                return ["mkfs.xfs", "-q", "-f", "-L", self.label, "-m", f"uuid={self.uuid}", device]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlan:
    """A disk of SIZE bytes as it will be. On btrfs there is no VAR: it is a subvolume of the store's filesystem."""

    size: int
    uuid: UUID
    esp: Volume
    store: Volume
    var: Volume | None

    @property
    def volumes(self) -> Sequence[Volume]:
        """In the order in which they lie on the disk; the first is partition 1."""
        return (self.esp, self.store) if self.var is None else (self.esp, self.store, self.var)

    @property
    def partitions(self) -> Sequence[Partition]:
        """For the partition table."""
        return [volume.partition for volume in self.volumes]

    @property
    def filesystem(self) -> str:
        """The kind that the store is on."""
        return self.store.filesystem


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one deployment takes: ESP in bytes, STORE as an ext4 would have it, VAR what its first boot puts there."""

    architecture: str
    esp: int
    store: Usage
    var: Usage = field(default_factory=Usage)


def plan(seed: str, needs: Needs, *, size: int, filesystem: str, root_size: int | None = None) -> DiskPlan:
    """Lay out a disk of SIZE bytes for NEEDS and two more deployments like it. SEED makes the identifiers, so draw it.

    ROOT_SIZE is that of the store's partition, in bytes. Raises OutOfSpace, and CannotFinish for an architecture that
    has no partition type.
    """
    base = layout.plan(seed, architecture=needs.architecture, esp=needs.esp, store=needs.store, var=needs.var)
    edge = base.esp.start
    start, end = base.store.start, (size - edge) // MIB * MIB
    alone = filesystem == "btrfs"
    seeds = layout.var_least(needs.var) if needs.var.blocks else 0
    least_store = base.store.size + (_XFS_LOG if filesystem == "xfs" else 0) + (seeds if alone else 0)
    least_var = 0 if alone else max(_VAR_LEAST[filesystem], seeds)
    least = start + least_store + least_var + edge
    if size < least:
        raise _too_small(f"a disk of {size // MIB} MiB", least, "Take a larger disk")
    if root_size is not None and root_size < least_store:
        raise _too_small(f"--root-size {root_size // MIB}M", least_store, "Give it more")
    if root_size is not None and root_size > end - start - least_var:
        most = (end - start - least_var) // MIB
        raise OutOfSpace(
            f"cannot use --root-size {root_size // MIB}M", why=f"the disk leaves {most} MiB for it", fix="Give it less."
        )
    store_size = (root_size or 0) // MIB * MIB
    if not store_size and alone:
        store_size = end - start
    if not store_size:
        generous = min(size // _STORE_SHARE, _STORE_MOST) // MIB * MIB
        store_size = min(max(least_store, generous), end - start - least_var)
    esp = Volume(partition=base.esp, filesystem="vfat", label=base.esp.label, volume_id=base.esp.volume_id)
    return DiskPlan(
        size=size,
        uuid=base.uuid,
        esp=esp,
        store=_volume(base.store, start, store_size, filesystem, grow=alone and root_size is None),
        var=None if alone else _volume(base.var, start + store_size, end - start - store_size, filesystem, grow=True),
    )


def _volume(like: layout.Ext4Partition, start: int, size: int, filesystem: str, *, grow: bool) -> Volume:
    partition = Partition(
        start=start,
        size=size,
        type=like.type,
        uuid=like.uuid,
        name=like.name,
        attributes=GROW if grow else 0,
    )
    return Volume(
        partition=partition,
        filesystem=filesystem,
        label=_LABELS.get((filesystem, like.name), like.label),
        uuid=like.filesystem,
        inodes=max(like.inodes, size // (4 * BLOCK)),
        reserved=1 if like.type == VAR_TYPE else 0,
    )


def seed_of(random: bytes) -> str:
    """What the identifiers of one installation derive from; RANDOM is drawn for it."""
    return str(identifiers.uuid(random.hex(), "installation"))


def _too_small(what: str, least: int, fix: str) -> OutOfSpace:
    return OutOfSpace(
        f"cannot install to {what}" if what.startswith("a disk") else f"cannot use {what}",
        why=f"the image and room for its updates take {-(-least // MIB)} MiB",
        fix=f"{fix}: {-(-least // MIB)} MiB or more.",
    )
