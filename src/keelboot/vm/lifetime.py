"""A running machine, from start to stop: one thread, one loop over QEMU's descriptors.

Nothing of a machine has a name on this computer: monitor, console and announcement are socket pairs, the firmware's
variables live in memory, and a snapshot's file is unlinked by QEMU as it opens it. QEMU leads a session of its own, so
that the terminal's Ctrl-C reaches keelboot alone, and the kernel kills it when keelboot dies, however that happens.
"""

import dataclasses
import fcntl
import os
import selectors
import socket
import subprocess  # noqa: TID251 - for the type of what keelboot.command started
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from keelboot import command
from keelboot.failure import BootFailed, Failure, PortInUse
from keelboot.vm.announcement import Announcement
from keelboot.vm.console import Console, Meaning, Sign
from keelboot.vm.machine import Machine, Wiring, argv
from keelboot.vm.monitor import Answer, Event, Reader
from keelboot.vm.monitor import command as monitor_command

_READ = 64 * 1024
_KEPT_OF_STDERR = 32 * 1024
_ANSWER_WITHIN = 10.0  # seconds; QEMU answers at once unless the computer is badly overloaded
_TERMINATED_WITHIN = 5.0
_LONGEST_ANNOUNCEMENT = 64 * 1024

T = TypeVar("T")


