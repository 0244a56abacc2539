"""keelboot factory-reset: a fresh /etc and /var at the next boot."""

import argparse
import os
from typing import TYPE_CHECKING

from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.host.factory import Loss

SUMMARY = "start with a fresh /etc and /var at the next boot"
EXAMPLES = """\
  keelboot factory-reset --dry-run
  keelboot factory-reset
  keelboot factory-reset --yes --really
  keelboot factory-reset --cancel
"""
_WARNING = """\
At the next boot this machine loses for good
  - what was changed in /etc, under every version: users, passwords, network settings, services
  - all of /var: home directories, databases, logs, containers
  - its SSH host keys and its machine-id; new ones are made
  - the SSH key that the installation gave to root (in /etc/tmpfiles.d): without another way in you are locked out
The versions themselves, the kernel arguments and the history of failed versions stay."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("-y", "--yes", action="store_true", help="the first confirmation")
    parser.add_argument("--really", action="store_true", help="the second one, where nobody can type the host's name")
    parser.add_argument("--cancel", action="store_true", help="keep everything after all, up to the next boot")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be gone")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Mark the machine, after two confirmations."""
    from keelboot.host import factory, namespace

    namespace.require_root()
    booted = namespace.require_booted()
    with namespace.changing(terminal.progress) as sysroot:
        if arguments.cancel:
            was = factory.cancel(sysroot) if not arguments.dry_run else factory.is_due(sysroot)
            _told(terminal, {"due": False, "was": was}, "Everything stays." if was else "Nothing was to be reset.")
            return 0
        lost = factory.loss(sysroot, booted)
        if arguments.dry_run:
            _list(lost, terminal)
            return 0
        if not _confirmed(arguments, terminal):
            terminal.note("Nothing was changed.")
            return 1
        factory.request(sysroot)
    _told(terminal, {"due": True}, "The next boot starts with a fresh /etc and /var.")
    terminal.note("`systemctl reboot` does it now; `keelboot factory-reset --cancel` takes it back.")
    return 0


def _told(terminal: Terminal, value: dict[str, object], text: str) -> None:
    if terminal.json_wanted:
        terminal.json(value)
    else:
        terminal.out(text)


def _list(lost: "Loss", terminal: Terminal) -> None:
    if terminal.json_wanted:
        told = {"etc": list(map(_printable, lost.etc)), "var": list(map(_printable, lost.var))}
        terminal.json(told | {"deployments": lost.deployments, "dryRun": True})
        return
    for path in lost.etc:
        terminal.out(f"/etc/{_printable(path)}")
    for name in lost.var:
        terminal.out(f"/var/{_printable(name)}")
    terminal.note(_WARNING)


def _confirmed(arguments: argparse.Namespace, terminal: Terminal) -> bool:
    """Whether it was said twice. Raises BadValue where nobody can be asked and it was not."""
    from keelboot.cli.values import BadValue

    if arguments.yes and arguments.really:
        return True
    if not terminal.interactive:
        raise BadValue(
            "cannot reset this machine",
            why="it has to be confirmed twice, and nobody is there to ask",
            fix="`--dry-run` tells what would be gone; `--yes --really` confirms it.",
        )
    terminal.note(_WARNING)
    if not arguments.yes and input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        return False
    host = os.uname().nodename
    return input(f"Type the name of this host ({host}) to confirm: ").strip() == host


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
