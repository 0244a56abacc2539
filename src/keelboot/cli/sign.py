"""keelboot sign: signatures of an image, stored beside it in its registry."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from keelboot.cli import signatures
from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.registry.referrers import Artifact
    from keelboot.trust.keyfiles import PrivateKey
    from keelboot.trust.publishing import Subject
    from keelboot.trust.signing import ToStore

SUMMARY = "sign an image in a registry"
EXAMPLES = """\
  keelboot sign registry.example.org/os/web:1 --key cosign.key
  keelboot sign registry.example.org/os/web:1 --key cosign.key --annotation version=42 --annotation stream=stable
  keelboot sign registry.example.org/os/web:1 --key cosign.key --format simple --dry-run
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    signatures.add_image(parser)
    parser.add_argument("--key", metavar="FILE", type=Path, required=True, help="the private key")
    parser.add_argument(
        "-a", "--annotation", metavar="NAME=VALUE", action="append", default=[], help="signed too; may be repeated"
    )
    parser.add_argument(
        "--format",
        choices=signatures.FORMATS,
        default="both",
        help="simple: cosign 2, podman, skopeo; bundle: cosign 3 (default: both)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be signed and stored")
    parser.epilog = (
        "The tag is resolved once, at the registry; the digest is signed, with the name as typed. The key's password "
        f"is asked for, or comes from COSIGN_PASSWORD.\n\n{parser.epilog}"
    )


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Sign it."""
    from keelboot.cli import registries
    from keelboot.trust.publishing import subject

    reference = signatures.reference(arguments.image, "sign")
    said = annotations(arguments.annotation)
    key = signatures.private_key(arguments.key, terminal)
    through = registries.registries()
    try:
        to = subject(through, reference)
        told = sign(to, key, said, arguments.format, dry_run=arguments.dry_run)
    finally:
        through.close()
    report(told, terminal)
    return 0


def annotations(words: list[str]) -> dict[str, str]:
    """The annotations that WORDS, NAME=VALUE each, are. Raises BadValue."""
    from keelboot.cli.values import BadValue

    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or name in found:
            raise BadValue(
                f"cannot use the annotation {word!a}",
                why="it is given twice" if name in found else "it is not NAME=VALUE",
                fix="Write it like --annotation version=42.",
            )
        found[name] = value
    return found


def sign(to: "Subject", key: "PrivateKey", said: dict[str, str], form: str, *, dry_run: bool) -> dict[str, object]:
    """Sign what TO is with KEY in the format FORM, and store that; what came of it, as --json prints it."""
    from datetime import UTC, datetime

    from keelboot.trust.publishing import publish, publish_tagged
    from keelboot.trust.signing import sign_bundle, sign_simple

    now = datetime.now(UTC)

    def simple(before: "Artifact | None" = None) -> "ToStore":
        return sign_simple(to.descriptor, to.identity, key, said, now=now, before=before)

    stored: list[dict[str, object]] = []
    if form != "bundle":
        one = simple() if dry_run else publish_tagged(to, simple)
        stored.append({"format": "simple", "tag": one.tag, "manifest": str(one.manifest.descriptor.digest)})
    if form != "simple":
        one = sign_bundle(to.descriptor, to.identity, key, said, now=now)
        if not dry_run:
            publish(to, one)
        stored.append({"format": "bundle", "tag": None, "manifest": str(one.manifest.descriptor.digest)})
    return {
        "image": str(to.reference),
        "digest": str(to.descriptor.digest),
        "name": str(to.identity),
        "key": key.public.fingerprint,
        "annotations": said,
        "signatures": stored,
        "dryRun": dry_run,
    }


def report(told: dict[str, object], terminal: Terminal) -> None:
    """Print what `sign` returned."""
    if terminal.json_wanted:
        terminal.json(told)
        return
    terminal.out(f"{'would sign' if told['dryRun'] else 'signed'}  {told['name']}")
    terminal.out(f"digest  {told['digest']}")
    terminal.out(f"key     {told['key']}")
    signatures = told["signatures"]
    assert isinstance(signatures, list)
    for one in signatures:
        where = f"tag {one['tag']}" if one["tag"] else f"referrer {one['manifest']}"
        terminal.out(f"{one['format']:<7} {where}")
