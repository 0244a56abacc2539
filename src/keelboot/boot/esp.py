"""The ESP of a machine, mounted somewhere: entries and kernels come and go there, whatever moment the power fails.

FAT has no journal and cannot replace a file safely. So what is there is never written again: everything is written
under a name that nobody looks for, synced, read back and compared, and then gets a name that was not there before.
Before anything is removed, everything is synced. The layout is that of docs/formats/boot-entry.md.

A long name takes several slots of a directory, often in two sectors. fsync(2) of a new file writes the last of them
alone, and Linux (fs/fat/dir.c) adds no more names to a directory that has used slots behind one that never was. So a
directory is synced as soon as a name in it is new, which writes all its sectors together.

What a cut leaves does no harm where it is, but what is written next to it could: so a FAT that was not unmounted is
mended before it is mounted to be written to.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from keelboot import command
from keelboot.boot.entries import Entry, Generation
from keelboot.boot.systemd_boot import KERNELS, boot_digest
from keelboot.durable import sync_directory, sync_filesystem
from keelboot.failure import Failure, NotWritable, OutOfSpace
from keelboot.image.tree import ObjectId

FILES: Final = ("vmlinuz", "initrd")
ENTRIES: Final = "loader/entries"
_DRAFT = ".draft-"
_NUMBER = re.compile(r"keelboot-([0-9]{6,18})-")
_BLOCK = 1 << 20
_MENDER = "fsck.fat"
_PASSES = 3  # of it: a name that shares clusters is emptied, then removed as it leads nowhere, then its long name is
_SECTOR = 512
_OVERHEAD = 3  # clusters: the kernel's directory, the entry, and a longer directory of entries


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of keelboot, as it lies on the ESP."""

    file_name: str
    entry: Entry
    generation: int
    digest: ObjectId

    @property
    def usable(self) -> bool:
        """Whether the loader would still try it."""
        return self.entry.tries is None or self.entry.tries.left > 0

    @property
    def on_trial(self) -> bool:
        """Whether it has a counter: it was not blessed yet."""
        return self.entry.tries is not None

    @property
    def boot_digest(self) -> str:
        """The directory of its kernel, or what stands in its place."""
        return self.entry.linux.rpartition("/")[0].rpartition("/")[2]

    @property
    def verified(self) -> bool:
        """Whether it lets only a root boot that verifies."""
        return not self.entry.options.startswith("composefs=?")


def mend(device: Path) -> bool:
    """Put the FAT on DEVICE in order if it was not unmounted, and whether that was done. It must not be mounted here.

    A draft may name clusters that count as free: whatever is written next gets them too, and loses them when the draft
    is removed. Linux only warns of such a FAT when it mounts it, and makes it read-only once it meets that. Nothing is
    done without fsck.fat, or while somebody has it mounted. Raises OSError where DEVICE cannot be read.
    """
    if not command.find(_MENDER) or not _left_mounted(device):
        return False
    for _ in range(_PASSES):
        done = command.run([_MENDER, "-a", device], purpose="mend the ESP", accept=range(256))
        if done.returncode == 0:
            break
    return True


def remove_salvaged(esp: Path) -> None:
    """Remove the files that `mend` makes of clusters without a name: what a cut left of a kernel. Raises OSError."""
    for path in esp.glob("FSCK[0-9][0-9][0-9][0-9].REC"):
        path.unlink()


def entries(esp: Path) -> list[Listed]:
    """The entries of keelboot as the loader sorts them: the first that is usable boots. Raises OSError."""
    found = [listed for name in _names(esp / ENTRIES) if (listed := _listed(esp, name))]
    return sorted(found, key=lambda one: (one.usable, one.generation, one.entry.id), reverse=True)


def foreign(esp: Path) -> list[str]:
    """Names of entries that are not keelboot's, or cannot be read as such. Raises OSError."""
    return [name for name in _names(esp / ENTRIES) if name.endswith(".conf") and not _listed(esp, name)]


def next_generation(esp: Path) -> int:
    """A generation above all that is there, unreadable entries included. Raises OSError."""
    numbers = [int(found[1]) for name in _names(esp / ENTRIES) if (found := _NUMBER.match(name))]
    return max(numbers, default=0) + 1


