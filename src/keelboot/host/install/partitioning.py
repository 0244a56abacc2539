"""A disk gets its partitions; the table that makes them last is the last thing that is written.

Until then only the running kernel knows of them (ioctl BLKPG, linux/blkpg.h). An installation that is cut anywhere
leaves a disk without a partition table, on which no firmware finds anything to start.
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from keelboot import command
from keelboot.disk import gpt
from keelboot.disk.layout import MIB, Partition
from keelboot.failure import CommandFailed, MissingTool
from keelboot.host.install import device
from keelboot.host.install.device import Node
from keelboot.host.install.plan import PACKAGES, TOOLS, DiskPlan, Volume
from keelboot.progress import SILENT, Progress

_REREAD: Final = 0x125F  # BLKRRPART, linux/fs.h
_PARTITIONS: Final = 0x1269  # BLKPG
_ADD, _DELETE = 1, 2
_REQUEST = struct.Struct("iii4xQ")  # what to do, flags, size and address of the
_PARTITION = struct.Struct("qqi64s64s4x")  # partition: start, size in bytes, number, two names that nobody uses
_PROGRAMS = ("lsblk", "wipefs", "mount", "umount")


def require_tools(*filesystems: str) -> None:
    """Raise MissingTool unless everything is here that an installation runs, and what makes FILESYSTEMS."""
    for program in (*_PROGRAMS, *(TOOLS[name] for name in (*filesystems, "vfat"))):
        if command.find(program) is None:
            package = PACKAGES.get(program, "util-linux")
            raise MissingTool(
                "cannot install to a disk",
                why=f"{program} is not installed on this system",
                fix=f"`apt-get install {package}`; in an image, add {package} to its Containerfile.",
            )


@contextmanager
def partitioned(disk: Node, planned: DiskPlan, *, progress: Progress = SILENT) -> Iterator[list[str]]:
    """DISK, emptied, with the partitions PLANNED, by path; leaving the context without an error writes the table.

    What was on DISK is gone from the start. Raises DeviceInUse, CommandFailed, OSError.
    """
    fd = os.open(disk.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        # Who holds this lock keeps udev from looking at the disk (systemd, "Locking Block Device Access"): without a
        # table there, it would have the kernel drop the partitions.
        fcntl.flock(fd, fcntl.LOCK_EX)
        with progress.step(f"Emptying {disk.path}"):
            _erase(fd, disk)
        added: list[str] = []
        try:
            for number, partition in enumerate(planned.partitions, 1):
                _announce(fd, disk, number, partition)
                added.append(device.partition_path(disk.path, number))
            yield added
            with progress.step("Writing the partition table"):
                _write_table(fd, planned, disk.sector)
        except BaseException:
            for number in range(len(added), 0, -1):
                with suppress(OSError):
                    _tell_kernel(fd, _DELETE, number)
            raise
        _reread(fd, disk)
    finally:
        os.close(fd)


def make_filesystem(volume: Volume, path: str) -> None:
    """Make the filesystem of VOLUME on the partition at PATH. Raises MissingTool, CommandFailed."""
    argv = volume.command(path)
    # Of its settings only those are wanted that the command names.
    environment = {"MKE2FS_CONFIG": "/dev/null"} if argv[0] == "mke2fs" else {}
    command.run(
        argv,
        purpose=f"make the filesystem {volume.label}",
        extra_environment=environment,
    )


def _erase(fd: int, disk: Node) -> None:
    # Partitions first: once the table is gone nobody finds the filesystems in them any more, but for their remains.
    parts = [node.path for node in disk.children if node.type == "part"]
    for path in [*parts, disk.path]:
        command.run(["wipefs", "--all", "--quiet", "--force", path], purpose=f"empty {path}")
    zeros = bytes(min(MIB, disk.size // 2))
    for start in (0, disk.size - len(zeros)):
        os.pwrite(fd, zeros, start)
    os.fsync(fd)
    _reread(fd, disk)


def _reread(fd: int, disk: Node) -> None:
    """Have the kernel read the partition table again."""
    try:
        fcntl.ioctl(fd, _REREAD)
    except OSError as error:
        if error.errno == errno.EBUSY:
            device.refuse_use(disk.path, ["the kernel still uses one of its partitions"])
        if error.errno not in (errno.EINVAL, errno.ENOTTY):  # a loop device without partitions
            raise


def _announce(fd: int, disk: Node, number: int, partition: Partition) -> None:
    _tell_kernel(fd, _ADD, number, partition.start, partition.size)
    path = Path(device.partition_path(disk.path, number))
    if not path.is_block_device():
        raise CommandFailed(
            f"cannot install to {disk.path}",
            why=f"the kernel made no {path} for its partition {number}",
            fix="/dev has to be the kernel's own (devtmpfs); in a container, mount the machine's /dev.",
        )


def _tell_kernel(fd: int, act: int, number: int, start: int = 0, size: int = 0) -> None:
    """Have the kernel know of a partition, or forget it. Raises OSError."""
    described = ctypes.create_string_buffer(_PARTITION.pack(start, size, number, b"", b""), _PARTITION.size)
    fcntl.ioctl(fd, _PARTITIONS, _REQUEST.pack(act, 0, _PARTITION.size, ctypes.addressof(described)))


def _write_table(fd: int, planned: DiskPlan, sector: int) -> None:
    head, foot = gpt.primary(planned, sector=sector), gpt.backup(planned, sector=sector)
    entries = 2 * sector  # where they begin: behind the protective MBR and the header
    os.pwrite(fd, foot, planned.size - len(foot))
    os.pwrite(fd, head[entries:], entries)
    os.fsync(fd)
    # The commit: firmware looks at nothing before it has found these.
    os.pwrite(fd, head[:entries], 0)
    os.fsync(fd)


def make_subvolume(path: Path) -> None:
    """Make a btrfs subvolume at PATH, so that it can have snapshots and quotas of its own. Raises CommandFailed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command.run(["btrfs", "subvolume", "create", path], purpose="make a subvolume for /var")
