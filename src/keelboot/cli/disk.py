"""keelboot disk: an image becomes a disk file."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from keelboot.cli import trusting
from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keelboot.assembly.verification import Verification
    from keelboot.host.admission import Terms
    from keelboot.image.transports import Image

SUMMARY = "write a disk that boots an image"
EXAMPLES = """\
  keelboot disk localhost/web -o web.img
  keelboot disk localhost/web -o web.qcow2 --format qcow2 --size 20G --ssh-key ~/.ssh/id_ed25519.pub
  keelboot disk oci:./layout -o web.img --karg console=ttyS1
  keelboot disk localhost/web -o web.img --target-imgref registry.example.org/web:1 --key cosign.pub
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "image",
        metavar="IMAGE",
        help="containers-storage:NAME, oci:DIR, oci-archive:FILE, docker-archive:FILE, docker://NAME",
    )
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the disk to write")
    parser.add_argument("--format", choices=("raw", "qcow2"), help="default: by the ending of FILE, else raw")
    parser.add_argument(
        "--size", metavar="SIZE", help="of the whole disk, like 20G; /var gets what is left (default: fits)"
    )
    parser.add_argument(
        "--ssh-key", metavar="FILE", type=Path, action="append", default=[], help="public key that may log in as root"
    )
    parser.add_argument(
        "--karg", metavar="K", action="append", default=[], help="one more kernel argument; may be given more than once"
    )
    parser.add_argument(
        "--target-imgref", metavar="IMAGE", help="what the machine's upgrades follow (default: IMAGE itself)"
    )
    trusting.add_policy(parser)
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Write the disk."""
    from functools import partial

    from keelboot.assembly.disk import DiskOptions, write_disk
    from keelboot.cli.values import kernel_argument, public_keys, size_in_bytes
    from keelboot.failure import NotWritable
    from keelboot.image.reference import Reference

    output: Path = arguments.output
    if output.exists() and not output.is_file():
        raise NotWritable(
            f"cannot write {output}",
            why="it is not a regular file",
            fix="Name a file; putting an image onto a device is what `keelboot install` on that machine will do.",
        )
    if output.exists() and not arguments.force:
        raise NotWritable(
            f"cannot write {output}", why="it exists", fix="Name another file, or add --force to replace it."
        )
    started = time.monotonic()
    target = Reference.parse(arguments.target_imgref) if arguments.target_imgref else None
    given = trusting.given(arguments, target or Reference.parse(arguments.image))
    terms = trusting.terms(arguments, terminal, given=given, called=target)
    options = DiskOptions(
        format=arguments.format or ("qcow2" if output.suffix == ".qcow2" else "raw"),
        size=size_in_bytes(arguments.size) if arguments.size else None,
        ssh_keys=tuple(key for file in arguments.ssh_key for key in public_keys(file)),
        arguments=tuple(kernel_argument(word) for word in arguments.karg),
        target=str(target) if target else None,
        etc=given.files if given else {},
        decide=partial(_decided, terms) if given else None,
    )
    deployment = write_disk(Reference.parse(arguments.image), output, options, terminal.progress)
    status = output.stat()
    if terminal.json_wanted:
        terminal.json(
            {
                "file": str(output),
                "format": options.format,
                "size": status.st_size,
                "allocated": status.st_blocks * 512,
                "composefs": deployment.digest.hex,
                "image": deployment.record.image,
                "manifestDigest": deployment.record.manifest_digest,
                "kernel": deployment.record.kernel,
                "architecture": deployment.record.architecture,
                "seconds": round(time.monotonic() - started, 1),
            }
        )
        return 0
    terminal.out(f"{output}: {status.st_size >> 20} MiB, {status.st_blocks >> 11} MiB of them written")
    terminal.out(f"boots {deployment.entry.title}, Linux {deployment.record.kernel}")
    terminal.out(f"composefs {deployment.digest.hex}")
    terminal.note(f"Boot it with: keelboot run {output}")
    return 0


def _decided(terms: "Terms", image: "Image") -> "tuple[Verification, Mapping[str, bytes]]":
    """What the policy that the machine gets says about IMAGE. Raises SignatureRefused."""
    from keelboot.host import admission

    admitted = admission.admit(image, terms)
    return admitted.verification, admitted.evidence
