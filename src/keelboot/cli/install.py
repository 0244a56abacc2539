"""keelboot install: a machine comes to be on a disk, in a filesystem made by hand, or beside the system that runs."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keelboot.cli import install_wishes, trusting
from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.assembly.record import Record
    from keelboot.host.install.todisk import Found, Prepared
    from keelboot.host.install.tofilesystem import Found as Place
    from keelboot.host.install.tofilesystem import Prepared as PreparedPlace
    from keelboot.progress import Progress

SUMMARY = "make a machine: on a disk, in a filesystem, beside a system"
EXAMPLES = """\
  keelboot install to-disk --image docker://registry.example.org/web:1 /dev/vda
  keelboot install to-disk --image oci-archive:/mnt/web.tar --target-imgref registry.example.org/web:1 --wipe /dev/sda
  keelboot install to-disk --image docker://registry.example.org/web:1 --dry-run /dev/nvme0n1
  keelboot install to-filesystem --image docker://registry.example.org/web:1 /mnt
  keelboot install to-existing-root --image docker://registry.example.org/web:1
  keelboot install to-disk --image docker://registry.example.org/web:1 --key cosign.pub /dev/vda
"""
_IMAGE = "docker://NAME, oci:DIR, oci-archive:FILE, docker-archive:FILE, containers-storage:NAME"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the ways to install, and the options of each."""
    ways = parser.add_subparsers(metavar="WAY", dest="way", required=True)

    def plain(name: str, summary: str) -> argparse.ArgumentParser:
        own = ways.add_parser(name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}.")
        # Not given here, what stands before WAY holds.
        own.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
        own.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="print only the result")
        return own

    def way(name: str, summary: str) -> argparse.ArgumentParser:
        own = plain(name, summary)
        _common(own)
        return own

    disk = way("to-disk", "take a whole disk: partitions, filesystems, image, boot loader")
    disk.add_argument("device", metavar="DEVICE", type=Path, help="the disk, like /dev/vda")
    disk.add_argument("--wipe", action="store_true", help="what is on the disk may go")
    disk.add_argument(
        "--filesystem", choices=("ext4", "btrfs", "xfs"), help="default: what the image asks for, or ext4"
    )
    disk.add_argument(
        "--root-size", metavar="SIZE", help="of the partition with the images, like 20G (M is the default)"
    )
    disk.add_argument("--block-setup", choices=("direct", "tpm2-luks"), help="default: direct")
    disk.add_argument("--via-loopback", action="store_true", help="not needed: `keelboot disk` writes disks into files")

    filesystem = way("to-filesystem", "use a filesystem made by hand and mounted, with an ESP below it")
    filesystem.add_argument("root", metavar="ROOT", type=Path, help="where it is mounted")
    _places(filesystem, replace=None)
    filesystem.add_argument("--skip-finalize", action="store_true", help="do not trim the filesystem at the end")

    beside = way("to-existing-root", "make the system that runs a keelboot machine, beside its old root")
    beside.add_argument("root", metavar="ROOT", type=Path, nargs="?", default=Path("/"), help="default: /")
    _places(beside, replace="alongside")
    beside.add_argument("--cleanup", action="store_true", help="have the new system remove the old one")

    trim = plain("finalize", "trim and sync a filesystem that was installed to with --skip-finalize")
    trim.add_argument("root", metavar="ROOT", type=Path, help="where it is mounted")
    trim.add_argument("--dry-run", action="store_true", help="only tell whether it could be done")
    told = plain("print-configuration", "print what the image that runs asks of an installation, as JSON")
    told.add_argument("--all", action="store_true", help=argparse.SUPPRESS)  # bootc's: everything is printed anyway
    rest = plain("remove-old-root", "remove the system that was there before to-existing-root")
    rest.add_argument("--acknowledge-destructive", action="store_true", help="that is meant")
    rest.add_argument("--dry-run", action="store_true", help="only tell what would be removed")


