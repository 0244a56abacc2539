"""When a machine counts as up, judged with a QEMU that only talks (`simulated_qemu.py`)."""

import json
import socket
import sys
import threading
from pathlib import Path

import pytest

from keelboot.failure import BootFailed, PortInUse
from keelboot.vm.announcement import Announcement
from keelboot.vm.lifetime import running
from keelboot.vm.machine import Acceleration, Machine
from keelboot.vm.startup import NoSignOfLife, wait_for_life, wait_until_up

MACHINE = Machine(drives=(), acceleration=Acceleration.TCG)
RUNNING = ["announce", '{"state":"running"}\n']
LOGIN = ["serial", "vm login: "]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    program = tmp_path / "qemu"
    talking = Path(__file__).with_name("simulated_qemu.py").read_text()
    program.write_text(f"#!{sys.executable}\n{talking}")
    program.chmod(0o755)
    return tmp_path


def qemu(directory: Path, *script: list[object]) -> Path:
    (directory / "guest").write_text(json.dumps(script))
    return directory / "qemu"


@pytest.fixture
def server() -> socket.socket:
    """A port that is open, as QEMU's forwarded one is, before any sshd answers."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def test_an_announcement_ends_the_wait(directory: Path) -> None:
    said = '{"state":"degraded","failed":["a.service"],"booted":"ab"}\n'
    with running(
        qemu(directory, LOGIN, ["sleep", 0.2], ["announce", said[:9]], ["announce", said[9:]]), MACHINE
    ) as guest:
        up = wait_until_up(guest, within=20)
        assert up.announcement == Announcement("degraded", ("a.service",), "ab")
        assert up.seconds < 3
        assert guest.stop(within=5)


def test_what_is_no_announcement_is_passed_over(directory: Path) -> None:
    with running(qemu(directory, ["announce", 'hello\n{"x":1}\n'], RUNNING), MACHINE) as guest:
        assert wait_until_up(guest, within=20).announcement == Announcement("running")


def test_ssh_is_waited_for_though_the_machine_says_it_is_up(directory: Path, server: socket.socket) -> None:
    """The first connection is dropped, as by a guest without sshd yet; the second is answered."""

    def answer() -> None:
        server.accept()[0].close()
        with server.accept()[0] as connection:
            connection.sendall(b"SSH-2.0-x\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    with running(qemu(directory, RUNNING), MACHINE) as guest:
        up = wait_until_up(guest, within=20, ssh=server.getsockname())
    thread.join()
    assert up.announcement
    assert 0.9 < up.seconds < 5


@pytest.mark.parametrize("banner", [b"", b"HTTP/1.1 400 Bad Request\r\n"])
def test_without_sshd_the_failure_says_so(directory: Path, server: socket.socket, banner: bytes) -> None:
    def answer() -> None:
        connection = server.accept()[0]
        connection.sendall(banner)
        connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with (
        running(qemu(directory, RUNNING), MACHINE) as guest,
        pytest.raises(BootFailed, match="it booted, but no SSH server answered") as caught,
    ):
        wait_until_up(guest, within=0.7, ssh=server.getsockname())
    thread.join()
    assert "openssh-server" in caught.value.fix


def test_a_prompt_before_a_restart_is_forgotten(directory: Path) -> None:
    script = [LOGIN, ["sleep", 2.5], ["event", "RESET"], ["sleep", 2], RUNNING]
    with running(qemu(directory, *script), MACHINE) as guest:
        up = wait_until_up(guest, within=20, may_restart=True)
    assert up.announcement == Announcement("running")


def test_typing_to_a_machine_that_has_ended_does_nothing(directory: Path) -> None:
    with running(qemu(directory, ["serial", "x"], ["sleep", 0.1], ["exit", 0]), MACHINE) as guest:
        guest.wait(lambda: guest.ended, within=10)
        guest.type(b"x")
        assert guest.wait(lambda: None, within=1) is None


def test_a_guest_that_switches_itself_off_did_not_come_up(directory: Path) -> None:
    program = qemu(directory, ["serial", "Power down\r\n"], ["event", "SHUTDOWN"], ["sleep", 0.1], ["exit", 0])
    with running(program, MACHINE) as guest, pytest.raises(BootFailed, match="switched itself off:\n  Power down"):
        wait_until_up(guest, within=20)


def test_a_processor_that_stops_at_once_is_no_sign_of_life(directory: Path) -> None:
    stderr = "qemu: warning: host doesn't support it\nKVM internal error. Suberror: 1\nextra data[0]: 0x1\n"
    with (
        running(qemu(directory, ["stderr", stderr], ["sleep", 0.1], ["event", "STOP"]), MACHINE) as guest,
        pytest.raises(NoSignOfLife, match="its processor failed") as caught,
    ):
        wait_for_life(guest, within=20)
    assert "KVM internal error. Suberror: 1" in caught.value.why
    assert "warning" not in caught.value.why


def test_a_full_disk_here_is_told_apart(directory: Path) -> None:
    program = qemu(directory, ["event", "BLOCK_IO_ERROR"], ["event", "STOP"])
    with running(program, MACHINE) as guest, pytest.raises(BootFailed, match="could not write to the machine's disk"):
        wait_until_up(guest, within=20)


@pytest.mark.parametrize(
    ("stderr", "kind", "why"),
    [
        ("qemu: Could not set up host forwarding rule 'tcp:127.0.0.1:80-:80'\n", PortInUse, "forwarding rule"),
        ('qemu: -device virtio-blk-pci: Failed to get "write" lock\n', BootFailed, "another program has the disk open"),
        ("qemu: could not load firmware\n", BootFailed, "ended with status 1"),
    ],
)
def test_qemus_refusals_are_put_into_words(directory: Path, stderr: str, kind: type[Exception], why: str) -> None:
    (directory / "qemu").write_text(f"#!/bin/sh\ncat >&2 <<'E'\n{stderr}E\nexit 1\n")
    with pytest.raises(kind, match=why), running(directory / "qemu", MACHINE):
        pass
