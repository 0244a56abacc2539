"""A whole disk becomes a machine's: `install to-disk`.

a cut after   leaves
looked        the disk as it was: nothing is written before image, disk and tools were found fit
erased        an empty disk
filesystems   a disk without a partition table, so nothing on it is ever found
image         the same
loader        the same, with everything in place
table         the machine
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keelboot.assembly.record import Record
from keelboot.assembly.settings import Settings
from keelboot.host.admitted import Admitted
from keelboot.host.install import deploying, device, partitioning, probe, temporary
from keelboot.host.install import wishes as asked
from keelboot.host.install.configuration import Configuration
from keelboot.host.install.device import Node
from keelboot.host.install.look import Look, look
from keelboot.host.install.plan import DiskPlan, plan, seed_of
from keelboot.host.install.wishes import Wishes
from keelboot.host.sysroot import Sysroot
from keelboot.image.transports import Image
from keelboot.progress import SILENT, Progress

STEPS: Final = ("looked", "erased", "filesystems", "image", "loader", "table")
_ESP_OPTIONS = "fmask=0177,dmask=0077"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskWishes(Wishes):
    """What the operator asked of a disk. Sizes in bytes; empty and None leave it to the image or keelboot."""

    disk: Path
    wipe: bool = False
    filesystem: str = ""
    root_size: int | None = None
    block_setup: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A disk that may be written, and what is lost with it, as clauses."""

    disk: Node
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything that was found and decided before the first byte is written."""

    disk: Node
    look: Look
    plan: DiskPlan
    verified: bool
    admitted: Admitted
    settings: Settings
    remarks: tuple[str, ...]


def find(wishes: DiskWishes) -> Found:
    """Look at the disk, which is only read, and refuse one that is in use, or has data on it that may not go.

    Raises NotPermitted, DeviceInUse, DeviceNotEmpty, NotWritable, MissingTool, NoVerity.
    """
    temporary.require_root()
    partitioning.require_tools(*filter(None, [wishes.filesystem]))
    asked.refuse_block_setup(wishes.block_setup, Configuration())
    if wishes.filesystem:
        _verified(wishes.filesystem, wishes)
    disk = probe.find(wishes.disk)
    device.refuse_kind(disk)
    device.refuse_use(disk.path, device.uses(disk))
    probe.refuse_claimed(disk)
    lost = device.losses(disk, probe.signatures(disk))
    if not wishes.wipe:
        device.refuse_content(disk.path, lost)
    return Found(disk, tuple(lost))


def prepare(
    wishes: DiskWishes, disk: Found, image: Image, admitted: Admitted, *, progress: Progress = SILENT
) -> Prepared:
    """Look at the image, which was ADMITTED, and decide.

    Raises OutOfSpace, NoVerity, MissingTool, CannotFinish, InvalidImage.
    """
    found = look(image, progress)
    configuration = found.configuration
    asked.refuse_block_setup(wishes.block_setup, configuration)
    filesystem = wishes.filesystem or configuration.filesystem or "ext4"
    partitioning.require_tools(filesystem)
    verified = _verified(filesystem, wishes)
    seed = seed_of(secrets.token_bytes(16))
    planned = plan(seed, found.needs, size=disk.disk.size, filesystem=filesystem, root_size=wishes.root_size)
    # The root is found by the type of its partition, unless the image does not want that.
    by_uuid = [f"root=UUID={planned.store.uuid}"] if configuration.discoverable is False else []
    settings = asked.settings(wishes, configuration, asked.root_arguments(wishes, configuration, by_uuid))
    remark = asked.remark(found.system.image, agent=found.agent)
    return Prepared(
        disk=disk.disk,
        look=found,
        plan=planned,
        verified=verified,
        admitted=admitted,
        settings=settings,
        remarks=(remark,) if remark else (),
    )


def install(
    prepared: Prepared,
    wishes: DiskWishes,
    image: Image,
    progress: Progress = SILENT,
    *,
    reached: Callable[[str], None] = lambda _: None,
) -> Record:
    """Do what was PREPARED. Raises Failure; the disk's content is gone then."""
    planned, disk = prepared.plan, prepared.disk
    reached("looked")
    temporary.leave()
    probe.refuse_claimed(disk)
    with partitioning.partitioned(disk, planned, progress=progress) as paths, temporary.places() as places:
        reached("erased")
        for volume, path in zip(planned.volumes, paths, strict=True):
            with progress.step(f"Making {volume.filesystem} on {path}"):
                partitioning.make_filesystem(volume, path)
        reached("filesystems")
        with (
            temporary.mounted(paths[1], places / "store", planned.filesystem, "rw,noatime") as root,
            temporary.mounted(paths[0], places / "esp", "vfat", _ESP_OPTIONS) as esp,
        ):
            sysroot = Sysroot(root, esp)
            if planned.var is None:
                partitioning.make_subvolume(root / "state/var")
            record = deploying.deploy(
                sysroot,
                image,
                prepared.look,
                wishes,
                prepared.settings,
                admitted=prepared.admitted,
                verified=prepared.verified,
                progress=progress,
            )
            reached("image")
            deploying.add_loader(sysroot, prepared.look, fallback=True)
        reached("loader")
    reached("table")
    return record


def _verified(filesystem: str, wishes: DiskWishes) -> bool:
    return asked.refuse_unverified(
        filesystem, kernel_has_it=probe.has_verity(filesystem), allowed=wishes.allow_missing_verity
    )
