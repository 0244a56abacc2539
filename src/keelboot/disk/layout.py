"""Where everything lies on a disk: three partitions, each sized from what it holds. Pure: nothing is written here.

    LBA 0    protective MBR, GPT
    1 MiB    ESP     FAT32   boot loader, kernels, entries
             store   ext4    PARTLABEL keelboot-store: objects, images, deployments
             var     ext4    PARTLABEL keelboot-var: /var; last, so that it can grow with the disk
    end      1 MiB with the GPT's copy

Partition types are those of the UAPI group's Discoverable Partitions Specification.
"""

from dataclasses import dataclass
from uuid import UUID

from keelboot.disk import identifiers
from keelboot.disk.contents import Usage
from keelboot.failure import CannotFinish, OutOfSpace

MIB = 1 << 20
GIB = 1 << 30
BLOCK = 4096  # of ext4; fs-verity metadata written in advance needs it

ESP_TYPE = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
VAR_TYPE = UUID("4d21b016-b534-45c2-a9fb-5c16e091fd2d")
ROOT_TYPES = {  # by an image's architecture, as OCI names it
    "amd64": UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    "arm64": UUID("b921b045-1df0-41c3-af44-4c6f280d3fae"),
}
STORE_NAME = "keelboot-store"
VAR_NAME = "keelboot-var"
GROW = 1 << 59  # "grow-file-system": the filesystem is to fill its partition when it is mounted

# What Linux 5.4 and later can write, whatever this machine's own mke2fs would choose by itself.
EXT4_FEATURES = (
    "has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "64bit", "flex_bg", "sparse_super",
    "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum", "verity",
)  # fmt: skip

_EDGE = MIB  # before the first and after the last partition: room for the GPT and its copy
_ESP_LEAST = 512 * MIB  # FAT32 with clusters of 4 KiB, which some firmware insists on, takes 256 MiB and more
_SLACK = 16 * MIB  # for each deployment: its own /etc, metadata, and that the next version is a little larger
_VAR_USUAL = GIB
_VAR_LEAST = 256 * MIB
_GROUP = 32768  # blocks of an ext4 block group: what one bitmap of 4 KiB covers
_INODE = 256
_BYTES_PER_INODE = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A range of the disk, in bytes, and how the GPT describes it."""

    start: int
    size: int
    type: UUID
    uuid: UUID
    name: str
    attributes: int = 0

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class FatPartition(Partition):
    """A partition with FAT32 on it."""

    label: str
    volume_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ext4Partition(Partition):
    """A partition with ext4 on it; JOURNAL in MiB, RESERVED for root in percent."""

    label: str
    filesystem: UUID
    hash_seed: UUID
    inodes: int
    journal: int
    reserved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A disk of SIZE bytes."""

    size: int
    uuid: UUID
    esp: FatPartition
    store: Ext4Partition
    var: Ext4Partition

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """All of them, in the order in which they lie on the disk."""
        return (self.esp, self.store, self.var)


def var_least(var: Usage) -> int:
    """Bytes that the filesystem with /var has to have for what VAR takes and as much again."""
    return max(_VAR_LEAST, ext4_size(var * 2, var.inodes * 2, slack=_SLACK))


