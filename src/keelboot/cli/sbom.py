"""keelboot sbom: the packages of an image, as a document that other tools read."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from keelboot.cli import signatures
from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.image.opened import Image
    from keelboot.registry.opening import Registries
    from keelboot.sbom.contents import Contents

SUMMARY = "list an image's packages, as SPDX or CycloneDX"
EXAMPLES = """\
  keelboot sbom localhost/web:1 -o web.spdx.json
  keelboot sbom registry.example.org/os/web:1 --format cyclonedx
  keelboot sbom registry.example.org/os/web:1 --attach
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "image",
        metavar="IMAGE",
        help="containers-storage:NAME, oci:DIR, oci-archive:FILE, docker-archive:FILE, docker://NAME",
    )
    parser.add_argument(
        "--format", choices=("spdx", "cyclonedx"), default="spdx", help="SPDX 2.3 or CycloneDX 1.5 (default: spdx)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to write it; left out, it is printed")
    parser.add_argument("--attach", action="store_true", help="attach it to the image in its registry, unsigned")
    parser.add_argument("--arch", metavar="ARCH", help="of the image for amd64, arm64, ... (default: this machine's)")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be written and attached")
    parser.epilog = (
        "Read from dpkg's database in the image's layers (Debian, Ubuntu). To have it signed, give the file to "
        f"`keelboot attest --type spdxjson` or `--type cyclonedx`.\n\n{parser.epilog}"
    )


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """List them."""
    from keelboot import durable
    from keelboot.cli import registries
    from keelboot.image.reference import Reference, Transport
    from keelboot.image.transports import open_image
    from keelboot.sbom.contents import read_contents

    reference = signatures.reference(arguments.image, "attach a list of packages to") if arguments.attach else None
    reference = reference or Reference.parse(arguments.image)
    through = registries.registries()
    try:
        there = reference.transport is Transport.REGISTRY
        opened = (through.open if there else open_image)(reference, architecture=arguments.arch)
        with opened as image:
            contents = read_contents(image, terminal.progress)
        data = _document(arguments.format, image, contents)
        attached = _attach(through, image, data, arguments) if arguments.attach else None
    finally:
        through.close()
    if arguments.output and not arguments.dry_run:
        with durable.replacing(arguments.output) as output:
            output.write(data)
    if terminal.json_wanted:
        terminal.json(
            {
                "image": str(reference),
                "digest": str(image.manifest_digest),
                "format": arguments.format,
                "packages": len(contents.packages),
                "output": str(arguments.output) if arguments.output else None,
                "referrer": attached,
                "dryRun": arguments.dry_run,
            }
        )
        return 0
    if not (arguments.output or arguments.attach or arguments.dry_run):
        terminal.out(data.decode().rstrip("\n"))
    else:
        terminal.out(f"{len(contents.packages)} packages in {image.manifest_digest}")
        if arguments.output:
            terminal.out(f"{'would write' if arguments.dry_run else 'wrote'} {arguments.output}")
        if attached:
            terminal.out(f"{'would attach' if arguments.dry_run else 'attached'} referrer {attached}")
    return 0


def _document(form: str, image: "Image", contents: "Contents") -> bytes:
    from keelboot import __version__
    from keelboot.sbom.cyclonedx import write_cyclonedx
    from keelboot.sbom.spdx import write_spdx
    from keelboot.sbom.subject import Subject, second

    subject = Subject(image.reference.name, image.manifest_digest, second(image.config.created), __version__)
    return (write_spdx if form == "spdx" else write_cyclonedx)(contents, subject)


def _attach(through: "Registries", image: "Image", data: bytes, arguments: argparse.Namespace) -> str:
    from keelboot.sbom import cyclonedx, spdx
    from keelboot.trust.publishing import plain_referrer, publish, subject

    to = subject(through, image.reference, image.manifest_digest)
    media_type = (spdx if arguments.format == "spdx" else cyclonedx).MEDIA_TYPE
    one = plain_referrer(to.descriptor, data, media_type, created=image.config.created)
    if not arguments.dry_run:
        publish(to, one)
    return str(one.manifest.descriptor.digest)
