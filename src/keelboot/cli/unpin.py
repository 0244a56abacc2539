"""keelboot unpin: a pinned version goes when newer ones have proved themselves, like any other."""

import argparse

from keelboot.cli.pin import add_version, mark
from keelboot.cli.terminal import Terminal

SUMMARY = "keep a pinned version no longer than any other"
EXAMPLES = """\
  keelboot unpin
  keelboot unpin 3f9a0c
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add_version(parser)


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Unpin it."""
    code = mark(arguments, terminal, pinned=False)
    terminal.note("`keelboot gc` removes it if nothing else keeps it.")
    return code
