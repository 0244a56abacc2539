"""keelboot push: an image into a registry."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from keelboot.cli import transfers
from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keelboot.image.reference import Reference
    from keelboot.registry.opening import Registries
    from keelboot.transfer.copying import Copied

SUMMARY = "send an image to a registry"
EXAMPLES = """\
  keelboot push localhost/web:1 docker://registry.example.org/os/web:1
  keelboot push registry.example.org/os/web:1
  keelboot push oci:web registry.example.org/os/web:1 --all --dry-run
  keelboot push registry.example.org/os/web:1 --sign cosign.key --annotation version=42
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
    parser.add_argument("--sign", metavar="KEY", type=Path, help="sign what was pushed, as `keelboot sign` does")
    parser.add_argument(
        "-a", "--annotation", metavar="NAME=VALUE", action="append", default=[], help="signed too; may be repeated"
    )


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Send it."""
    source, destination = ends(arguments.image, arguments.destination)
    return transfers.execute(source, destination, arguments, terminal, signing(destination, arguments, terminal))


def signing(
    destination: "Reference", arguments: argparse.Namespace, terminal: Terminal
) -> "Callable[[Registries, Copied], Mapping[str, object]] | None":
    """What signs the image that was copied to DESTINATION, if that is wanted; its key is read first. Raises Failure."""
    from keelboot.cli import sign, signatures
    from keelboot.cli.values import BadValue

    if arguments.sign is None:
        if arguments.annotation:
            raise BadValue("cannot use --annotation", why="annotations are signed", fix="Give --sign KEY, too.")
        return None
    said = sign.annotations(arguments.annotation)
    key = signatures.private_key(arguments.sign, terminal)

    def act(through: "Registries", copied: "Copied") -> "Mapping[str, object]":
        from keelboot.trust.publishing import subject

        # By digest: the tag may be another's by now.
        return sign.sign(subject(through, destination, copied.digest), key, said, "both", dry_run=False)

    return act


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
