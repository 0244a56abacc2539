"""A filesystem made by hand becomes a machine's root, on whatever it stands: `install to-filesystem`.

    a cut after   leaves
    looked        everything as it was
    wiped         with --replace=wipe, an empty filesystem
    image         contents in the filesystem that nothing names yet, or a boot entry that no loader reads
    loader        the machine

Running again finishes.
"""

import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keelboot import command
from keelboot.assembly.record import Record
from keelboot.assembly.settings import Settings
from keelboot.boot import esp
from keelboot.boot.systemd_boot import LOADER_CONF, LOADERS
from keelboot.disk.layout import ESP_TYPE
from keelboot.durable import sync_filesystem
from keelboot.failure import CannotFinish, Failure, NotWritable, NoVerity, OutOfSpace
from keelboot.host import mounts, published, records, space
from keelboot.host.admitted import Admitted
from keelboot.host.install import deploying, firmware, initramfs, probe, stack, temporary, where
from keelboot.host.install import wishes as asked
from keelboot.host.install.device import Node
from keelboot.host.install.look import Look, look
from keelboot.host.install.stack import Stack
from keelboot.host.install.where import Place
from keelboot.host.install.wishes import Wishes
from keelboot.host.mounts import Mount
from keelboot.host.stage import Candidate
from keelboot.host.sysroot import Sysroot
from keelboot.image.refusal import Refused
from keelboot.image.transports import Image
from keelboot.image.tree import ObjectId
from keelboot.progress import SILENT, Progress
from keelboot.store import kernel_verity

