"""An image becomes a disk file: sealed, bootable, the same bytes for the same image and options.

Everything is staged in a hidden directory beside the output, and the file appears there under its name at the end: an
error or an interruption leaves what was there before.
"""

import base64
import datetime as dt
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from keelboot.assembly import staged
from keelboot.assembly.deployment import Deployment, prepare
from keelboot.assembly.settings import Settings
from keelboot.assembly.verification import Verification
from keelboot.boot.systemd_boot import esp_files
from keelboot.disk import contents, layout, sealed_objects, writer
from keelboot.disk.formats import Format
from keelboot.disk.sealed_objects import SealedObjects
from keelboot.image.reference import Reference
from keelboot.image.transports import Image, open_image
from keelboot.progress import SILENT, Progress
from keelboot.store import names
from keelboot.store.meta import Meta

_OLDEST = 315532800  # 1980-01-01: FAT knows no earlier time
# Where bootc puts root's keys, so that tools which look there find them.
_ROOT_KEYS = b"/tmpfiles.d/bootc-root-ssh.conf"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOptions:
    """What the operator chose for a disk. SIZE is in bytes; without it, what the image and its updates need."""

    format: str = "raw"  # or "qcow2"
    size: int | None = None
    ssh_keys: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    target: str | None = None  # the reference that upgrades follow; None for the image's own
    etc: Mapping[str, bytes] = field(default_factory=dict)  # below /etc, by path: changes of the machine's own
    # Decides whether the image may run, before its layers are read: what the record keeps of that, and the evidence.
    decide: Callable[[Image], tuple[Verification, Mapping[str, bytes]]] | None = None


def write_disk(
    reference: Reference, output: Path, options: DiskOptions | None = None, progress: Progress = SILENT
) -> Deployment:
    """Write a disk that boots the image at REFERENCE to OUTPUT, and return what it boots.

    Raises ImageNotFound, InvalidImage, CannotFinish, OutOfSpace, NotWritable, MissingTool, and what deciding raises.
    """
    options = options or DiskOptions()
    with open_image(reference) as image, sealed_objects.staging(output) as objects:
        verification, evidence = options.decide(image) if options.decide else (None, {})
        deployment = prepare(image, objects, arguments=options.arguments, target=options.target, progress=progress)
        deployment = replace(deployment, record=replace(deployment.record, verification=verification))
        with tempfile.TemporaryDirectory(dir=objects.directory, prefix="esp-") as plain:
            esp = esp_files(
                deployment.entry,
                loader=staged.copy(objects, deployment.system.loader, Path(plain, "loader")),
                kernel=staged.copy(objects, deployment.system.kernel, Path(plain, "vmlinuz")),
                initramfs=staged.copy(objects, deployment.system.initramfs, Path(plain, "initrd")),
                architecture=deployment.system.architecture,
            )
            held = contents.Contents(
                esp=esp,
                store=tuple(_store(deployment, objects, options, evidence)),
                objects=objects.directory,
            )
            planned = layout.plan(
                deployment.digest.hex,
                architecture=deployment.system.architecture,
                esp=sum(len(data) if isinstance(data, bytes) else data.stat().st_size for data in esp.values()),
                store=contents.Usage.of(held.store),
                var=deployment.seeds,
                size=options.size,
            )
            writer.write(
                planned,
                held,
                output,
                epoch=_epoch(deployment.system.created),
                form=Format(options.format),
                progress=progress,
            )
    return deployment


def _store(
    deployment: Deployment, objects: SealedObjects, options: DiskOptions, evidence: Mapping[str, bytes]
) -> Iterable[contents.Entry]:
    """What the store's filesystem holds: see docs/formats/store.md and docs/formats/deployment.md."""
    digest = deployment.digest
    state = f"/state/deploy/{digest.hex}".encode()
    yield contents.Directory(path=b"/composefs", mode=0o700)
    yield contents.File(path=b"/composefs/meta.json", content=Meta("sha256").encode())
    for number in range(256):
        yield contents.Directory(path=f"/composefs/objects/{number:02x}".encode())
    yield from contents.Sealed.below(b"/composefs/objects", objects.objects())
    for path, name in deployment.links.items():
        yield contents.Symlink(path=f"/composefs/{path}".encode(), target=names.target(name).encode())
    if options.arguments:
        yield contents.File(path=b"/state/host.json", content=Settings(kargs=options.arguments).encode())
    yield contents.File(path=state + b"/origin.json", content=deployment.record.encode())
    for kept, data in evidence.items():
        yield contents.File(path=state + f"/signatures/{kept}".encode(), content=data)
    yield contents.Directory(path=state + b"/etc/upper")
    yield contents.Directory(path=state + b"/etc/work")
    for path, data in options.etc.items():
        yield contents.File(path=state + b"/etc/upper" + path.removeprefix("/etc").encode(), content=data)
    if options.ssh_keys:
        # tmpfiles.d(5): "f~" takes its content in base64, so no character of a key means anything to it.
        keys = base64.b64encode("".join(f"{key}\n" for key in options.ssh_keys).encode()).decode()
        lines = f"d /root/.ssh 0700 root root - -\nf~ /root/.ssh/authorized_keys 0600 root root - {keys}\n"
        yield contents.File(path=state + b"/etc/upper" + _ROOT_KEYS, content=lines.encode())


def _epoch(created: str) -> int:
    """The image's time of creation (RFC 3339) in seconds: every time on the disk, so that no clock gets into it."""
    try:
        return max(_OLDEST, int(dt.datetime.fromisoformat(created).timestamp()))
    except ValueError:
        return _OLDEST
