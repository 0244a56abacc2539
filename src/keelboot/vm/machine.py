"""A machine as a value, and the command line of QEMU that is this machine. Pure: nothing is opened or looked up."""

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keelboot.vm.announcement import PORT
from keelboot.vm.credentials import Credential
from keelboot.vm.forward import Forward

QCOW2_MAGIC = b"QFI\xfb"
SMALLEST_MEMORY = 256  # MiB: less does not hold a kernel and its initramfs


class Acceleration(enum.Enum):
    """What executes the guest's instructions; the value is QEMU's arguments for it."""

    KVM = ("-accel", "kvm", "-cpu", "host")
    # qemu64 boots in 28 s where `max` takes 35 and a named model 40.
    TCG = ("-accel", "tcg,thread=multi", "-cpu", "qemu64")


class Medium(enum.Enum):
    """What a file is to the machine."""

    DISK = "disk"
    CDROM = "cdrom"


@dataclass(frozen=True, slots=True)
class Drive:
    """A file as a disk. Unless PERSIST, what the guest writes is gone when the machine is."""

    file: Path
    format: str = "raw"
    persist: bool = False
    medium: Medium = Medium.DISK

    def __post_init__(self) -> None:
        if self.format not in ("raw", "qcow2"):
            raise ValueError(f"not a disk format to boot: {self.format}")


@dataclass(frozen=True, slots=True)
class Firmware:
    """A UEFI firmware's code, and the template that a machine's own variables start from."""

    code: Path
    variables: Path
    secure_boot: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A PC. MEMORY is in MiB; the first drive is the one to boot; no FIRMWARE means QEMU's own BIOS.

    VARIABLES is a file of the firmware's variables to keep; without it the machine starts with fresh ones each time.
    EXTRA are further arguments of QEMU, for devices that are not modelled here.
    """

    drives: tuple[Drive, ...]
    acceleration: Acceleration
    firmware: Firmware | None = None
    variables: Path | None = None
    memory: int = 2048
    cpus: int = 2
    forwards: tuple[Forward, ...] = ()
    credentials: tuple[Credential, ...] = ()
    display: str = "none"
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.memory < SMALLEST_MEMORY or self.cpus < 1:
            raise ValueError(f"not a machine that can boot: {self.memory} MiB, {self.cpus} CPUs")
        if not re.fullmatch(r"[a-z0-9-]+", self.display):
            raise ValueError(f"not a display of QEMU: {self.display}")


@dataclass(frozen=True, slots=True)
class Wiring:
    """Open descriptors that QEMU inherits: no file or socket has a name, so none can be left over."""

    monitor: int
    serial: int
    announcement: int
    variables: int | None = None


def argv(program: Path, machine: Machine, wiring: Wiring) -> list[str]:
    """QEMU's command line for MACHINE."""
    return [
        str(program),
        *("-nodefaults", "-no-user-config", "-name", "keelboot", "-machine", _machine_type(machine)),
        *machine.acceleration.value,
        *("-smp", str(machine.cpus), "-m", f"{machine.memory}M"),
        *_firmware(machine, wiring),
        *(word for index, drive in enumerate(machine.drives) for word in _drive(index, drive)),
        *("-device", "virtio-rng-pci"),
        *_network(machine.forwards),
        *_ports(wiring),
        *("-device", "VGA", "-display", machine.display),
        *(word for one in machine.credentials for word in ("-smbios", f"type=11,value={_escaped(one.smbios())}")),
        *(_CONFINED if machine.display == "none" else ()),
        *machine.extra,
    ]


# An image is trusted no more than a download: QEMU may start no programs and gain no rights. A window would need both.
_CONFINED = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")


def _machine_type(machine: Machine) -> str:
    return "q35,smm=on" if machine.firmware and machine.firmware.secure_boot else "q35"


def _firmware(machine: Machine, wiring: Wiring) -> Sequence[str]:
    if machine.firmware is None:
        return ()
    code = f"if=pflash,format=raw,unit=0,readonly=on,file={_escaped(str(machine.firmware.code))}"
    words = ["-drive", code]
    if wiring.variables is not None:
        # Not by -add-fd: QEMU first opens the file for reading only, which such a set would have to hold as well.
        words += ["-drive", f"if=pflash,format=raw,unit=1,file=/proc/self/fd/{wiring.variables}"]
    if machine.firmware.secure_boot:
        # Only firmware in system management mode may then write the variables that hold the keys.
        words += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    return words


def _drive(index: int, drive: Drive) -> Sequence[str]:
    name, file = f"drive{index}", _escaped(str(drive.file))
    if drive.medium is Medium.CDROM:
        description = f"if=none,id={name},format={drive.format},file={file},readonly=on,media=cdrom"
        device = f"ide-cd,drive={name}"
    else:
        # A snapshot's writes are thrown away, so nothing of them has to reach the disk; others survive a power cut.
        kept = "cache=writeback,discard=unmap" if drive.persist else "snapshot=on,cache=unsafe"
        description = f"if=none,id={name},format={drive.format},file={file},{kept}"
        device = f"virtio-blk-pci,drive={name}"
    # Without a boot index OVMF may end in its shell instead of booting from the disk.
    return "-drive", description, "-device", f"{device},bootindex={index + 1}"


def _network(forwards: Sequence[Forward]) -> Sequence[str]:
    rules = "".join(f",hostfwd={f.protocol}:{f.address}:{f.host}-:{f.guest}" for f in forwards)
    # No option ROM: it is for booting from the network, and its package is often not installed.
    return "-netdev", f"user,id=net0{rules}", "-device", "virtio-net-pci,netdev=net0,romfile="


def _ports(wiring: Wiring) -> Sequence[str]:
    return (
        *("-chardev", f"socket,id=monitor,fd={wiring.monitor}", "-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"socket,id=serial,fd={wiring.serial}", "-serial", "chardev:serial"),
        *("-chardev", f"socket,id=announcement,fd={wiring.announcement}", "-device", "virtio-serial-pci"),
        *("-device", f"virtserialport,chardev=announcement,name={PORT}"),
    )


def _escaped(text: str) -> str:
    """TEXT as a value in QEMU's option syntax, where a comma is written twice."""
    return text.replace(",", ",,")


def disk_format(head: bytes) -> str:
    """The format of a disk that starts with HEAD. QEMU is always told: a guest could write another format's magic."""
    return "qcow2" if head.startswith(QCOW2_MAGIC) else "raw"
