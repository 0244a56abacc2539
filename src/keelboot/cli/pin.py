"""keelboot pin: a version stays until it is unpinned, however many follow it."""

import argparse
from typing import TYPE_CHECKING

from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.assembly.record import Record
    from keelboot.image.tree import ObjectId

SUMMARY = "keep a version until it is unpinned"
EXAMPLES = """\
  keelboot pin
  keelboot pin rollback
  keelboot pin 3f9a0c
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add_version(parser)


def add_version(parser: argparse.ArgumentParser) -> None:
    """Declare what pin and unpin share."""
    parser.add_argument(
        "version",
        metavar="VERSION",
        nargs="?",
        default="booted",
        help="booted (the default), rollback, staged, or how its composefs digest begins, as `status` shows it",
    )
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Pin it."""
    return mark(arguments, terminal, pinned=True)


def mark(arguments: argparse.Namespace, terminal: Terminal, *, pinned: bool) -> int:
    """Set the mark of a version, and tell."""
    from dataclasses import replace

    from keelboot.cli.upgrade import publish
    from keelboot.host import kept, namespace, records, retention

    namespace.require_root()
    booted = namespace.require_booted()
    with namespace.changing(terminal.progress) as sysroot:
        held = kept.held(sysroot)
        staged, target = retention.staged(held, booted), retention.rollback_target(held, booted)
        words = {
            "booted": booted,
            "staged": staged.digest if staged else None,
            "rollback": target.digest if target else None,
        }
        record = chosen(arguments.version, words, records.deployments(sysroot))
        if record.pinned != pinned and not arguments.dry_run:
            records.write(sysroot, replace(record, pinned=pinned))
            publish(sysroot)
    if terminal.json_wanted:
        terminal.json({"composefs": record.digest.hex, "pinned": pinned, "changed": record.pinned != pinned})
        return 0
    what = ("pinned" if pinned else "unpinned") if record.pinned != pinned else "unchanged"
    would = "would be " if arguments.dry_run else ""
    terminal.out(f"{would}{what}: {record.image} {record.image_version}".rstrip() + f" ({record.digest.hex[:12]})")
    return 0


def chosen(text: str, words: "dict[str, ObjectId | None]", known: "list[Record]") -> "Record":
    """The deployment of KNOWN that TEXT means: one of WORDS, or the start of its digest. Raises ImageNotFound."""
    from keelboot.failure import ImageNotFound

    if text in words:
        found = [record for record in known if record.digest == words[text]]
    else:
        found = [record for record in known if len(text) >= 4 and record.digest.hex.startswith(text.lower())]
    if len(found) == 1:
        return found[0]
    raise ImageNotFound(
        f"cannot tell which version {text!a} is",
        why="several have a digest that begins so" if found else "no version on this machine is called so",
        fix="`keelboot status` lists them; name the start of the composefs digest, or booted, rollback or staged.",
    )
