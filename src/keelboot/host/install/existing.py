"""A running Debian machine becomes a keelboot machine beside its old root: `install to-existing-root`.

The store and the state are two new directories of the root's filesystem, /composefs and /state. Everything else stays
where it is, the old system's boot loader too: it becomes a choice in the new loader's menu, below the new system.

    a cut after   leaves
    looked        everything as it was
    verity        a filesystem that older kernels than 5.4 cannot write any more
    image         contents that the old system does not look at, and a boot entry that no loader reads
    loader        the old system starting, or the new one: whichever the firmware was told last
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from keelboot import command, durable
from keelboot.assembly.record import Record
from keelboot.assembly.system import one_line
from keelboot.boot import esp
from keelboot.failure import CannotFinish, Failure, NoVerity
from keelboot.host import published, space
from keelboot.host.install import tofilesystem, where
from keelboot.host.install.tofilesystem import FilesystemWishes, Found, Prepared
from keelboot.host.sysroot import Sysroot
from keelboot.image.release import Release
from keelboot.image.transports import Image
from keelboot.progress import SILENT, Progress

STEPS: Final = ("looked", "verity", "image", "loader")
# The menu is shown for a moment: whoever misses the old system must find it. `default` passes over its own entries, if
# it has any: the loader would sort "debian" before "keelboot".
LOADER_CONF: Final = b"timeout 5\nconsole-mode keep\neditor no\ndefault keelboot-*\n"
_OTHERS = ("boot", "keelboot", "systemd", "microsoft", "linux")  # below EFI: what is no installed system of its own
_LOADERS = ("shimx64.efi", "shimaa64.efi", "grubx64.efi", "grubaa64.efi")  # in the order in which they are started
_UNIT = "keelboot-remove-old-root.service"
_UNIT_TEXT = """\
[Unit]
Description=Remove the system that was here before
ConditionPathExists=/sysroot/state/old-root

# Not a oneshot: the boot is over when no job is left, and that is what it waits for.
[Service]
Type=exec
ExecStart=/bin/sh -c 'systemctl is-system-running --wait; \\
exec keelboot install remove-old-root --acknowledge-destructive'
"""


def find(wishes: FilesystemWishes) -> Found:
    """Look at the root; nothing is changed. Raises as `tofilesystem.find` does."""
    return tofilesystem.find(wishes, may_enable_verity=True)


def install(
    prepared: Prepared,
    found: Found,
    wishes: FilesystemWishes,
    image: Image,
    progress: Progress = SILENT,
    *,
    cleanup: bool = False,
    reached: Callable[[str], None] = lambda _: None,
) -> Record:
    """Do what was PREPARED; CLEANUP has the new system remove the old one once it has proved itself. Raises Failure."""
    reached("looked")
    if cleanup and not prepared.look.agent:
        raise CannotFinish(
            "cannot have the old system removed later",
            why=f"{prepared.look.system.image} has no keelboot in it",
            fix="Leave --cleanup out, or build the image with `keelboot build`.",
        )
    if found.enable_verity:
        sysroot = Sysroot(Path(found.place.point), Path(found.place.point))
        if not sysroot.store.exists():  # otherwise a part of it may be there; it is counted before anything is added
            space.require_store(sysroot, image.reference, space.missing(image.layers, lambda _: False))
        with progress.step("Giving the filesystem its verity feature"):
            enable_verity(found)
        reached("verity")
    return tofilesystem.install(
        prepared,
        found,
        replace(wishes, finalize=False),
        image,
        progress,
        loader_configuration=LOADER_CONF,
        beside=lambda sysroot, record: leave_choices(sysroot, record, Path(found.place.point), cleanup=cleanup),
        reached=lambda step: None if step == "looked" else reached(step),
    )


def enable_verity(found: Found) -> None:
    """Give the ext4 that FOUND is, mounted as it is, the feature. Raises NoVerity, MissingTool, CommandFailed."""
    device = found.device.path
    # The flag is in the superblock, which the kernel and tune2fs see through the same buffer: it counts at once.
    command.run(["tune2fs", "-O", "verity", device], purpose="give the filesystem its verity feature")
    if not tofilesystem.can_seal(Path(found.place.point)):
        raise NoVerity(
            "cannot install a verified root",
            why=f"the filesystem on {device} has the feature now and seals nothing all the same",
            fix="Its blocks may be smaller than 4096 bytes. Add --allow-missing-verity to go without verification.",
        )


def old_loaders(directories: Mapping[str, Sequence[str]]) -> list[str]:
    """The loaders of installed systems, as paths on the ESP, from the files of each directory below EFI."""
    found = []
    for directory in sorted(directories):
        files = {name.lower(): name for name in directories[directory]}
        loader = next((files[name] for name in _LOADERS if name in files), None)
        if loader and directory.lower() not in _OTHERS:
            found.append(f"/EFI/{directory}/{loader}")
    return found


def old_entry(title: str, loader: str) -> str:
    """A boot entry for the system that was there: its own loader is started, and knows the rest. It sorts last."""
    return f"title {title} (before keelboot)\nsort-key zz-before-keelboot\nefi {loader}\n"


def remove_old_root(sysroot: Sysroot, *, dry_run: bool = False) -> list[str]:
    """Remove all that is not keelboot's from the filesystem that the machine runs from, and tell its names."""
    if not sysroot.store.is_dir() or not sysroot.deployments.is_dir():
        raise Failure("cannot remove the old system", why="there is no store", fix="`keelboot status` tells more.")
    gone = where.leftovers([path.name for path in sysroot.root.iterdir() if not published.is_watched(path)])
    gone += [name for name in ("boot", "efi") if (sysroot.root / name).exists()]
    if dry_run:
        return gone
    for name in gone:
        tofilesystem.remove(sysroot.root / name)
    old_root_marker(sysroot).unlink(missing_ok=True)
    return gone


def old_root_marker(sysroot: Sysroot) -> Path:
    """The file that says that an old system is to be removed."""
    return sysroot.state / "old-root"


def leave_choices(sysroot: Sysroot, record: Record, root: Path, *, cleanup: bool) -> None:
    """Make the system in ROOT a choice of the menu; CLEANUP has the new one remove it. Raises OutOfSpace, Failure."""
    directories = {
        folder.name: [file.name for file in folder.iterdir()]
        for folder in sorted((sysroot.esp / "EFI").iterdir())
        if folder.is_dir()
    }
    for loader in old_loaders(directories):
        name = f"before-keelboot-{loader.split('/')[2].lower()}.conf"
        target = sysroot.entries / name
        if not target.exists():
            with esp.explained(sysroot.esp), durable.replacing(target) as file:
                file.write(old_entry(_title(root), loader).encode())
    if cleanup:
        units = sysroot.deployment(record.digest) / "etc/upper/systemd/system"
        (units / "multi-user.target.wants").mkdir(parents=True, exist_ok=True)
        with durable.replacing(units / _UNIT) as file:
            file.write(_UNIT_TEXT.encode())
        link = units / "multi-user.target.wants" / _UNIT
        if not link.is_symlink():
            link.symlink_to(f"../{_UNIT}")
        with durable.replacing(old_root_marker(sysroot)) as file:
            file.write(b"")


def _title(root: Path) -> str:
    try:
        return one_line(Release.parse((root / "etc/os-release").read_text()).pretty_name)
    except (OSError, UnicodeDecodeError):
        return "Linux"
