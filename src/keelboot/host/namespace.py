"""The machine's own store and ESP, as nobody else sees them: mounted in a mount namespace of this process.

Everyone else sees the partition with the store read-only at /sysroot, and the ESP nowhere. Here the one is writable
while something is changed, and the other is at /run/keelboot/esp. Both vanish with the process, however that ends.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from keelboot.boot import esp
from keelboot.failure import Failure, NotAHost, NotPermitted
from keelboot.host import mounting, mounts, records
from keelboot.host.mounting import BIND, NODEV, NOEXEC, NOSUID, RDONLY, REMOUNT, mount
from keelboot.host.mounts import Mount
from keelboot.host.sysroot import Sysroot
from keelboot.image.tree import ObjectId
from keelboot.progress import SILENT, Progress

ESP_TYPE: Final = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
# systemd-boot(7): the partition that the loader was started from (The Boot Loader Interface).
_LOADER_PARTITION = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_SYSROOT = Path("/sysroot")
_ESP = Path("/run/keelboot/esp")
_ATTEMPTS = 50


def booted_digest() -> ObjectId | None:
    """The deployment that this machine runs; None where / is no composefs root."""
    return mounts.booted(_mounted())


def require_booted() -> ObjectId:
    """The deployment that this machine runs. Raises NotAHost."""
    digest = booted_digest()
    if digest is None:
        raise NotAHost(
            "this machine does not run a deployment",
            why="its root is no composefs image",
            fix="`keelboot install to-existing-root` makes a keelboot machine of it; `keelboot disk` makes a new one.",
        )
    return digest


def require_root() -> None:
    """Raises NotPermitted unless the process may change the machine."""
    if os.geteuid() != 0:
        raise NotPermitted("cannot change this machine", why="only root may do that", fix="Try again with sudo.")


@contextmanager
def reading() -> Iterator[Sysroot]:
    """The store and the ESP, both read-only. Raises NotAHost, NotPermitted, Failure."""
    require_booted()
    require_root()
    with ExitStack() as stack:
        _unshare()
        _mount_esp(stack, read_only=True)
        yield Sysroot(_SYSROOT, _ESP)


@contextmanager
def changing(progress: Progress = SILENT) -> Iterator[Sysroot]:
    """The store and the ESP, writable, while nobody else changes them. Raises NotAHost, NotPermitted, Failure."""
    require_root()
    require_booted()
    with ExitStack() as stack:
        _make_writable(stack)
        sysroot = Sysroot(_SYSROOT, _ESP)
        stack.enter_context(locked(sysroot, progress))
        _mount_esp(stack, read_only=False)
        yield sysroot


@contextmanager
def noting() -> Iterator[Sysroot]:
    """The store alone, writable without the lock and without the ESP: for boot records, which are only appended to.

    What ends a boot must not wait for an upgrade, nor need an ESP. Raises NotAHost, NotPermitted, Failure.
    """
    require_root()
    require_booted()
    with ExitStack() as stack:
        _make_writable(stack)
        yield Sysroot(_SYSROOT, _ESP)


def _make_writable(stack: ExitStack) -> None:
    """Let this process alone write to the store, until STACK ends."""
    _unshare()
    try:
        mount(None, _SYSROOT, None, REMOUNT | BIND)
    except OSError as error:
        raise _unmountable("make /sysroot writable", error) from error
    stack.callback(_read_only_again)


@contextmanager
def locked(sysroot: Sysroot, progress: Progress = SILENT) -> Iterator[None]:
    """The machine's lock, held alone; it ends with its process. Raises OutOfSpace, NotWritable, Failure."""
    with records.explained(sysroot):
        sysroot.state.mkdir(exist_ok=True)
        fd = os.open(sysroot.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step("Waiting for another keelboot to finish"):
                fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def esp_device(
    seen: Sequence[Mount], *, variables: Path = Path("/sys/firmware/efi/efivars"), system: Path = Path("/")
) -> Path | None:
    """The block device of the ESP: what the loader was started from, else the only one on the disk of /sysroot.

    SEEN is what is mounted; SYSTEM stands for / where /sys, /dev and /run are looked at. None where there is none.
    """
    with suppress(OSError):
        # efivarfs: four bytes of attributes come before the value, which is UTF-16 with a zero at its end.
        text = (variables / _LOADER_PARTITION).read_bytes()[4:].decode("utf-16-le", "replace").rstrip("\0")
        device = system / "dev/disk/by-partuuid" / text.lower()
        if text and "/" not in text and device.exists():
            return device
    store = mounts.at("/sysroot", seen)
    found = [] if store is None else _esps_beside(store.device, system)
    return found[0] if len(found) == 1 else None


def _esps_beside(number: str, system: Path) -> list[Path]:
    """The ESPs on the disks that the block device NUMBER (MAJOR:MINOR) lies on, however many layers are between."""
    found: dict[str, Path] = {}
    pending, seen = [(system / f"sys/dev/block/{number}").resolve()], set()
    while pending:
        device = pending.pop()
        if device in seen or not device.exists():
            continue
        seen.add(device)
        pending += [path.resolve() for path in _listed(device / "slaves")]
        if (device / "partition").exists():
            for sibling in _listed(device.parent):
                if (sibling / "partition").exists() and _partition_type(sibling, system) == ESP_TYPE:
                    found[sibling.name] = system / "dev" / sibling.name
    return [found[name] for name in sorted(found)]


def _partition_type(device: Path, system: Path) -> str:
    """The partition's type as udev found it; empty where it did not."""
    with suppress(OSError):
        number = (device / "dev").read_text().strip()
        for line in (system / f"run/udev/data/b{number}").read_text(errors="replace").splitlines():
            if line.startswith("E:ID_PART_ENTRY_TYPE="):
                return line.partition("=")[2].lower()
    return ""


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _mounted() -> list[Mount]:
    return mounts.parse(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))


