"""Is KVM really usable? A /dev/kvm proves nothing, so a program of a few instructions is run under it.

The program is a firmware of 64 KiB that does what real firmware does first and what only hardware does well: it enters
protected mode, uses the floating-point unit, turns on paging and long mode, uses SSE, and ends QEMU through its
debug-exit device. A KVM that emulates (PVM below another hypervisor, for one) stops in it with "emulation failure",
as it would in OVMF; one that hangs runs into the time limit.

    offset  what it holds                      assembly
    0x1000  PML4: entry 0 -> 0xffff2000
    0x2000  page directory pointers: entry 3 -> 0xffff3000
    0x3000  page directory: entry 511 -> the 2 MiB that end at 4 GiB, which hold this firmware
    0xff00  real mode       cli; lgdtl %cs:gdtr; set CR0.PE; ljmpl $8, $protected
            protected mode  load %ds, %ss; fninit; fwait; CR3 = 0xffff1000; CR4 |= PAE, OSFXSR, OSXMMEXCPT;
                            EFER |= LME; set CR0.PG, clear CR0.EM; ljmp $24, $long
            long mode       pxor %xmm0, %xmm0; out 0x10 to port 0xf4; hlt
    0xff68  GDT: null, code32, data, code64; at 0xff88 its pointer
    0xfff0  the reset vector: jmp 0xff00
"""

import enum
import os
import select
import struct
import subprocess  # noqa: TID251 - for the type of what keelboot.command started
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from keelboot import command
from keelboot.failure import MissingTool
from keelboot.vm.firmware import require_sound_tcg
from keelboot.vm.machine import Acceleration

DEVICE = Path("/dev/kvm")
_WITHIN = 2.0  # seconds; hardware needs less than a tenth
_EXIT_STATUS = 0x10 << 1 | 1  # QEMU's, after 0x10 was written to its debug-exit device
_EMULATION_FAILED = b"emulation failure"
_CODE = bytes.fromhex(
    "fa2e660f011688ff0f20c00c010f22c066ea18ffffff0800b8100000008ed88ed0dbe39bb80010ffff0f22d80f20e00d200600000f22e0"
    "b9800000c00f320d000100000f300f20c00d0000008083e0fb0f22c0ea5affffff1800660fefc0b010e6f4f4"
)
_GDT = struct.pack("<4QHI", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF, 31, 0xFFFFFF68)
_PRESENT_WRITABLE_ACCESSED = 0x23
_LARGE_DIRTY = 0xC0


class Wish(enum.Enum):
    """What the user asks for."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


def candidates(wish: Wish, program: Path) -> tuple[Sequence[Acceleration], str]:
    """The accelerations to try in order, and for AUTO why KVM is not among them ("" if it is).

    Raises MissingTool where KVM is asked for and not usable, or where only an unsound TCG is left.
    """
    why = "" if wish is Wish.TCG else why_no_kvm(program)
    if wish is Wish.KVM:
        if why:
            raise MissingTool(
                "cannot boot a machine with KVM",
                why=why,
                fix="Leave --accel away to boot without it, which is some ten times slower.",
            )
        return (Acceleration.KVM,), ""
    if wish is Wish.AUTO and not why:
        return (Acceleration.KVM, Acceleration.TCG), ""
    require_sound_tcg(program)
    return (Acceleration.TCG,), why


def why_no_kvm(program: Path, *, device: Path = DEVICE) -> str:
    """Why machines cannot run under KVM here; "" if they can. Takes a tenth of a second, two at most."""
    try:
        with device.open("r+b", buffering=0):
            pass
    except FileNotFoundError:
        return f"there is no {device}"
    except PermissionError:
        return f"this user may not open {device}; members of its group may"
    except OSError as error:
        return f"{device}: {error.strerror}"
    return why_trial_failed(program, "kvm")


def why_trial_failed(program: Path, accelerator: str) -> str:
    """Run the trial firmware under ACCELERATOR of QEMU: why that failed, or "" if it did not."""
    with tempfile.NamedTemporaryFile(prefix="keelboot-trial-") as file:
        file.write(trial_firmware())
        file.flush()
        argv = [
            *(str(program), "-accel", accelerator, "-machine", "q35", "-nodefaults", "-no-user-config"),
            *("-display", "none", "-m", "16", "-bios", file.name, "-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
        ]
        process = command.start(argv, purpose="try KVM", stdout=subprocess.DEVNULL, own_session=True)
        try:
            said = _said(process)
        finally:
            process.kill()
            process.communicate()
    if process.returncode == _EXIT_STATUS:
        return ""
    text = said.decode(errors="replace")
    if _EMULATION_FAILED in said:
        return "the KVM here is not the processor's own and cannot run firmware (emulation failure)"
    lines = [line for line in text.splitlines() if " warning: " not in line]
    return lines[0] if lines else f"a trial under KVM did not end within {_WITHIN:.0f} s"


def _said(process: subprocess.Popen[bytes]) -> bytes:
    """What QEMU wrote until it ended, time was up, or the trial failed, after which it lingers."""
    assert process.stderr is not None
    deadline, said = time.monotonic() + _WITHIN, b""
    while _EMULATION_FAILED not in said:
        if not select.select([process.stderr], [], [], max(0.0, deadline - time.monotonic()))[0]:
            break
        data = os.read(process.stderr.fileno(), 65536)
        if not data:
            process.wait()
            break
        said += data
    return said


def trial_firmware() -> bytes:
    """The firmware that the module's docstring draws."""
    image = bytearray(0x10000)
    image[0xFFF0:0xFFF3] = b"\xe9" + struct.pack("<H", 0xFF00 - 0xFFF3 & 0xFFFF)
    image[0xFF00 : 0xFF00 + len(_CODE)] = _CODE
    image[0xFF68 : 0xFF68 + len(_GDT)] = _GDT
    for at, value in (
        (0x1000, 0xFFFF2000 | _PRESENT_WRITABLE_ACCESSED),
        (0x2000 + 3 * 8, 0xFFFF3000 | _PRESENT_WRITABLE_ACCESSED),
        (0x3000 + 511 * 8, 0xFFE00000 | _PRESENT_WRITABLE_ACCESSED | _LARGE_DIRTY),
    ):
        struct.pack_into("<Q", image, at, value)
    return bytes(image)