class Running:
    """A machine whose QEMU runs. Everything happens inside `wait`: who waits keeps the console flowing."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        monitor: socket.socket,
        serial: socket.socket,
        announcement: socket.socket,
        show: Callable[[bytes], object],
    ) -> None:
        self.console = Console()
        self.events: list[Event] = []
        self.announcements: list[Announcement] = []
        self.signs: list[Sign] = []
        self.started = time.monotonic()
        self._process, self._monitor, self._serial, self._show = process, monitor, serial, show
        self._reader, self._answers, self._asked = Reader(), dict[int, Answer](), 0
        self._stderr, self._line, self._to_serial = b"", b"", b""
        self._pidfd = os.pidfd_open(process.pid)
        self._selector = selectors.DefaultSelector()
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        self.watch(self._pidfd, self._ended)
        self.watch(process.stderr.fileno(), self._read_stderr)
        for end in (monitor, serial, announcement):
            end.setblocking(False)
        self.watch(monitor.fileno(), lambda: self._received(monitor, self._read_monitor))
        self.watch(serial.fileno(), self._serial_ready)
        self.watch(announcement.fileno(), lambda: self._received(announcement, self._read_announcement))

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether QEMU has exited; everything it wrote before is then here."""
        return self._process.returncode is not None

    def watch(self, descriptor: int, act: Callable[[], object]) -> None:
        """Call ACT inside `wait` whenever DESCRIPTOR can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ, act)

    def unwatch(self, descriptor: int) -> None:
        """Undo `watch`; harmless for what is not watched."""
        with suppress(KeyError):
            self._selector.unregister(descriptor)

    def wait(self, wanted: Callable[[], T | None], *, within: float | None = None) -> T | None:
        """Let the machine run until WANTED gives something true, which is the answer.

        None after WITHIN seconds, or when QEMU has ended without it.
        """
        deadline = None if within is None else time.monotonic() + within
        while not (answer := wanted()):
            left = None if deadline is None else deadline - time.monotonic()
            if self.ended or (left is not None and left <= 0):
                return None
            for key, _ in self._selector.select(left):
                key.data()
        return answer

    def ask(self, name: str, **arguments: object) -> Answer:
        """Have QEMU's monitor do NAME; an Answer's error tells why it did not. Raises BootFailed if QEMU is gone."""
        self._asked += 1
        number = self._asked
        with suppress(BrokenPipeError, ConnectionResetError):
            self._monitor.sendall(monitor_command(name, number, **arguments))
        answer = self.wait(lambda: self._answers.pop(number, None), within=_ANSWER_WITHIN)
        if answer is None:
            raise self.failure("QEMU ended" if self.ended else "QEMU does not answer")
        return answer

    def type(self, data: bytes) -> None:
        """Send DATA to the guest's serial console, as fast as the guest reads."""
        self._to_serial += data
        with suppress(KeyError):  # a console that has ended is watched no longer
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(self._serial.fileno(), both, self._serial_ready)

    def stop(self, *, within: float) -> bool:
        """Press the power button and wait WITHIN seconds for the guest to switch itself off; whether it did.

        Leaving the `running` context ends a machine that did not.
        """
        if not self.ended:
            with suppress(Failure):
                self.ask("system_powerdown")
            self.wait(lambda: self.ended, within=within)
        return self.ended

    def end(self) -> None:
        """End QEMU at once, as pulling the plug would; data that QEMU holds still reaches a persistent disk."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_TERMINATED_WITHIN)
        self.kill()

    def kill(self) -> None:
        """End QEMU with SIGKILL: a power cut, for tests of what survives one."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def failure(self, why: str, *, fix: str = "") -> BootFailed:
        """The failure that tells WHY, with the last of what QEMU and the guest wrote."""
        # Its first words name the fault; dumps of registers follow.
        said = [line for line in self._stderr.decode(errors="replace").splitlines() if " warning: " not in line]
        lines = [*said[:6], *self.console.tail(15)]
        shown = "\n  ".join(["", *lines]) if lines else ""
        return BootFailed(
            "the machine did not come up",
            why=f"{why}{':' if lines else '; it wrote nothing on its console'}{shown}",
            fix=fix or "Run it again with --console to watch it boot.",
        )

    def stopped(self) -> str | None:
        """Why QEMU stopped the machine for good, which then waits for nothing; None while it runs."""
        names = {event.name for event in self.events}
        if "BLOCK_IO_ERROR" in names:
            return "this computer could not write to the machine's disk"
        return "its processor failed" if names & {"STOP", "GUEST_PANICKED"} else None

    @property
    def restarts(self) -> int:
        """How often the guest has reset itself."""
        return sum(event.name == "RESET" for event in self.events)

    def early_end(self) -> Failure:
        """Why QEMU ended by itself."""
        said = self._stderr.decode(errors="replace")
        if "Could not set up host forwarding rule" in said:
            return PortInUse(
                "cannot forward a port", why=said.strip().splitlines()[-1], fix="Choose another port with -p, or 0."
            )
        if 'Failed to get "write" lock' in said or "Failed to get shared" in said:
            return self.failure("another program has the disk open", fix="Stop the machine that runs from this disk.")
        if self._process.returncode == 0 and any(event.name == "SHUTDOWN" for event in self.events):
            return self.failure("it switched itself off")
        return self.failure(f"QEMU ended with status {self._process.returncode}", fix="QEMU's own words are above.")

    def release(self) -> None:
        """End QEMU and close everything; afterwards only what was recorded is left to read."""
        try:
            self.end()
        finally:
            self.kill()
            self._selector.close()
            os.close(self._pidfd)
            assert self._process.stderr is not None
            self._process.stderr.close()

    def _ended(self) -> None:
        self._process.wait()
        self.unwatch(self._pidfd)
        # What QEMU and the guest wrote last is still in the sockets, and is what a failure has to tell.
        while self._selector.get_map():
            ready = self._selector.select(0)
            if not ready:
                break
            for key, _ in ready:
                key.data()

    def _serial_ready(self) -> None:
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError, KeyError):
            while self._to_serial:
                self._to_serial = self._to_serial[self._serial.send(self._to_serial) :]
            self._selector.modify(self._serial.fileno(), selectors.EVENT_READ, self._serial_ready)
        self._received(self._serial, self._read_serial)

    def _received(self, end: socket.socket, act: Callable[[bytes], object]) -> None:
        try:
            data = end.recv(_READ)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if data:
            act(data)
        else:
            self.unwatch(end.fileno())

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        data = os.read(self._process.stderr.fileno(), _READ)
        self._stderr = (self._stderr + data)[:_KEPT_OF_STDERR]
        if not data:
            self.unwatch(self._process.stderr.fileno())

    def _read_monitor(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            if isinstance(message, Answer):
                self._answers[message.number] = message
            else:
                self.events.append(message)

    def _read_serial(self, data: bytes) -> None:
        self.signs += self.console.feed(data)
        self._show(data)

    def _read_announcement(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[-_LONGEST_ANNOUNCEMENT:]
        for line in lines:
            with suppress(ValueError):  # a guest may write what it likes there; only an announcement counts
                self.announcements.append(Announcement.parse(line))


@contextmanager
def running(
    program: Path,
    machine: Machine,
    *,
    show: Callable[[bytes], object] = lambda _: None,
    extra_environment: dict[str, str] | None = None,
) -> Iterator[Running]:
    """MACHINE, started by the QEMU at PROGRAM; SHOW gets the serial console's bytes as they come.

    However the block is left, QEMU has ended when this returns. Must be entered in a thread that lives as long as the
    machine: the kernel's promise to kill QEMU with its parent is about that thread (prctl(2), PR_SET_PDEATHSIG).
    Raises BootFailed where QEMU ends before it runs, PortInUse where a forwarded port is taken.
    """
    with ExitStack() as stack:
        monitor, serial, announcement = (_pair(stack) for _ in range(3))
        variables = _variables(machine)
        if variables is not None:
            stack.callback(os.close, variables)
        wiring = Wiring(monitor[1].fileno(), serial[1].fileno(), announcement[1].fileno(), variables)
        process = command.start(
            [*_dies_with_us(), *argv(program, machine, wiring)],
            purpose="boot a machine",
            stdout=subprocess.DEVNULL,
            pass_fds=[fd for fd in dataclasses.astuple(wiring) if fd is not None],
            extra_environment=extra_environment,
            own_session=True,
        )
        try:
            guest = Running(process, monitor[0], serial[0], announcement[0], show)
        except BaseException:
            process.kill()
            process.wait()
            raise
        stack.callback(guest.release)
        for _, theirs in (monitor, serial, announcement):
            theirs.close()  # so that QEMU's end is seen as the end of each
        _greet(guest)
        yield guest


def _pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    return stack.enter_context(ours), stack.enter_context(theirs)


def _greet(guest: Running) -> None:
    try:
        guest.ask("qmp_capabilities")
    except BootFailed:
        if guest.ended:
            raise guest.early_end() from None
        raise


def _dies_with_us() -> tuple[str, ...]:
    """Words before QEMU's that have the kernel kill it with us; without util-linux, our own SIGKILL leaves it alive."""
    setpriv = command.find("setpriv")
    return (str(setpriv), "--pdeathsig", "KILL", "--") if setpriv else ()


def _variables(machine: Machine) -> int | None:
    """A descriptor of the firmware's variables: the machine's own file, or a fresh copy in memory."""
    if machine.variables is not None:
        return os.open(machine.variables, os.O_RDWR | os.O_CLOEXEC)
    if machine.firmware is None:
        return None
    fd = os.memfd_create("variables", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    template = machine.firmware.variables.read_bytes()
    os.write(fd, template)
    # QEMU maps the flash by its size: it must not change.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def first_sign(signs: list[Sign], meaning: Meaning) -> Sign | None:
    """The first of SIGNS that means MEANING."""
    return next((sign for sign in signs if sign.meaning is meaning), None)