def plan(
    seed: str,
    *,
    architecture: str,
    esp: int,
    store: Usage,
    var: Usage | None = None,
    size: int | None = None,
    deployments: int = 3,
) -> Layout:
    """Lay out a disk that has room for DEPLOYMENTS as large as the first one.

    SEED is what all identifiers derive from, usually the deployment's digest. ESP is what the files there take, in
    bytes; STORE what is put into that, VAR what the first boot puts into the other. SIZE is the whole disk's, in bytes;
    without it, /var gets 1 GiB (or twice its content). A given SIZE is used down to the last whole MiB, and /var gets
    what the others leave.

    Raises OutOfSpace with the smallest size where SIZE is too small, CannotFinish for an unknown ARCHITECTURE.
    """
    root_type = ROOT_TYPES.get(architecture)
    if root_type is None:
        known = ", ".join(ROOT_TYPES)
        raise CannotFinish(
            f"cannot lay out a disk for {architecture}",
            why=f"the partition types of {known} are known, no others",
            fix=f"Build the image for one of these: `--platform linux/{next(iter(ROOT_TYPES))}`.",
        )
    var = var or Usage()
    esp_size = _whole(max(_ESP_LEAST, deployments * (esp + _SLACK)))
    store_inodes = store.inodes * deployments + 4096
    store_size = ext4_size(store * deployments, store_inodes, slack=deployments * _SLACK)
    least = var_least(var)
    before_var = _EDGE + esp_size + store_size
    if size is None:
        var_size = max(_VAR_USUAL, least)
    else:
        var_size = size // MIB * MIB - _EDGE - before_var
        if var_size < least:
            raise _too_small(size, smallest=before_var + least + _EDGE, store=store_size, esp=esp_size, var=least)
    return Layout(
        size=before_var + var_size + _EDGE,
        uuid=identifiers.uuid(seed, "disk"),
        esp=FatPartition(
            start=_EDGE,
            size=esp_size,
            type=ESP_TYPE,
            uuid=identifiers.uuid(seed, "esp partition"),
            name="esp",
            label="KEELBOOT",
            volume_id=identifiers.volume_id(seed, "esp"),
        ),
        store=_ext4(
            seed, _EDGE + esp_size, store_size, kind=root_type, name=STORE_NAME, inodes=store_inodes, reserved=0
        ),
        var=_ext4(seed, before_var, var_size, kind=VAR_TYPE, name=VAR_NAME, inodes=var.inodes * 2, reserved=1),
    )


def ext4_size(usage: Usage, inodes: int, *, slack: int) -> int:
    """How many bytes an ext4 takes that has USAGE, room for SLACK bytes more, and at least INODES; whole MiB."""
    # What fragments and what holes split costs extent blocks, and a full filesystem writes slowly.
    content = usage.blocks * BLOCK * 21 // 20 + slack
    size = content
    while True:
        groups = -(-size // (_GROUP * BLOCK))
        needed = (
            content
            + journal(size) * MIB
            + max(inodes, size // _BYTES_PER_INODE) * _INODE
            + groups * 4 * BLOCK  # bitmaps, and that tables are rounded up
            + _backups(groups) * (2 + min(1024, groups * 16)) * BLOCK  # descriptors, and room for them to grow
        )
        if needed <= size:
            return size
        size = _whole(needed)


def journal(size: int) -> int:
    """The journal's size in MiB on a filesystem of SIZE bytes."""
    if size < 128 * MIB:
        return 4
    return 16 if size < 2 * GIB else 64


def _ext4(seed: str, start: int, size: int, *, kind: UUID, name: str, inodes: int, reserved: int) -> Ext4Partition:
    return Ext4Partition(
        start=start,
        size=size,
        type=kind,
        uuid=identifiers.uuid(seed, f"{name} partition"),
        name=name,
        # The store has /var behind it and is mounted read-only: to grow it would be a unit that fails.
        attributes=GROW if kind == VAR_TYPE else 0,
        label=name,
        filesystem=identifiers.uuid(seed, f"{name} filesystem"),
        hash_seed=identifiers.uuid(seed, f"{name} hash seed"),
        inodes=max(inodes, size // _BYTES_PER_INODE),
        journal=journal(size),
        reserved=reserved,
    )


def _backups(groups: int) -> int:
    # With sparse_super, groups 0, 1 and the powers of 3, 5 and 7 have a copy of the superblock and the descriptors.
    return min(groups, 2) + sum(1 for base in (3, 5, 7) for power in range(1, 21) if base**power < groups)


def _whole(size: int) -> int:
    return -(-size // MIB) * MIB


def _too_small(size: int, *, smallest: int, store: int, esp: int, var: int) -> OutOfSpace:
    return OutOfSpace(
        f"cannot lay out a disk of {size // MIB} MiB",
        why=f"the image and room for its updates take {store // MIB} MiB, the boot partition {esp // MIB} MiB, "
        f"and /var at least {var // MIB} MiB",
        fix=f"Type `--size {smallest // MIB}M` or more, or leave `--size` out.",
    )
