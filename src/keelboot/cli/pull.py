"""keelboot pull: an image from a registry, into podman's store or elsewhere."""

import argparse
from typing import TYPE_CHECKING

from keelboot.cli import transfers
from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.image.reference import Reference

SUMMARY = "fetch an image, into podman's store or a place of its own"
EXAMPLES = """\
  keelboot pull registry.example.org/os/web:1
  keelboot pull registry.example.org/os/web:1 oci:web
  keelboot pull docker://debian:trixie containers-storage:localhost/debian:trixie
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("image", metavar="IMAGE", help=transfers.SOURCES)
    parser.add_argument(
        "destination",
        metavar="DST",
        nargs="?",
        help=f"{transfers.DESTINATIONS}; left out, podman's store gets it under its own name",
    )
    transfers.add_options(parser)
    parser.add_argument("--force", action="store_true", help="replace an archive that exists")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Fetch it."""
    source, destination = ends(arguments.image, arguments.destination)
    return transfers.execute(source, destination, arguments, terminal)


def ends(image: str, destination: str | None) -> "tuple[Reference, Reference]":
    """From where to where IMAGE goes. Raises Failure where nothing says where to."""
    from dataclasses import replace

    from keelboot.failure import Failure
    from keelboot.image.reference import Reference, Transport

    source = Reference.parse(image)
    if source.transport is Transport.STORAGE and "containers-storage:" not in image:
        # Without a host it is what podman would pull: the name of an image at docker.io, or an alias.
        source = replace(source, transport=Transport.REGISTRY)
    if destination is not None:
        return source, Reference.parse(destination)
    if source.transport is not Transport.REGISTRY or (source.digest is not None and source.tag is None):
        raise Failure(
            f"cannot pull {image}",
            why="it has no name with a tag that podman's store could have it under",
            fix=f"Say where to: `keelboot pull {image} oci:DIR`, or containers-storage:NAME:TAG.",
        )
    return source, replace(source, transport=Transport.STORAGE, digest=None)
