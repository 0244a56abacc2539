"""keelboot push: an image into a registry."""

import argparse
from typing import TYPE_CHECKING

from keelboot.cli import transfers
from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.image.reference import Reference

SUMMARY = "send an image to a registry"
EXAMPLES = """\
  keelboot push localhost/web:1 docker://registry.example.org/os/web:1
  keelboot push registry.example.org/os/web:1
  keelboot push oci:web registry.example.org/os/web:1 --all --dry-run
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("image", metavar="IMAGE", help=transfers.SOURCES)
    parser.add_argument(
        "destination",
        metavar="docker://NAME",
        nargs="?",
        help="where to; left out, the image in podman's store goes to where its name says",
    )
    transfers.add_options(parser)


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Send it."""
    source, destination = ends(arguments.image, arguments.destination)
    return transfers.execute(source, destination, arguments, terminal)


def ends(image: str, destination: str | None) -> "tuple[Reference, Reference]":
    """From where to where IMAGE goes. Raises Failure where DESTINATION is no registry, or the name has none."""
    from dataclasses import replace

    from keelboot.failure import Failure
    from keelboot.image.reference import Reference, Transport

    source = Reference.parse(image)
    if destination is not None:
        target = Reference.parse(destination)
        if target.transport is not Transport.REGISTRY:
            raise Failure(
                f"cannot push to {destination}",
                why="it is not in a registry",
                fix=f"Write docker://HOST/NAME, or use `keelboot copy {image} {destination}`.",
            )
        return source, target
    host = source.location.partition("/")[0]
    if source.transport not in (Transport.STORAGE, Transport.REGISTRY) or not ("." in host or ":" in host):
        raise Failure(
            f"cannot push {image}",
            why="its name does not say to which registry",
            fix=f"Say where to: `keelboot push {image} docker://HOST/NAME`.",
        )
    # What is pushed is what was built here, whatever the registry has under this name.
    return replace(source, transport=Transport.STORAGE), replace(source, transport=Transport.REGISTRY)
