"""keelboot run: an image or a disk as a machine in QEMU."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from keelboot.cli.terminal import Terminal
from keelboot.failure import Failure

if TYPE_CHECKING:
    from keelboot.vm.forward import Forward
    from keelboot.vm.lifetime import Running
    from keelboot.vm.machine import Acceleration, Drive, Machine
    from keelboot.vm.ssh import Key
    from keelboot.vm.startup import Up

SUMMARY = "boot an image or a disk in QEMU"
EXAMPLES = """\
  keelboot run -p 8080:80 localhost/web
  keelboot run --ssh localhost/web
  keelboot run --ssh localhost/web -- systemctl is-active nginx
  keelboot run --console --persist web.img
"""
_KVM_LIVES_WITHIN = 20.0  # seconds until firmware has written something; it takes less than two
_SWITCHES_OFF_WITHIN = 60.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "image",
        metavar="IMAGE|FILE",
        help="an image (containers-storage:NAME, oci:DIR, ...), for which a disk is made that ends with the run, "
        "or a disk, raw or qcow2",
    )
    parser.add_argument(
        "-p",
        "--publish",
        metavar="[ADDRESS:]HOST:GUEST[/udp]",
        action="append",
        default=[],
        help="make the machine's port GUEST reachable at HOST here (at 127.0.0.1; 0 is any free port)",
    )
    parser.add_argument(
        "--ssh", action="store_true", help="log in as root when it is up; with -- COMMAND, run that and return its code"
    )
    parser.add_argument(
        "--ssh-key", metavar="FILE", type=Path, help="private key to log in with (default: one made for this run)"
    )
    parser.add_argument("--console", action="store_true", help="show the serial console and type there; Ctrl-] leaves")
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--persist", action="store_true", help="write to FILE; the machine may then also restart")
    kept.add_argument("--snapshot", action="store_true", help="forget what the machine writes (the default)")
    parser.add_argument("--memory", metavar="SIZE", default="2G", help="like 512M or 4G (default: 2G)")
    parser.add_argument("--cpus", metavar="N", type=int, default=2, help="default: 2")
    parser.add_argument(
        "--timeout", metavar="S", type=float, default=300.0, help="seconds it may take until it is up (default: 300)"
    )
    parser.add_argument(
        "--accel", choices=("auto", "kvm", "tcg"), default="auto", help="default: KVM where it works, else TCG"
    )
    parser.add_argument(
        "--display", metavar="KIND", default="none", help="a window of QEMU's, like gtk or sdl (default: none)"
    )
    parser.add_argument("--log", metavar="FILE", type=Path, help="keep what the serial console shows")


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """What follows the first `--` belongs to the machine."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Boot it and stay until it ends."""
    from keelboot.vm import acceleration, firmware
    from keelboot.vm.machine import Drive
    from keelboot.vm.startup import NoSignOfLife

    _see_whether_they_fit(arguments)
    program = firmware.qemu()
    with ExitStack() as stack:
        run = _Run(arguments, terminal, program, stack)
        choices, why_slow = acceleration.candidates(acceleration.Wish(arguments.accel), program)
        if why_slow:
            terminal.note(f"without KVM, thus some ten times slower: {why_slow}")
        drive = run.file or Drive(_made(arguments.image, terminal, run.key, stack))
        for choice in choices:
            last = choice is choices[-1]
            try:
                return run.boot(run.machine(choice, drive), last=last)
            except NoSignOfLife as failure:
                if last:
                    raise
                terminal.note(f"KVM does not work here ({failure.why.splitlines()[0].rstrip(':')}); trying without")
    raise AssertionError("the last choice returns or raises")


def _see_whether_they_fit(arguments: argparse.Namespace) -> None:
    from keelboot.cli.values import BadValue

    if arguments.console and (arguments.ssh or arguments.passed_on):
        raise BadValue(
            "cannot use --console and --ssh at once", why="both want this terminal", fix="Leave one of them away."
        )
    if arguments.cpus < 1 or arguments.timeout <= 0:
        raise BadValue("cannot boot a machine", why="--cpus and --timeout must be above 0", fix="Leave them away.")