def free(esp: Path) -> int:
    """Bytes that can still be written. Raises OSError."""
    state = os.statvfs(esp)
    return state.f_bavail * state.f_frsize


def needed(esp: Path, kernel: str, sizes: Sequence[int], *, without: Collection[str] = ()) -> int:
    """Bytes that an entry with the kernel KERNEL takes; its files have SIZES and count if they are not there.

    Kernels WITHOUT do not count as there. Raises OSError.
    """
    cluster = os.statvfs(esp).f_frsize or 1
    files = () if kernel not in without and _complete(esp, kernel, sizes) else sizes
    return sum(-(-size // cluster) * cluster for size in files) + _OVERHEAD * cluster


def add_kernel(esp: Path, digest: str, kernel: Iterable[bytes], initramfs: Iterable[bytes]) -> bool:
    """Have the kernel DIGEST on the ESP, durable and read back; false if it was there and sound.

    A cut leaves a directory that nobody looks for, or the kernel complete. Raises OutOfSpace, NotWritable, Failure.
    """
    with explained(esp):
        if sound(esp, digest):
            return False
        kernels = esp / KERNELS
        kernels.mkdir(parents=True, exist_ok=True)
        draft = kernels / f"{_DRAFT}{os.urandom(8).hex()}"
        draft.mkdir()
        try:
            sync_directory(kernels)
            for name, chunks in zip(FILES, (kernel, initramfs), strict=True):
                _write(draft / name, chunks)
            _sync(esp)
            if _measured(draft) != digest:
                raise _unreliable("put the kernel onto the ESP")  # noqa: TRY301 - the draft has to go
            with suppress(FileNotFoundError):  # damaged, as it is not sound: whatever named it does not boot either
                (kernels / digest).rename(kernels / f"{_DRAFT}{os.urandom(8).hex()}")
            draft.rename(kernels / digest)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        sync_directory(kernels)
        _sync(esp)
    return True


def sound(esp: Path, digest: str) -> bool:
    """Whether the kernel DIGEST is there, and is what its name says. Raises OSError."""
    try:
        return _measured(esp / KERNELS / digest) == digest
    except (FileNotFoundError, NotADirectoryError):
        return False


def add_entry(esp: Path, entry: Entry) -> None:
    """Add ENTRY, under a name that was not there: what boots next changes when this returns, and not before.

    Raises OutOfSpace, NotWritable, Failure.
    """
    with explained(esp):
        directory = esp / ENTRIES
        directory.mkdir(parents=True, exist_ok=True)
        target, content = directory / entry.file_name, entry.text().encode()
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        draft = directory / f"{entry.id}.{os.urandom(4).hex()}.draft"
        try:
            _write(draft, [content])
            _sync(esp)
            if _read_back(draft) != content:
                raise _unreliable("add the boot entry")  # noqa: TRY301 - the draft has to go
            draft.rename(target)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        sync_directory(directory)
        _sync(esp)


def drop_counter(esp: Path, listed: Listed) -> Listed:
    """Bless the entry: it loses its counter. Only while another bootable one is there: FAT may lose it in a cut.

    Raises OutOfSpace, NotWritable, Failure.
    """
    if not listed.on_trial:
        return listed
    blessed = replace(listed.entry, tries=None)
    with explained(esp):
        _sync(esp)
        (esp / ENTRIES / listed.file_name).rename(esp / ENTRIES / blessed.file_name)
        sync_directory(esp / ENTRIES)
        _sync(esp)
    return replace(listed, file_name=blessed.file_name, entry=blessed)


def remove_entry(esp: Path, file_name: str) -> None:
    """Remove an entry, after everything else is durable; gone for good when this returns. It may be gone already.

    Raises NotWritable, Failure.
    """
    with explained(esp):
        _sync(esp)
        with suppress(FileNotFoundError):
            (esp / ENTRIES / file_name).unlink()
        _sync(esp)


def unused_kernels(esp: Path, *, without: Collection[str] = ()) -> list[str]:
    """Directories of kernels that no entry names, whosever it is, and drafts; entries WITHOUT do not count.

    Raises OSError.
    """
    # FAT does not tell capitals from small letters, and neither does who wrote an entry by hand.
    texts = [
        _read(esp / ENTRIES / name).decode(errors="replace").lower().replace("\\", "/")
        for name in _names(esp / ENTRIES)
        if name.endswith(".conf") and name not in without
    ]
    return [
        name
        for name in _names(esp / KERNELS)
        if name.startswith(_DRAFT) or not any(f"/{KERNELS}/{name}/".lower() in text for text in texts)
    ]


def drafts(esp: Path) -> list[str]:
    """Entries that were being written when the power failed. Raises OSError."""
    return [name for name in _names(esp / ENTRIES) if name.startswith("keelboot-") and name.endswith(".draft")]


def reclaimable(esp: Path) -> int:
    """Bytes that `remove_unused` would free. Raises OSError."""
    kernels = [esp / KERNELS / name for name in unused_kernels(esp)]
    paths = [esp / ENTRIES / name for name in drafts(esp)]
    paths += [path for kernel in kernels for path in (kernel, *kernel.rglob("*"))]
    return sum(path.lstat().st_blocks for path in paths) * _SECTOR


def remove_unused(esp: Path) -> list[str]:
    """Remove what `unused_kernels` and `drafts` tell of, and return the kernels. Raises NotWritable, Failure."""
    with explained(esp):
        kernels, rests = unused_kernels(esp), drafts(esp)
        if not kernels and not rests:
            return []
        _sync(esp)
        for name in rests:
            (esp / ENTRIES / name).unlink()
        for name in kernels:
            shutil.rmtree(esp / KERNELS / name)
        _sync(esp)
    return kernels


@contextmanager
def explained(esp: Path) -> Iterator[None]:
    """Tell what the operating system refused on the ESP. Raises OutOfSpace, NotWritable, Failure."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(
                f"cannot write the ESP at {esp}",
                why=f"it is full ({why})",
                fix="What boots has not changed. `keelboot gc` removes kernels that no deployment needs.",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NotWritable(
                f"cannot write the ESP at {esp}",
                why=why,
                fix="What boots has not changed. The kernel makes a FAT read-only when it finds errors: see `dmesg`.",
            ) from error
        raise Failure(
            f"cannot use the ESP at {esp}",
            why=f"{error.filename or esp}: {why}",
            fix="Look for the cause in the kernel's log (`dmesg`); `fsck.fat -n` on the partition tells more.",
        ) from error


def _unreliable(purpose: str) -> Failure:
    return Failure(
        f"cannot {purpose}",
        why="what was written does not read back the same",
        fix="What boots has not changed. Look into the kernel's log (`dmesg`): the disk may be failing.",
    )


def _left_mounted(device: Path) -> bool:
    """Whether the FAT on DEVICE has the mark of one that is mounted to be written to, and nobody has it mounted."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)  # of a block device: nobody else uses it, open(2)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    try:
        sector = os.pread(fd, _SECTOR, 0)
    finally:
        os.close(fd)
    # struct fat_boot_sector in linux/msdos_fs.h: FAT32 has no length of a FAT in the field that others have it in.
    state = 0x41 if sector[0x16:0x18] == b"\0\0" else 0x25
    return len(sector) == _SECTOR and bool(sector[state] & 1)


def _listed(esp: Path, name: str) -> Listed | None:
    try:
        entry = Entry.parse(name, (esp / ENTRIES / name).read_bytes().decode())
    except (ValueError, OSError):
        return None
    named = Generation.parse(entry.id)
    return Listed(name, entry, named.number, named.digest) if named else None


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return []


def _complete(esp: Path, kernel: str, sizes: Sequence[int]) -> bool:
    directory = esp / KERNELS / kernel
    try:
        return [(directory / name).stat().st_size for name in FILES] == list(sizes)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        sync_directory(path.parent)
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _measured(directory: Path) -> str:
    """The digest of the kernel in DIRECTORY, as its two files read from the disk."""
    return boot_digest(*(_sha256(directory / name) for name in FILES))


def _sha256(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        # Pages that were just written would only show what was meant to be written.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := file.read(_BLOCK):
            digest.update(chunk)
    return digest.digest()


def _read_back(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_BLOCK)


def _sync(esp: Path) -> None:
    fd = os.open(esp, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_filesystem(fd)
    finally:
        os.close(fd)
