"""An image becomes a deployment: a verified root with a name of its own, and the kernel that starts it."""

from dataclasses import dataclass, replace

from keelboot.assembly import staged
from keelboot.assembly.record import Record
from keelboot.assembly.system import System, entry_of, system_in
from keelboot.boot.entries import FIRST, Entry
from keelboot.boot.systemd_boot import boot_digest
from keelboot.composefs import erofs, sealing
from keelboot.disk.sealed_objects import SealedObjects
from keelboot.image import layers
from keelboot.image.transports import Image
from keelboot.image.tree import ObjectId
from keelboot.progress import SILENT, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What will run first on a new machine: its record, what boots it, and where in the image that lies."""

    system: System
    record: Record
    entry: Entry

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
    tree = layers.read_tree(image, objects, progress)
    system = system_in(tree, str(image.reference), image.config, lambda node: staged.read(objects, node))
    if target:
        system = replace(system, image=target)
    with progress.step("Sealing the root"):
        content = erofs.image_bytes(sealing.seal(tree), version=1)
        digest = objects.add(len(content), [content])
    kernel = boot_digest(staged.sha256(objects, system.kernel), staged.sha256(objects, system.initramfs))
    record = system.record(digest, manifest_digest=str(image.manifest_digest), boot_digest=kernel)
    entry = entry_of(record, FIRST, arguments=[*system.arguments, *arguments])
    return Deployment(system=system, record=record, entry=entry)