class _Run:
    """What one invocation needs, made once; a boot may be tried a second time with another acceleration."""

    def __init__(self, arguments: argparse.Namespace, terminal: Terminal, program: Path, stack: ExitStack) -> None:
        from keelboot.vm import ssh
        from keelboot.vm.forward import SSH_PORT, Forward
        from keelboot.vm.ports import chosen

        self.arguments, self.terminal, self.program = arguments, terminal, program
        self.command: Sequence[str] = arguments.passed_on
        self.wants_ssh: bool = arguments.ssh or bool(self.command)
        self.memory = _memory(arguments.memory)
        wanted = [_forward(text) for text in arguments.publish]
        if self.wants_ssh:
            wanted.append(Forward(0, SSH_PORT))
        self.forwards: Sequence[Forward] = chosen(wanted)
        self.key: Key | None = None
        if arguments.ssh_key:
            self.key = ssh.existing_key(arguments.ssh_key)
        elif self.wants_ssh:
            self.key = stack.enter_context(ssh.ephemeral_key())
        self.file = _existing(arguments)
        self.log = stack.enter_context(arguments.log.open("wb", buffering=0)) if arguments.log else None

    def machine(self, acceleration: "Acceleration", drive: "Drive") -> "Machine":
        """The machine asked for."""
        from keelboot.cli.values import BadValue
        from keelboot.vm import credentials, firmware
        from keelboot.vm.machine import Machine

        told = [*credentials.announcer()]
        if self.key:
            told.append(credentials.tmpfiles(credentials.authorized_key_lines(self.key.public)))
        if self.arguments.console:
            told += credentials.console_login()
        try:
            return Machine(
                drives=(drive,),
                acceleration=acceleration,
                firmware=firmware.find_firmware(),
                memory=self.memory,
                cpus=self.arguments.cpus,
                forwards=tuple(self.forwards),
                credentials=tuple(told),
                display=self.arguments.display,
            )
        except ValueError as error:
            raise BadValue("cannot boot such a machine", why=str(error), fix="Leave the option away.") from error

    def boot(self, machine: "Machine", *, last: bool) -> int:
        """Run the machine to its end and return the exit code."""
        from keelboot.vm.lifetime import running
        from keelboot.vm.startup import wait_for_life

        environment = {name: os.environ[name] for name in _WINDOW if name in os.environ}
        with running(
            self.program,
            machine,
            show=self._show(),
            extra_environment=environment if self.arguments.display != "none" else None,
        ) as guest:
            if not last:
                wait_for_life(guest, within=_KVM_LIVES_WITHIN)
            if self.arguments.console:
                return self._console(guest)
            with self.terminal.progress.step("Booting"):
                up = self._up(guest)
            with self._switched_off_properly(guest):
                return self._serve(guest, up, machine.acceleration)

    def _up(self, guest: "Running") -> "Up":
        from keelboot.vm.startup import wait_until_up

        return wait_until_up(
            guest, within=self.arguments.timeout, ssh=self._ssh_address, may_restart=self.arguments.persist
        )

    @property
    def _ssh_address(self) -> tuple[str, int] | None:
        return (self.forwards[-1].address, self.forwards[-1].host) if self.wants_ssh else None

    def _serve(self, guest: "Running", up: "Up", acceleration: "Acceleration") -> int:
        """Give the session, or stay until the machine ends or Ctrl-C ends it."""
        from keelboot.vm import ssh

        self._tell(up, acceleration)
        if self._ssh_address and self.key:
            return ssh.session(guest, self._ssh_address, self.key, self.command, terminal=self.terminal.interactive)
        try:
            stopped = guest.wait(guest.stopped)
        except KeyboardInterrupt:
            self.terminal.note("switching the machine off; Ctrl-C ends it at once")
            guest.stop(within=_SWITCHES_OFF_WITHIN)
            return 0
        if stopped:
            raise guest.failure(stopped)
        self.terminal.note("the machine has switched itself off")
        return 0

    def _tell(self, up: "Up", acceleration: "Acceleration") -> None:
        said = up.announcement
        if self.terminal.json_wanted and not self.command:
            self.terminal.json(
                {
                    "state": said.state if said else None,
                    "failed": list(said.failed) if said else None,
                    "booted": said.booted if said else None,
                    "seconds": round(up.seconds, 1),
                    "acceleration": acceleration.name.lower(),
                    "ports": [
                        {"address": f.address, "host": f.host, "guest": f.guest, "protocol": f.protocol}
                        for f in self.forwards
                    ],
                }
            )
            sys.stdout.flush()
        self.terminal.note(f"up after {up.seconds:.0f} s" + (f", {said.state}" if said else ""))
        if said and said.failed:
            self.terminal.note(f"failed units: {' '.join(said.failed)}")
        for text in map(_told, self.forwards[: len(self.forwards) - bool(self.wants_ssh)]):
            self.terminal.note(text)
        if not self.wants_ssh:
            self.terminal.note("Ctrl-C switches it off")

    def _console(self, guest: "Running") -> int:
        from keelboot.vm.terminal import attach

        if self.terminal.interactive:
            self.terminal.note("this is the machine's serial console; Ctrl-] switches the machine off")
        with self._switched_off_properly(guest):
            left = attach(guest, sys.stdin.fileno())
            if left:
                self.terminal.note("\r\nswitching the machine off; Ctrl-C ends it at once")
                guest.stop(within=_SWITCHES_OFF_WITHIN)
            elif guest.stopped():
                raise guest.failure(guest.stopped() or "")
        return 0

    @contextmanager
    def _switched_off_properly(self, guest: "Running") -> Iterator[None]:
        """A disk that is kept is left in order, however the run ends; a snapshot has nothing to lose."""
        try:
            yield
        finally:
            if self.arguments.persist:
                guest.stop(within=_SWITCHES_OFF_WITHIN)

    def _show(self) -> Callable[[bytes], None]:
        screen = sys.stdout.fileno() if self.arguments.console else None
        log = self.log

        def show(data: bytes) -> None:
            if log:
                log.write(data)
            if screen is not None:
                _write_all(screen, data)

        return show


