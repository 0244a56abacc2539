"""Finding out about a block device, without changing anything on it."""

import errno
import json
import os
import stat
from pathlib import Path

from keelboot import command
from keelboot.failure import CommandFailed, NotWritable
from keelboot.host.install import device
from keelboot.host.install.device import Node

_PURPOSE = "look at the disk"


def find(path: Path) -> Node:
    """The block device at PATH, with everything on it. Raises NotWritable, MissingTool, CommandFailed."""
    try:
        found = path.resolve(strict=True)
        mode = found.stat().st_mode
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NotWritable(f"cannot install to {path}", why=why, fix="`lsblk` lists the disks.") from error
    if stat.S_ISREG(mode):
        raise NotWritable(
            f"cannot install to {path}",
            why="it is a file, not a disk",
            fix=f"A disk in a file needs no loop device: keelboot disk IMAGE -o {path}",
        )
    if not stat.S_ISBLK(mode):
        raise NotWritable(
            f"cannot install to {path}", why="it is not a block device", fix="Name a disk; `lsblk` lists them."
        )
    return lsblk(found)


def lsblk(path: Path, *, inverse: bool = False) -> Node:
    """What lsblk says of the device at PATH; INVERSE gives what it stands on instead of what stands on it."""
    inverted = ["--inverse"] if inverse else []
    argv = ["lsblk", "--json", "--bytes", "--output", device.COLUMNS, *inverted, str(path)]
    done = command.run(argv, purpose=_PURPOSE)
    try:
        value = json.loads(done.stdout)
        return Node.parse(value["blockdevices"][0])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise CommandFailed(
            f"cannot {_PURPOSE}", why=f"lsblk printed something else than devices: {error}", fix="Look with `lsblk`."
        ) from error


def signatures(disk: Node) -> dict[str, list[str]]:
    """What wipefs finds on DISK and on each of its partitions, by path. Raises MissingTool, CommandFailed."""
    found = {}
    for node in disk.walk():
        if node is disk or node.type == "part":
            done = command.run(["wipefs", "--no-act", "--json", node.path], purpose=_PURPOSE)
            try:
                found[node.path] = device.signatures(json.loads(done.stdout or b"{}"))
            except ValueError as error:
                raise CommandFailed(
                    f"cannot {_PURPOSE}", why=f"wipefs printed something else: {error}", fix="Look with `wipefs`."
                ) from error
    return found


def refuse_claimed(disk: Node) -> None:
    """Raise DeviceInUse where the kernel has given DISK, or a partition of it, to somebody; in any mount namespace."""
    try:
        os.close(os.open(disk.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            device.refuse_use(disk.path, ["the kernel says that it is in use"])
        raise NotWritable(
            f"cannot install to {disk.path}", why=error.strerror or str(error), fix="`lsblk` lists the disks."
        ) from error


def has_verity(filesystem: str) -> bool:
    """Whether this kernel has fs-verity on FILESYSTEM; its module is loaded to find out."""
    features = Path("/sys/fs", filesystem, "features")
    if not features.exists() and command.find("modprobe"):
        command.run(["modprobe", "--quiet", filesystem], purpose=_PURPOSE, accept=range(256))
    return (features / "verity").exists()
