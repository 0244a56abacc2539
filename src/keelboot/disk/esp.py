"""The boot partition: FAT32 written into the disk's file, at its offset, by mkfs.fat and mtools; never mounted."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from keelboot.disk import drafts
from keelboot.disk.layout import FatPartition

SECTOR = 512
_CLUSTER = 8  # sectors
_FIRST_TIME = 315532800  # 1980-01-01, where FAT's calendar begins
_UNFIT = frozenset('"*:<>?\\|')  # not allowed in a long name, section 7 of Microsoft's FAT specification


def write(draft: Path, image: str, partition: FatPartition, files: Mapping[str, bytes | Path], *, epoch: int) -> None:
    """Put FAT32 with FILES at PARTITION of the file IMAGE in the directory DRAFT.

    A name is a relative path; FILES says what it holds, bytes or a file of the host. All times become EPOCH, seconds.
    Raises OutOfSpace where the host's filesystem is full, MissingTool, CommandFailed; ValueError for names that FAT
    cannot tell apart or keep.
    """
    _check(files)
    _make(draft, image, partition)
    drive = f"{image}@@{partition.start}"
    environment = _environment(epoch)
    folders = parents(files)
    if folders:
        drafts.run_in(
            draft,
            ["mmd", "-D", "s", "-i", drive, *(f"::/{folder}" for folder in folders)],
            purpose="make directories on the boot partition",
            environment=environment,
        )
    for name in sorted(files):
        content = files[name]
        drafts.run_in(
            draft,
            [
                "mcopy",
                "-D",
                "s",
                "-i",
                drive,
                "-" if isinstance(content, bytes) else str(content.absolute()),
                f"::/{name}",
            ],
            purpose=f"copy {name} to the boot partition",
            stdin=content if isinstance(content, bytes) else None,
            environment=environment,
        )


def parents(names: Iterable[str]) -> list[str]:
    """The directories that NAMES lie in, each after its own parent."""
    return sorted({str(folder) for name in names for folder in PurePosixPath(name).parents if str(folder) != "."})


def _make(draft: Path, image: str, partition: FatPartition) -> None:
    start = str(partition.start // SECTOR)
    options = {
        "-F": "32",
        "-S": str(SECTOR),
        "-s": str(_CLUSTER),
        "-n": partition.label,
        "--offset": start,
        "-h": start,  # BIOS boot code and some firmware read where the partition begins from the filesystem itself
    }
    words = [word for option in options.items() for word in option]
    # --invariant fixes the label's time, and the volume id too, so that -i has to come after it.
    drafts.run_in(
        draft,
        ["mkfs.fat", "--invariant", "-i", f"{partition.volume_id:08x}", *words, image, str(partition.size // 1024)],
        purpose="make the filesystem of the boot partition",
        environment={"TZ": "UTC"},
    )


def _environment(epoch: int) -> dict[str, str]:
    # A user's ~/.mtoolsrc may change names and drives; FAT keeps local time, hence the zone.
    return {
        "SOURCE_DATE_EPOCH": str(max(epoch, _FIRST_TIME)),
        "TZ": "UTC",
        "HOME": "/nonexistent",
        "MTOOLSRC": "/dev/null",
    }


def _check(files: Mapping[str, bytes | Path]) -> None:
    seen: dict[str, str] = {}
    for name in [*files, *parents(files)]:
        path = PurePosixPath(name)
        if path.is_absolute() or str(path) != name or ".." in path.parts or not name.isascii():
            raise ValueError(f"not a relative path for FAT: {name!r}")
        if _UNFIT.intersection(name) or not name.isprintable() or any(part[-1] in ". " for part in path.parts):
            raise ValueError(f"FAT cannot keep the name {name!r}")
        other = seen.setdefault(name.lower(), name)
        if other != name or (name in files and any(str(folder) in files for folder in path.parents)):
            raise ValueError(f"FAT cannot tell {name!r} from {other!r}")