_WINDOW = ("DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _told(forward: "Forward") -> str:
    return f"{forward.address}:{forward.host} leads to its port {forward.guest}/{forward.protocol}"


def _memory(text: str) -> int:
    """MiB of memory."""
    from keelboot.cli.values import BadValue, size_in_bytes
    from keelboot.vm.machine import SMALLEST_MEMORY

    size = size_in_bytes(text) >> 20
    if size < SMALLEST_MEMORY:
        raise BadValue(
            f"cannot boot a machine with {text} of memory",
            why=f"it needs {SMALLEST_MEMORY}M at least",
            fix="Write it like 512M or 2G.",
        )
    return size


def _forward(text: str) -> "Forward":
    from keelboot.cli.values import BadValue
    from keelboot.vm.forward import Forward

    try:
        return Forward.parse(text)
    except ValueError as error:
        raise BadValue(
            f"cannot forward {text!r}", why=str(error), fix="Write it like 8080:80, 0:80 or 0.0.0.0:5353:53/udp."
        ) from error


def _existing(arguments: argparse.Namespace) -> "Drive | None":
    """The disk that is named; None where an image is, which has to be made into one."""
    from keelboot.vm.machine import Drive, disk_format

    file = Path(arguments.image)
    if file.is_file() or file.is_block_device():
        with file.open("r+b" if arguments.persist else "rb") as disk:
            return Drive(file.absolute(), disk_format(disk.read(4)), persist=arguments.persist)
    if file.suffix in (".img", ".raw", ".qcow2"):
        raise Failure(
            f"cannot boot {file}", why="there is no such file", fix=f"Make it: keelboot disk IMAGE -o {file.name}"
        )
    if arguments.persist:
        raise Failure(
            f"cannot keep what {file} writes",
            why="an image's disk ends with the run",
            fix=f"Make one that stays: keelboot disk {file} -o web.img; keelboot run --persist web.img",
        )
    return None


def _made(name: str, terminal: Terminal, key: "Key | None", stack: ExitStack) -> Path:
    from keelboot.assembly.disk import DiskOptions, write_disk
    from keelboot.cli.surroundings import scratch
    from keelboot.image.reference import Reference
    from keelboot.vm.scratch import scratch_directory

    reference = Reference.parse(name)
    output = stack.enter_context(scratch_directory(scratch())) / "disk.img"
    # The key goes in here as well as by credential: systemd older than 252 takes none.
    write_disk(reference, output, DiskOptions(ssh_keys=(key.public,) if key else ()), terminal.progress)
    return output
