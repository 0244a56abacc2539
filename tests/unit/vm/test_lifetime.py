"""A real QEMU that runs a few instructions in place of an operating system."""

import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keelboot.failure import BootFailed, PortInUse
from keelboot.vm.forward import Forward
from keelboot.vm.lifetime import running
from keelboot.vm.machine import Acceleration, Firmware, Machine
from keelboot.vm.ports import chosen
from keelboot.vm.startup import NoSignOfLife, wait_for_life, wait_until_up

PROGRAM = Path(shutil.which("qemu-system-x86_64") or "missing")
pytestmark = pytest.mark.skipif(not PROGRAM.is_file(), reason="qemu-system-x86_64 is not installed")

HANG = b"\xfa\xf4\xeb\xfc"  # cli; hlt; jmp
RESET = b"\xba\xf9\x0c\xb0\x06\xee" + HANG  # write 6 to port 0xcf9
EXIT = b"\xb0\x10\xe6\xf4" + HANG  # write 0x10 to the debug-exit device
# Wait for a byte on the serial port (bit 0 of its line status), wait for room to send (bit 5), send it back, again.
ECHO = bytes.fromhex("bafd03 ec a801 74fb baf803 ec 88c3 bafd03 ec a820 74fb baf803 88d8 ee ebe2")


def machine(directory: Path, text: bytes, then: bytes = HANG, **changes: object) -> Machine:
    """A machine whose firmware writes TEXT to the serial port and goes on with the instructions THEN."""
    code = b"\xba\xf8\x03" + b"".join(b"\xb0" + bytes([byte]) + b"\xee" for byte in text) + then
    image = bytearray(0x10000)
    image[0x1000 : 0x1000 + len(code)] = code
    image[0xFFF0:0xFFF3] = b"\xe9" + struct.pack("<H", (0x1000 - 0xFFF3) & 0xFFFF)
    file = directory / "bare.rom"
    file.write_bytes(image)
    extra = ("-bios", str(file), "-device", "isa-debug-exit,iobase=0xf4,iosize=4")
    return Machine(drives=(), acceleration=Acceleration.TCG, memory=256, cpus=1, extra=extra, **changes)  # type: ignore[arg-type]


