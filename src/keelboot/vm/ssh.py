"""The way into a running machine: a key made for this run, OpenSSH's client, its exit code passed on.

The client sees neither the user's configuration nor keys nor known hosts, and asks nothing. The guest's host key is
not compared with anything: the connection goes over this computer's loopback to a port that our QEMU holds, and the
machine behind it made its key a moment ago.
"""

import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keelboot import command
from keelboot.failure import CommandFailed, Failure
from keelboot.vm.console import clean
from keelboot.vm.credentials import authorized_key_lines
from keelboot.vm.lifetime import Running

_OPTIONS = (
    "UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null", "StrictHostKeyChecking=no", "UpdateHostKeys=no",
    "IdentitiesOnly=yes", "IdentityAgent=none", "BatchMode=yes", "PreferredAuthentications=publickey",
    "ConnectTimeout=30", "ServerAliveInterval=15", "ServerAliveCountMax=20", "ForwardAgent=no", "ForwardX11=no",
)  # fmt: skip
_EXIT_STATUS = re.compile(rb"^debug1: Exit status \d+", re.MULTILINE)
_SIGNALLED = re.compile(rb"rtype exit-signal")
_NOTICES_WITHIN = 30.0  # seconds
_ENDS_WITHIN = 3.0
_CHATTER = ("debug", "Warning: Permanently added", "Authenticated to", "Transferred:", "Bytes per second:")
_OWN_FAILURE = 255  # ssh(1): "or with 255 if an error occurred" - which a command may return as well


@dataclass(frozen=True, slots=True)
class Key:
    """A private key that ssh can read at FILE, and its public half as a line."""

    file: Path
    public: str


@contextmanager
def ephemeral_key() -> Iterator[Key]:
    """A key that exists in memory alone and ends with the block. Raises MissingTool where OpenSSH is not installed."""
    with tempfile.TemporaryDirectory(prefix="keelboot-key-") as directory:
        file = Path(directory) / "key"
        command.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "keelboot run", "-f", file],
            purpose="make an SSH key for the machine",
        )
        private, public = file.read_bytes(), file.with_suffix(".pub").read_text()
    fd = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        os.fchmod(fd, 0o600)  # ssh refuses a key that others may read
        os.write(fd, private)
        yield Key(Path(f"/proc/{os.getpid()}/fd/{fd}"), public.strip())
    finally:
        os.close(fd)


def existing_key(file: Path) -> Key:
    """The user's own key at FILE, with FILE.pub beside it; it must not ask for a passphrase. Raises Failure."""
    what = f"cannot use the SSH key {file}"
    public = Path(f"{file}.pub")
    try:
        with file.open("rb"):
            pass
        line = public.read_text(encoding="utf-8", errors="strict").strip()
        authorized_key_lines(line)
    except OSError as error:
        raise Failure(
            what,
            why=f"{error.filename}: {error.strerror}",
            fix="Name the private key; its public half is read from the same name with .pub. Or leave --ssh-key away.",
        ) from error
    except ValueError as error:
        raise Failure(what, why=f"{public} is not a public key", fix="Write it anew: ssh-keygen -y -f KEY") from error
    return Key(file.absolute(), line)


def client(address: tuple[str, int], key: Key, words: Sequence[str], *, log: Path, terminal: bool) -> list[str]:
    """The command line of a session or of WORDS: one word is a line for the guest's shell, several are exact."""
    options = [word for option in _OPTIONS for word in ("-o", option)]
    remote = list(words) if len(words) < 2 else [shlex.join(words)]
    return [
        *("ssh", "-F", "none", *options, "-o", "LogLevel=DEBUG1", "-E", str(log), "-i", str(key.file)),
        *(["-t"] if terminal and remote else []),
        *("-p", str(address[1]), "-l", "root", "--", address[0], *remote),
    ]


def session(guest: Running, address: tuple[str, int], key: Key, words: Sequence[str], *, terminal: bool) -> int:
    """Run WORDS in GUEST, or a login shell, on this process's own standard streams; the exit status from there.

    TERMINAL gives a command a terminal of its own; a login shell gets one whenever standard input is one. Raises
    CommandFailed where the connection could not be made or broke.
    """
    fd = os.memfd_create("ssh-log", os.MFD_CLOEXEC)
    try:
        os.fchmod(fd, 0o600)
        argv = client(address, key, words, log=Path(f"/proc/{os.getpid()}/fd/{fd}"), terminal=terminal)
        status = _attended(guest, argv)
        log = os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)
    if status == _OWN_FAILURE and not came_from_guest(log):
        raise _lost(guest, log)
    return status


def _attended(guest: Running, argv: Sequence[str]) -> int:
    """Run ssh to its end while the machine's console keeps flowing."""
    process = command.start(argv, purpose="log in to the machine", stdin=0, stdout=None, stderr=None)
    pidfd = os.pidfd_open(process.pid)
    try:
        guest.watch(pidfd, process.poll)
        guest.wait(lambda: process.returncode is not None)
        # Where the machine ended first, ssh is told so by its closed connection.
        return process.wait(_NOTICES_WITHIN)
    finally:
        guest.unwatch(pidfd)
        os.close(pidfd)
        if process.poll() is None:
            process.terminate()  # on which ssh gives the terminal its settings back
            process.wait()


def came_from_guest(log: bytes) -> bool:
    """Whether ssh's LOG says that the guest's command ended, with a status or by a signal."""
    return bool(_EXIT_STATUS.search(log) or _SIGNALLED.search(log))


def _lost(guest: Running, log: bytes) -> CommandFailed:
    said = [line for line in log.decode(errors="replace").splitlines() if line and not line.startswith(_CHATTER)]
    if any("Permission denied" in line for line in said):
        return CommandFailed(
            "cannot log in to the machine",
            why="its SSH server does not accept the key for root",
            fix="The key is handed over by systemd 252 or later and needs PermitRootLogin not to be `no`. "
            "With another image, put a key into it and name that with --ssh-key.",
        )
    guest.wait(lambda: guest.ended, within=_ENDS_WITHIN)  # a machine on its way down closes its connections first
    why = "the machine ended" if guest.ended else "the connection broke"
    return CommandFailed(
        "the SSH session did not end by itself",
        why="\n  ".join([why + (":" if said else ""), *map(clean, said[-6:])]),
        fix="Run it again with --console to see what the machine says.",
    )