def _mount_esp(stack: ExitStack, *, read_only: bool) -> None:
    device = esp_device(_mounted())
    if device is None:
        raise Failure(
            "cannot find the ESP",
            why="the loader does not say where it came from, and the disk of /sysroot has not exactly one ESP",
            fix="`lsblk -o NAME,PARTTYPENAME,MOUNTPOINTS` shows the partitions; status is told without boot entries.",
        )
    try:
        _ESP.mkdir(mode=0o700, parents=True, exist_ok=True)
        _ESP.parent.chmod(0o755)
        mended = not read_only and esp.mend(device.resolve())
        _mount_shared(device.resolve(), read_only=read_only)
        if mended:
            esp.remove_salvaged(_ESP)
    except OSError as error:
        raise _unmountable(f"mount the ESP {device}", error) from error
    stack.callback(mounting.unmount, _ESP)


def _mount_shared(device: Path, *, read_only: bool) -> None:
    """Mount the ESP, which others may have mounted at the same moment, writable or not. Raises OSError.

    A block device has one state for all its mounts: mount(2) refuses with EBUSY to mount it writable while it is
    read-only for somebody else, and the reverse. But a mount may be read-only while the device is writable, and a
    device that is read-only becomes writable by a remount, under the eyes of those who read it.
    """
    # FAT knows no owners: only root may read it, and nothing on it is run.
    flags, options = NOSUID | NODEV | NOEXEC, "fmask=0177,dmask=0077"
    for attempt in range(_ATTEMPTS):
        try:
            mount(device, _ESP, "vfat", flags | RDONLY, options)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        else:
            if not read_only:
                mount(None, _ESP, None, flags | REMOUNT, options)
            return
        try:
            mount(device, _ESP, "vfat", flags, options)
        except OSError as error:
            if error.errno != errno.EBUSY or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.1)  # its state changed between the two: whoever changed it is soon done
        else:
            if read_only:
                mount(None, _ESP, None, flags | REMOUNT | BIND | RDONLY)
            return


def _read_only_again() -> None:
    with suppress(OSError):
        mount(None, _SYSROOT, None, REMOUNT | BIND | RDONLY)


def _unshare() -> None:
    """Give this process mounts of its own: what is mounted from now on, nobody else sees."""
    try:
        mounting.unshare()
    except OSError as error:
        raise _unmountable("make a mount namespace", error) from error


def _unmountable(purpose: str, error: OSError) -> Failure:
    why = error.strerror or str(error)
    if error.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(
            f"cannot {purpose}", why=why, fix="Run it as root on the machine itself, not inside a container."
        )
    return Failure(f"cannot {purpose}", why=why, fix="Look for the cause in the kernel's log (`dmesg`).")
