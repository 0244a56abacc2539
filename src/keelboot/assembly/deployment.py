"""An image becomes a deployment: a verified root with a name of its own, and the kernel that starts it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from keelboot.assembly import staged, stored
from keelboot.assembly.record import Record
from keelboot.assembly.seeded import seeded
from keelboot.assembly.system import System, entry_of, system_in
from keelboot.boot.entries import FIRST, Entry
from keelboot.boot.systemd_boot import boot_digest
from keelboot.composefs import erofs, sealing
from keelboot.disk.contents import Usage
from keelboot.disk.sealed_objects import SealedObjects
from keelboot.image.transports import Image
from keelboot.image.tree import External, ObjectId
from keelboot.progress import SILENT, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What will run first on a new machine: its record, what boots it, where that lies, what its store names."""

    system: System
    record: Record
    entry: Entry
    links: Mapping[str, ObjectId]  # of its store, by path
    seeds: Usage  # of /var

    @property
    def digest(self) -> ObjectId:
        """The fs-verity digest of the composefs image: the deployment's name."""
        return self.record.digest


def prepare(
    image: Image,
    objects: SealedObjects,
    *,
    arguments: tuple[str, ...] = (),
    target: str | None = None,
    progress: Progress = SILENT,
) -> Deployment:
    """Read IMAGE into OBJECTS, seal its tree, and say what boots it. ARGUMENTS are added to the kernel command line.

    TARGET is the reference that the machine follows, IMAGE's own if it is None. Raises InvalidImage for a damaged
    image, CannotFinish for one that is not bootable.
    """
    read = stored.read(image, objects, progress)
    system = system_in(read.tree, str(image.reference), image.config, lambda node: staged.read(objects, node))
    if target:
        system = replace(system, image=target)
    with progress.step("Sealing the root"):
        size, chunks = erofs.image_chunks(sealing.seal(read.tree), version=1)
        composefs = External(objects.add(size, chunks), size)
    kernel = boot_digest(staged.sha256(objects, system.kernel), staged.sha256(objects, system.initramfs))
    record = system.record(
        composefs.object,
        manifest_digest=image.manifest_digest,
        config_digest=image.manifest.config.digest,
        boot_digest=kernel,
    )
    entry = entry_of(record, FIRST, arguments=[*system.arguments, *arguments])
    return Deployment(
        system=system, record=record, entry=entry, links=read.links(composefs, objects), seeds=seeded(read.tree)
    )
