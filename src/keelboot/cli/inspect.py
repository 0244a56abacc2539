"""keelboot inspect: what an image holds, and whether it boots."""

import argparse
from dataclasses import asdict

from keelboot.cli.terminal import Terminal

SUMMARY = "tell what an image holds and whether it boots"
EXAMPLES = """\
  keelboot inspect localhost/web
  keelboot inspect oci-archive:web.tar --json
  keelboot inspect localhost/web --composefs-digest
  keelboot inspect localhost/web --composefs-digest --sha512
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "image",
        metavar="IMAGE",
        help="containers-storage:NAME, oci:DIR, oci-archive:FILE, docker-archive:FILE, docker://NAME",
    )
    parser.add_argument("--composefs-digest", action="store_true", help="print that digest and nothing else")
    parser.add_argument(
        "--sha512", action="store_true", help="the composefs digest in SHA-512, which some sealed images name"
    )


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Read the image and say what it is."""
    from keelboot.assembly.inspection import inspect
    from keelboot.failure import CannotFinish
    from keelboot.image.reference import Reference
    from keelboot.image.transports import open_image

    with open_image(Reference.parse(arguments.image)) as image:
        seen = inspect(image, terminal.progress, algorithm="sha512" if arguments.sha512 else "sha256")
    if arguments.composefs_digest:
        if seen.composefs is None:
            raise CannotFinish(
                f"cannot seal {seen.reference}",
                why="; ".join(seen.reasons),
                fix=f"Make it bootable with `keelboot build --from {seen.reference} -t NAME`.",
            )
        terminal.out(seen.composefs)
        return 0
    if terminal.json_wanted:
        terminal.json(asdict(seen))
        return 0
    rows = [
        ("image", seen.reference),
        ("manifest", seen.manifest_digest),
        ("created", seen.created or "not said"),
        ("system", f"{seen.release.pretty_name or seen.release.id or 'unknown'}, {seen.architecture}"),
        ("kernel", ", ".join(seen.kernels) or "none"),
        ("bootable", "yes" if seen.bootable else "no"),
        *(("", f"- {reason}") for reason in seen.reasons),
        ("composefs", seen.composefs or "none: the image cannot be sealed as it is"),
        (
            "content",
            f"{_size(seen.content_size)} in {seen.files} files, {seen.directories} directories, {seen.symlinks} links",
        ),
        *(
            (f"layer {number}", f"{_size(layer.size):>10}  {layer.digest[:19]}  {layer.media_type.rpartition('.')[2]}")
            for number, layer in enumerate(seen.layers, 1)
        ),
    ]
    for name, value in rows:
        terminal.out(f"{name:<10} {value}")
    if not seen.bootable:
        terminal.note(f"Make it bootable with: keelboot build --from {arguments.image} -t NAME")
    return 0


def _size(count: int) -> str:
    return f"{count / 1_000_000:.1f} MB"
