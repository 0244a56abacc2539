"""keelboot copy: an image from any place to any other."""

import argparse

from keelboot.cli import transfers
from keelboot.cli.terminal import Terminal

SUMMARY = "copy an image from one place to another"
EXAMPLES = """\
  keelboot copy docker://registry.example.org/os/web:1 docker://mirror.example.org/os/web:1 --all --attached
  keelboot copy localhost/web oci-archive:web.tar
  keelboot copy oci-archive:web.tar containers-storage:localhost/web:1
  keelboot copy docker://registry.example.org/os/web:1 oci:web --arch arm64 --limit-rate 2M
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("source", metavar="SRC", help=transfers.SOURCES)
    parser.add_argument("destination", metavar="DST", help=transfers.DESTINATIONS)
    transfers.add_options(parser)
    parser.add_argument(
        "--attached",
        action="store_true",
        help="take along, from registry to registry, what is attached: signatures, provenance",
    )
    parser.add_argument("--force", action="store_true", help="replace an archive that exists")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Copy it."""
    from keelboot.image.reference import Reference

    source, destination = Reference.parse(arguments.source), Reference.parse(arguments.destination)
    return transfers.execute(source, destination, arguments, terminal)
