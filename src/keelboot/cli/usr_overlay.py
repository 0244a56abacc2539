"""keelboot usr-overlay: a writable /usr until the next boot."""

import argparse
from pathlib import Path

from keelboot.cli.terminal import Terminal

SUMMARY = "make /usr writable until the next boot"
EXAMPLES = """\
  keelboot usr-overlay
  keelboot usr-overlay --read-only
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--read-only", action="store_true", help="mount it read-only, for who remounts it in a namespace of their own"
    )
    parser.add_argument("--dry-run", action="store_true", help="only tell whether there is one")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Mount the overlay, or tell that there is one."""
    from keelboot.host import namespace, usr

    if not arguments.dry_run:
        namespace.require_root()
    namespace.require_booted()
    before = usr.mounted(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
    if before is None and not arguments.dry_run:
        usr.overlay(read_only=arguments.read_only)
    mode = before or ("readOnly" if arguments.read_only else "readWrite")
    if terminal.json_wanted:
        terminal.json({"accessMode": mode, "wasThere": before is not None, "dryRun": arguments.dry_run})
        return 0
    kind = "writable" if mode == "readWrite" else "read-only"
    if before:
        terminal.out(f"A {kind} overlay is mounted on /usr already.")
    elif arguments.dry_run:
        terminal.out(f"Would mount a {kind} overlay on /usr.")
    else:
        terminal.out(f"A {kind} overlay is now mounted on /usr.")
        terminal.note("What is changed there is gone at the next boot.")
    return 0