def _places(parser: argparse.ArgumentParser, *, replace: str | None) -> None:
    choices = ("wipe", "alongside") if replace is None else ("alongside",)
    parser.add_argument("--replace", choices=choices, default=replace, help="what becomes of the files that are there")
    parser.add_argument("--acknowledge-destructive", action="store_true", help="files that are there may go")
    parser.add_argument("--root-mount-spec", metavar="SPEC", help="root=SPEC finds the root (default: by its UUID)")
    parser.add_argument("--boot-mount-spec", metavar="SPEC", help="mount this at /boot")


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", "--source-imgref", metavar="IMAGE", required=True, help=_IMAGE)
    parser.add_argument("--target-imgref", metavar="IMAGE", help="what upgrades follow (default: the image installed)")
    parser.add_argument(
        "--target-transport", choices=("registry", "oci", "oci-archive", "containers-storage"), help=argparse.SUPPRESS
    )
    parser.add_argument("--karg", metavar="K", action="append", default=[], help="one more kernel argument; repeatable")
    parser.add_argument(
        "--karg-delete", metavar="K", action="append", default=[], help="do without this one of the image; repeatable"
    )
    parser.add_argument("--root-ssh-authorized-keys", metavar="FILE", type=Path, help="public keys that log in as root")
    parser.add_argument(
        "--allow-missing-verity", action="store_true", help="go without verification where it cannot be"
    )
    parser.add_argument("--generic-image", action="store_true", help="leave the firmware's settings alone")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    parser.add_argument("--progress-fd", metavar="FD", type=int, help="write progress there, as JSON lines")
    trusting.add_policy(parser)
    trusting.add_unsigned(parser)
    parser.add_argument(
        "--enforce-container-sigpolicy", action="store_true", help="want a policy, now and at every upgrade"
    )
    # bootc's, which mean nothing here: no SELinux policy, OSTree, bootupd or bound images; the image is always read.
    for ignored in (
        *("--disable-selinux", "--skip-fetch-check", "--run-fetch-check", "--composefs-backend"),
        "--bootupd-skip-boot-uuid",
    ):
        parser.add_argument(ignored, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--stateroot", help=argparse.SUPPRESS)
    parser.add_argument("--bound-images", choices=("stored", "skip", "pull"), help=argparse.SUPPRESS)
    parser.add_argument("--bootloader", choices=("grub", "grub-cc", "systemd", "none"), help=argparse.SUPPRESS)


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Install."""
    _refuse_unavailable(arguments)
    code: int = {
        "to-disk": _to_disk,
        "to-filesystem": _to_filesystem,
        "to-existing-root": _to_filesystem,
        "finalize": _finalize,
        "print-configuration": _print_configuration,
        "remove-old-root": _remove_old_root,
    }[arguments.way](arguments, terminal)
    return code


def _refuse_unavailable(arguments: argparse.Namespace) -> None:
    """Raise Failure for what bootc could do in an installation, and this version cannot."""
    from keelboot.cli.values import BadValue

    if getattr(arguments, "bootloader", None) not in (None, "systemd"):
        raise BadValue(
            f"cannot install the boot loader {arguments.bootloader}",
            why="this version installs systemd-boot only",
            fix="Leave --bootloader out.",
        )


def _to_disk(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from keelboot.cli.values import size_in_bytes
    from keelboot.failure import Failure
    from keelboot.host import admission
    from keelboot.host.install import todisk
    from keelboot.image.transports import open_image

    if arguments.via_loopback:
        raise Failure(
            "cannot install through a loop device",
            why="no loop device is needed to write a disk into a file",
            fix=f"keelboot disk {arguments.image} -o {arguments.device} --size SIZE --force",
        )
    size, given = arguments.root_size, trusting.given(arguments, install_wishes.followed(arguments))
    wishes = todisk.DiskWishes(
        disk=arguments.device,
        wipe=arguments.wipe,
        filesystem=arguments.filesystem or "",
        # bootc counts it in MiB where no unit is given.
        root_size=size_in_bytes(f"{size}M" if size.isdigit() else size) if size else None,
        block_setup=arguments.block_setup,
        **install_wishes.common(arguments, given),
    )
    terms = trusting.terms(arguments, terminal, strict=wishes.strict, given=given, called=wishes.target)
    progress = _progress(arguments, terminal)
    started = time.monotonic()
    found = todisk.find(wishes)
    admission.foresee(wishes.image, terms)
    with open_image(wishes.image) as image:
        prepared = todisk.prepare(wishes, found, image, admission.admit(image, terms), progress=progress)
        for remark in prepared.remarks:
            terminal.note(remark)
        if arguments.dry_run:
            _tell_plan(found, prepared, terminal)
            return 0
        record = todisk.install(prepared, wishes, image, progress)
    if terminal.json_wanted:
        terminal.json(_disk(found, prepared) | _result(record, started) | {"verified": prepared.verified})
        return 0
    terminal.out(f"{prepared.disk.path} boots {record.title}, Linux {record.kernel}")
    terminal.out(f"composefs {record.digest.hex}")
    terminal.note(f"It took {time.monotonic() - started:.0f} s. Boot the machine from {prepared.disk.path}.")
    return 0


def _to_filesystem(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from functools import partial

    from keelboot.host import admission
    from keelboot.host.install import existing, tofilesystem
    from keelboot.image.transports import open_image

    beside, given = arguments.way == "to-existing-root", trusting.given(arguments, install_wishes.followed(arguments))
    wishes = tofilesystem.FilesystemWishes(
        root=arguments.root,
        replace=arguments.replace,
        acknowledged=arguments.acknowledge_destructive,
        finalize=not (beside or arguments.skip_finalize),
        generic=arguments.generic_image,
        root_mount_spec=arguments.root_mount_spec,
        boot_mount_spec=arguments.boot_mount_spec,
        **install_wishes.common(arguments, given),
    )
    terms = trusting.terms(arguments, terminal, strict=wishes.strict, given=given, called=wishes.target)
    install = partial(existing.install, cleanup=arguments.cleanup) if beside else tofilesystem.install
    progress = _progress(arguments, terminal)
    started = time.monotonic()
    found = existing.find(wishes) if beside else tofilesystem.find(wishes)
    admission.foresee(wishes.image, terms)
    with open_image(wishes.image) as image:
        prepared = tofilesystem.prepare(wishes, found, image, admission.admit(image, terms), progress=progress)
        for remark in prepared.remarks:
            terminal.note(remark)
        told = _filesystem(found, prepared)
        if arguments.dry_run:
            _tell_filesystem(told | {"dryRun": True, "composefs": prepared.look.digest.hex}, terminal)
            return 0
        record = install(prepared, found, wishes, image, progress)
    if terminal.json_wanted:
        terminal.json(told | _result(record, started))
        return 0
    terminal.out(f"{found.place.point} boots {record.title}, Linux {record.kernel}")
    terminal.out(f"composefs {record.digest.hex}")
    if beside:
        terminal.note("Restart the machine; the system that was here is the other choice in the boot menu.")
    return 0


def _filesystem(found: "Place", prepared: "PreparedPlace") -> dict[str, object]:
    return {
        "root": found.place.point,
        "device": found.device.path,
        "filesystem": found.place.root.kind,
        "esp": found.esp,
        "others": list(found.others),
        "enablesVerity": found.enable_verity,
        "takesFallback": prepared.fallback,
        "kargs": list(prepared.settings.kargs),
        "verified": found.verified,
    }


def _tell_filesystem(told: dict[str, Any], terminal: Terminal) -> None:
    if terminal.json_wanted:
        terminal.json(told)
        return
    terminal.out(f"{told['root']}: {told['filesystem']} on {told['device']}, ESP {told['esp']}")
    if told["enablesVerity"]:
        terminal.out("  the filesystem gets the feature verity")
    if not told["takesFallback"]:
        terminal.out("  the firmware is told to start the new loader; the one that is there stays")
    terminal.out(f"  kernel arguments of the machine: {' '.join(told['kargs'])}")
    terminal.out(f"composefs {told['composefs']}" + ("" if told["verified"] else ", NOT verified on each read"))
    terminal.note("Nothing was changed.")


def _finalize(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from keelboot.failure import Failure
    from keelboot.host.install import tofilesystem

    try:
        if arguments.dry_run:
            tofilesystem.finalize(arguments.root, rehearse=True)
            terminal.out(f"would trim and sync the filesystem at {arguments.root}")
        else:
            with terminal.progress.step("Trimming and syncing"):
                tofilesystem.finalize(arguments.root)
    except OSError as error:
        raise Failure(
            f"cannot finish the filesystem at {arguments.root}",
            why=error.strerror or str(error),
            fix="Name the directory where it is mounted, the one that to-filesystem was given.",
        ) from error
    return 0


def _print_configuration(arguments: argparse.Namespace, terminal: Terminal) -> int:  # noqa: ARG001 - it takes none
    import os

    from keelboot.host.install import configuration
    from keelboot.image.documents import normal_architecture

    files = {
        path.name: path.read_bytes()
        for directory in configuration.DIRECTORIES
        for path in sorted(Path("/", directory).glob("*.toml"))
    }
    found = configuration.read(files, normal_architecture(os.uname().machine))
    terminal.json(configuration.as_json(found))
    return 0


def _remove_old_root(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from keelboot.failure import Failure
    from keelboot.host import namespace
    from keelboot.host.install import existing

    if not (arguments.acknowledge_destructive or arguments.dry_run):
        raise Failure(
            "cannot remove the old system",
            why="all its files would be gone for good",
            fix="Add --acknowledge-destructive if that is meant.",
        )
    with namespace.changing(terminal.progress) as sysroot:
        gone = existing.remove_old_root(sysroot, dry_run=arguments.dry_run)
    if terminal.json_wanted:
        terminal.json({"removed": gone, "dryRun": arguments.dry_run})
    else:
        terminal.out(f"{'would remove' if arguments.dry_run else 'removed'} {', '.join(gone) or 'nothing'}")
    return 0


def _progress(arguments: argparse.Namespace, terminal: Terminal) -> "Progress":
    """Where progress goes: to the terminal, or as JSON lines to who asked for them."""
    from keelboot.cli.progress_lines import to_descriptor

    number = arguments.progress_fd
    return terminal.progress if number is None else to_descriptor(number, arguments.image)


def _tell_plan(found: "Found", prepared: "Prepared", terminal: Terminal) -> None:
    from keelboot.host.install.device import partition_path, shown

    if terminal.json_wanted:
        terminal.json(_disk(found, prepared) | {"dryRun": True, "composefs": prepared.look.digest.hex})
        return
    disk = prepared.disk
    terminal.out(f"{disk.path}: {shown(disk.size)}{f', {disk.model}' if disk.model else ''}")
    for line in found.lost:
        terminal.out(f"  lost: {line}")
    for number, volume in enumerate(prepared.plan.volumes, 1):
        part = volume.partition
        terminal.out(
            f"  {partition_path(disk.path, number)}  {part.name:14}  {volume.filesystem:5}  {shown(part.size):>10}"
        )
    terminal.out(f"boots {prepared.look.system.title}, Linux {prepared.look.system.kernel_version}")
    terminal.out(f"composefs {prepared.look.digest.hex}" + ("" if prepared.verified else ", NOT verified on each read"))
    if prepared.settings.kargs:
        terminal.out(f"kernel arguments of the machine: {' '.join(prepared.settings.kargs)}")
    terminal.note("Nothing was changed.")


def _disk(found: "Found", prepared: "Prepared") -> dict[str, object]:
    from keelboot.host.install.device import partition_path

    return {
        "device": prepared.disk.path,
        "size": prepared.disk.size,
        "lost": list(found.lost),
        "filesystem": prepared.plan.filesystem,
        "partitions": [
            {
                "path": partition_path(prepared.disk.path, number),
                "name": volume.partition.name,
                "filesystem": volume.filesystem,
                "start": volume.partition.start,
                "size": volume.partition.size,
                "type": str(volume.partition.type),
            }
            for number, volume in enumerate(prepared.plan.volumes, 1)
        ],
        "kargs": list(prepared.settings.kargs),
        "verified": prepared.verified,
    }


def _result(record: "Record", started: float) -> dict[str, object]:
    return {
        "dryRun": False,
        "composefs": record.digest.hex,
        "image": record.image,
        "manifestDigest": record.manifest_digest,
        "kernel": record.kernel,
        "architecture": record.architecture,
        "seconds": round(time.monotonic() - started, 1),
    }