def gone(pid: int, *, within: float = 5.0) -> bool:
    """Whether process PID ended; a zombie that init has yet to collect counts as ended."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_the_console_is_kept_and_shown(tmp_path: Path) -> None:
    shown = bytearray()
    with running(PROGRAM, machine(tmp_path, b"hello\r\nworld"), show=shown.extend) as guest:
        wait_for_life(guest, within=20)
        assert guest.wait(lambda: guest.console.content() == b"hello\r\nworld", within=20)
        assert guest.ask("query-status").value["status"] == "running"
        assert guest.ask("no-such-command").error
        assert guest.console.tail(5) == ["hello", "world"]
    assert shown == b"hello\r\nworld"
    assert guest.ended
    assert gone(guest.pid)


def test_what_is_typed_arrives_even_when_it_is_a_lot(tmp_path: Path) -> None:
    text = bytes(range(32, 127)) * 20
    with running(PROGRAM, machine(tmp_path, b"", ECHO)) as guest:
        guest.type(text)
        assert guest.wait(lambda: guest.console.content() == text, within=20)


def test_a_prompt_is_enough_without_an_announcement(tmp_path: Path) -> None:
    with running(PROGRAM, machine(tmp_path, b"vm login: ")) as guest:
        up = wait_until_up(guest, within=30)
    assert up.announcement is None
    assert 3 <= up.seconds < 15


@pytest.mark.parametrize(
    ("text", "then", "why"),
    [
        (b"Kernel panic - not syncing: Attempted to kill init!\r\nend\r\n", HANG, "panicked: Attempted to kill init!"),
        (b"x\r\nYou are in emergency mode. After logging in\r\n", HANG, "emergency mode"),
        (b"Shell> ", HANG, "opened its shell"),
        (b"again\r\n", RESET, "it restarted"),
        (b"bye\r\n", EXIT, "QEMU ended with status 33"),
    ],
)
def test_a_boot_that_fails_says_why_and_shows_the_console(tmp_path: Path, text: bytes, then: bytes, why: str) -> None:
    with pytest.raises(BootFailed, match=why) as caught, running(PROGRAM, machine(tmp_path, text, then)) as guest:
        wait_until_up(guest, within=30)
    assert text.split(b"\r\n")[0].decode().strip() in caught.value.why
    assert caught.value.fix


def test_a_boot_that_hangs_is_given_up_in_time(tmp_path: Path) -> None:
    before = time.monotonic()
    with (
        running(PROGRAM, machine(tmp_path, b"last words\r\n")) as guest,
        pytest.raises(BootFailed, match="not up after 1 s:\n  last words"),
    ):
        wait_until_up(guest, within=1)
    assert time.monotonic() - before < 20
    assert gone(guest.pid)


def test_a_panic_may_be_tried_again_where_restarts_are_allowed(tmp_path: Path) -> None:
    text = b"Kernel panic - not syncing: x\r\n"
    with (
        running(PROGRAM, machine(tmp_path, text, RESET)) as guest,
        pytest.raises(BootFailed, match="after 2 s it was not up, and the kernel panicked"),
    ):
        wait_until_up(guest, within=2, may_restart=True)
    assert sum(event.name == "RESET" for event in guest.events) > 1


def test_silence_is_no_sign_of_life(tmp_path: Path) -> None:
    with running(PROGRAM, machine(tmp_path, b"")) as guest, pytest.raises(NoSignOfLife, match="wrote nothing"):
        wait_for_life(guest, within=0.3)


def test_a_guest_that_ignores_the_power_button_is_ended(tmp_path: Path) -> None:
    with running(PROGRAM, machine(tmp_path, b"x")) as guest:
        assert not guest.stop(within=0.2)
        assert any(event.name == "POWERDOWN" for event in guest.events)
    assert gone(guest.pid)


def test_a_power_cut(tmp_path: Path) -> None:
    with running(PROGRAM, machine(tmp_path, b"x")) as guest:
        guest.kill()
        assert guest.wait(lambda: guest.console.size == 10**9, within=5) is None
        with pytest.raises(BootFailed, match="QEMU ended"):
            guest.ask("query-status")


def test_qemus_own_complaint_is_passed_on(tmp_path: Path) -> None:
    bad = machine(tmp_path, b"x")
    with (
        pytest.raises(BootFailed, match="no-such-device"),
        running(
            PROGRAM, Machine(**{f: getattr(bad, f) for f in bad.__slots__} | {"extra": ("-device", "no-such-device")})
        ),
    ):
        pass


def test_a_port_taken_after_the_check_is_a_port_in_use(tmp_path: Path) -> None:
    forwards = chosen([Forward(0, 80)])
    one = machine(tmp_path, b"x", forwards=forwards)
    with running(PROGRAM, one), pytest.raises(PortInUse), running(PROGRAM, one):
        pass


def test_variables_are_fresh_in_memory_or_the_machines_own(tmp_path: Path) -> None:
    code, template, own = tmp_path / "code", tmp_path / "template", tmp_path / "own"
    bare = machine(tmp_path, b"flash")
    code.write_bytes((tmp_path / "bare.rom").read_bytes())
    template.write_bytes(bytes(0x20000))
    own.write_bytes(bytes(0x20000))
    for variables in (None, own):
        one = Machine(
            drives=(), acceleration=Acceleration.TCG, firmware=Firmware(code, template), variables=variables,
            memory=bare.memory, cpus=1,
        )  # fmt: skip
        with running(PROGRAM, one) as guest:
            assert guest.wait(lambda guest=guest: guest.console.content() == b"flash", within=20)


def test_nothing_is_left_open_or_on_disk(tmp_path: Path) -> None:
    one = machine(tmp_path, b"x")
    before = sorted(tmp_path.iterdir()), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        with running(PROGRAM, one):
            assert sorted(tmp_path.iterdir()) == before[0]
    assert (sorted(tmp_path.iterdir()), len(list(Path("/proc/self/fd").iterdir()))) == before


OWNER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {source!r})
from keelboot.vm.lifetime import running
from keelboot.vm.machine import Acceleration, Machine
one = Machine(drives=(), acceleration=Acceleration.TCG, memory=256, cpus=1, extra=("-bios", {rom!r}))
with running(Path({program!r}), one) as guest:
    print(guest.pid, flush=True)
    guest.wait(lambda: None)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_qemu_outlives_the_process_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    if number == signal.SIGKILL and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    machine(tmp_path, b"x")
    source = str(Path(sys.modules["keelboot"].__path__[0]).parent)
    script = OWNER.format(source=source, rom=str(tmp_path / "bare.rom"), program=str(PROGRAM))
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert owner.stdout is not None
    with owner, owner.stdout:
        pid = int(owner.stdout.readline())
        assert not gone(pid, within=0.1)
        owner.send_signal(number)
        owner.wait(10)
        assert gone(pid)