STEPS: Final = ("looked", "wiped", "image", "loader")
_OURS = b"#### LoaderInfo: systemd-boot"  # in every binary of it: systemd, src/boot/boot.c


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesystemWishes(Wishes):
    """What the operator asked of a filesystem. REPLACE says what becomes of what is there: wipe, alongside, or None."""

    root: Path
    replace: str | None = None
    acknowledged: bool = False
    finalize: bool = True
    generic: bool = False  # leave the firmware's settings alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A filesystem that can become a root: where it is mounted, what it stands on, what else lies there."""

    place: Place
    device: Node
    esp: str  # the device of the ESP
    verified: bool  # whether the root will be verified on each read
    enable_verity: bool  # whether its filesystem has to get the feature first
    found_by: tuple[str, ...]  # arguments for the kernel
    stack: Stack
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was decided before anything is written. FALLBACK: the loader takes the place where firmware looks itself."""

    look: Look
    admitted: Admitted
    settings: Settings
    fallback: bool
    remarks: tuple[str, ...]


def find(wishes: FilesystemWishes, *, may_enable_verity: bool = False) -> Found:
    """Look at the filesystem; nothing is changed. MAY_ENABLE_VERITY plans to give an ext4 the feature if it has it not.

    Raises NotPermitted, DeviceNotEmpty, NoVerity, MissingTool, Failure.
    """
    temporary.require_root()
    temporary.leave()
    try:
        point = str(wishes.root.resolve(strict=True))
        names = [path.name for path in Path(point).iterdir() if not published.is_watched(path)]
    except OSError as error:
        raise NotWritable(
            f"cannot install to {wishes.root}", why=error.strerror or str(error), fix="Name a mounted filesystem."
        ) from error
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    seen = mounts.parse(text)
    there = where.place(point, seen)
    where.refuse_var(there, seen)
    where.refuse_content(point, names, wishes.replace)
    others = where.leftovers(names)
    if wishes.replace == "wipe" and others and not wishes.acknowledged:
        raise Failure(
            f"cannot wipe {point}",
            why=f"that removes {', '.join(map(ascii, others[:5]))}{', ...' if len(others) > 5 else ''} for good",
            fix="Add --acknowledge-destructive if that is meant.",
        )
    device = probe.lsblk(_device(there.root), inverse=True)
    stands_on = stack.examine(device)
    verified = asked.refuse_unverified(
        there.root.kind, kernel_has_it=probe.has_verity(there.root.kind), allowed=wishes.allow_missing_verity
    )
    enable = False
    if verified and not can_seal(Path(point)):
        enable = may_enable_verity and there.root.kind == "ext4"
        verified = enable or not _refuse_featureless(there, allowed=wishes.allow_missing_verity)
    return Found(
        place=there,
        device=device,
        esp=there.esp.source if there.esp else _esp_beside(device, point),
        found_by=tuple(where.own_arguments(there, device.uuid, where.part_mounted(text, point)))
        if wishes.root_mount_spec is None
        else (),
        stack=stands_on,
        verified=verified,
        enable_verity=enable,
        others=tuple(others),
    )


def prepare(
    wishes: FilesystemWishes, found: Found, image: Image, admitted: Admitted, *, progress: Progress = SILENT
) -> Prepared:
    """Look at the image, which was ADMITTED, and decide. Raises MissingTool, OutOfSpace, CannotFinish, InvalidImage."""
    seen = look(image, progress)
    configuration = seen.configuration
    with temporary.places() as places, opened_esp(found, places) as esp_directory:
        _refuse_small_esp(esp_directory, seen, found.esp)
        fallback = wishes.replace == "wipe" or _may_take(esp_directory / LOADERS[seen.system.architecture].fallback)
    if not fallback and not wishes.generic:
        firmware.require()
    arguments = [*asked.root_arguments(wishes, configuration, found.found_by), *found.stack.arguments]
    settings = asked.settings(wishes, configuration, arguments)
    remark = asked.remark(seen.system.image, agent=seen.agent)
    return Prepared(
        look=seen,
        admitted=admitted,
        settings=settings,
        fallback=fallback,
        remarks=(remark,) if remark else (),
    )


def install(
    prepared: Prepared,
    found: Found,
    wishes: FilesystemWishes,
    image: Image,
    progress: Progress = SILENT,
    *,
    loader_configuration: bytes = LOADER_CONF,
    beside: Callable[[Sysroot, Record], None] = lambda *_: None,
    reached: Callable[[str], None] = lambda _: None,
) -> Record:
    """Do what was PREPARED. BESIDE is called before the loader gets its place. Raises Failure."""
    reached("looked")
    root = Path(found.place.point)
    with temporary.places() as places, opened_esp(found, places) as esp_directory:
        sysroot = Sysroot(root, esp_directory)
        gone: set[ObjectId] = set()
        if wishes.replace == "wipe":
            gone = {record.digest for record in records.deployments(sysroot)}
            with progress.step(f"Emptying {root}"):
                _empty(root)
            reached("wiped")
        record = deploying.deploy(
            sysroot,
            image,
            prepared.look,
            wishes,
            prepared.settings,
            admitted=prepared.admitted,
            verified=found.verified,
            progress=progress,
            check=lambda candidate: _refuse_candidate(candidate, sysroot, found.stack),
        )
        reached("image")
        _remove_entries(esp_directory, gone, record)
        beside(sysroot, record)
        with progress.step("Installing the boot loader"):
            deploying.add_loader(sysroot, prepared.look, fallback=prepared.fallback, configuration=loader_configuration)
            if not prepared.fallback and not wishes.generic:
                firmware.add(found.esp, prepared.look.system.architecture)
        reached("loader")
    if wishes.finalize:
        finalize(root)
    return record


def finalize(root: Path, *, rehearse: bool = False) -> None:
    """Do what is left to do once nothing is written to the filesystem at ROOT any more; REHEARSE only looks there.

    Raises OSError.
    """
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if rehearse:
            return
        if command.find("fstrim"):
            # What was removed meanwhile takes no room on a thin or flash device; one that cannot be told takes no harm.
            command.run(["fstrim", root], purpose="tell the device what is free", accept=range(256))
        sync_filesystem(fd)
    finally:
        os.close(fd)


def can_seal(root: Path) -> bool:
    """Whether the filesystem mounted at ROOT seals files with fs-verity, by doing that to one. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=root, prefix=".keelboot-", delete=False) as file:
        file.write(b"sealed")
    try:
        fd = os.open(file.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel_verity.enable(fd, "sha256")
        except kernel_verity.Unsupported:
            return False
        finally:
            os.close(fd)
    finally:
        Path(file.name).unlink()
    return True


@contextmanager
def opened_esp(found: Found, places: Path) -> Iterator[Path]:
    """The ESP, where it is mounted already or for ourselves, writable."""
    if found.place.esp is not None:
        yield Path(found.place.esp.point)
        return
    with temporary.mounted(found.esp, places / "esp", "vfat", "fmask=0177,dmask=0077") as directory:
        yield directory


def _device(mount: Mount) -> Path:
    """The block device that MOUNT is of; its source may be /dev/root, which is no file."""
    by_number = Path("/dev/block", mount.device)
    return by_number.resolve() if not Path(mount.source).exists() and by_number.exists() else Path(mount.source)


def _esp_beside(device: Node, point: str) -> str:
    """The ESP on a disk that DEVICE stands on. Raises Failure where there is not exactly one."""
    disks = {node.path for node in device.walk() if node.type in ("disk", "loop")}
    parts = [part for path in sorted(disks) for part in probe.lsblk(Path(path)).walk()]
    esps = sorted({part.path for part in parts if part.partition_type.lower() == str(ESP_TYPE)})
    if len(esps) != 1:
        raise Failure(
            f"cannot install to {point}",
            why="no ESP is mounted below it, and its disk has " + ("several" if esps else "none"),
            fix=f"Mount the EFI system partition (FAT, at least 512 MiB): mount DEVICE {point.rstrip('/')}/boot/efi",
        )
    return esps[0]


def _refuse_featureless(there: Place, *, allowed: bool) -> bool:
    """True where going without fs-verity is ALLOWED. Raises NoVerity."""
    if not allowed:
        raise NoVerity(
            "cannot install a verified root",
            why=f"the {there.root.kind} on {there.root.source} was made without the feature",
            fix=f"Give it that (kernels before 5.4 will not write it any more): tune2fs -O verity {there.root.source}",
        )
    return True


def _refuse_small_esp(directory: Path, seen: Look, path: str) -> None:
    """Raise OutOfSpace where kernel, initramfs and loader, which is there twice, do not fit."""
    needed, free = seen.needs.esp + seen.system.loader.size, esp.free(directory)
    if needed > free:
        raise OutOfSpace(
            f"cannot install {seen.system.image} there",
            why=f"the ESP on {path} has {free >> 20} MiB left, and kernel and loader take {-(-needed >> 20)}",
            fix="Free some space there, or make a larger ESP: 512 MiB have room for updates.",
        )


def _may_take(fallback: Path) -> bool:
    """Whether the place where firmware looks by itself is free, or has a loader of our kind."""
    return not fallback.exists() or _OURS in fallback.read_bytes()


def _refuse_candidate(candidate: Candidate, sysroot: Sysroot, needed: Stack) -> None:
    """Raise OutOfSpace where /var, a directory there, has no room for the image's files; and CannotFinish."""
    space.require_var(sysroot.state / "var", candidate.tree, candidate.system.image)
    if not needed.needs:
        return
    chunks = candidate.repository.objects.chunks(candidate.system.initramfs.object)
    try:
        programs = initramfs.programs(chunks)
    except Refused as error:
        raise CannotFinish(
            f"cannot install {candidate.system.image} there",
            why=f"its initramfs cannot be read: {error}",
            fix="Build the image again with `keelboot build`.",
        ) from error
    if programs is not None:
        stack.refuse_initramfs(candidate.system.image, needed, programs)


def _empty(root: Path) -> None:
    """Remove everything in ROOT but what other filesystems are mounted at or below."""
    top = root.stat().st_dev
    for entry in sorted(root.iterdir()):
        if entry.name != "lost+found":
            remove(entry, top)


def remove(path: Path, device: int | None = None) -> bool:
    """Remove PATH with all that is in it, as far as it is on DEVICE, by default its parent's; false if anything stays.

    Where another filesystem is mounted below it, that and the way to it stay.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return True
    return _empty_directory(path, path.parent.stat().st_dev if device is None else device)


def _empty_directory(directory: Path, device: int) -> bool:
    """Remove DIRECTORY on DEVICE; false where a mount below it keeps it."""
    if directory.stat().st_dev != device or directory.is_mount():
        return False
    gone = True
    for entry in sorted(directory.iterdir()):
        gone &= remove(entry, device)
    if gone:
        directory.rmdir()
    return gone


def _remove_entries(directory: Path, gone: Collection[ObjectId], record: Record) -> None:
    """Remove the entries of deployments that are GONE; the ESP may have entries of other machines as well."""
    for listed in esp.entries(directory):
        if listed.digest in gone and listed.digest != record.digest:
            esp.remove_entry(directory, listed.file_name)
