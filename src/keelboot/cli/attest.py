"""keelboot attest: say something about an image, signed: how it was built, what is in it."""

import argparse
from pathlib import Path

from keelboot.cli import signatures
from keelboot.cli.terminal import Terminal

SUMMARY = "attach a signed statement to an image: provenance, packages"
EXAMPLES = """\
  keelboot attest registry.example.org/os/web:1 --key cosign.key --type slsaprovenance1 --predicate provenance.json
  keelboot attest registry.example.org/os/web:1 --key cosign.key --type spdxjson --predicate web.spdx.json
  keelboot attest registry.example.org/os/web:1 --key cosign.key --type https://example.org/tested/v1 --predicate t.json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    signatures.add_image(parser)
    parser.add_argument("--key", metavar="FILE", type=Path, required=True, help="the private key")
    parser.add_argument("--predicate", metavar="FILE", type=Path, required=True, help="what to say, in JSON")
    signatures.add_type(parser)
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be stored")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Attest it."""
    from datetime import UTC, datetime

    from keelboot.cli import registries
    from keelboot.failure import Failure
    from keelboot.trust.collecting import OBJECT_MAX
    from keelboot.trust.predicates import predicate_type, read_predicate
    from keelboot.trust.publishing import publish, subject
    from keelboot.trust.signing import attest

    reference = signatures.reference(arguments.image, "attest anything about")
    kind = predicate_type(arguments.type)
    now = datetime.now(UTC)
    predicate = read_predicate(signatures.read(arguments.predicate, "predicate"), str(arguments.predicate), kind, now)
    key = signatures.private_key(arguments.key, terminal)
    through = registries.registries()
    try:
        to = subject(through, reference)
        one = attest(to.descriptor, to.identity, kind, predicate, key=key, now=now)
        if one.blobs[0].descriptor.size > OBJECT_MAX:
            raise Failure(
                f"cannot attest {arguments.predicate}",
                why=f"signed, it has {one.blobs[0].descriptor.size} bytes, and no more than {OBJECT_MAX} are verified",
                fix="Say less in it, or attach it unsigned, as `keelboot sbom --attach` does.",
            )
        if not arguments.dry_run:
            publish(to, one)
    finally:
        through.close()
    told = {
        "image": str(reference),
        "digest": str(to.descriptor.digest),
        "key": key.public.fingerprint,
        "predicateType": kind,
        "manifest": str(one.manifest.descriptor.digest),
        "dryRun": arguments.dry_run,
    }
    if terminal.json_wanted:
        terminal.json(told)
        return 0
    terminal.out(f"{'would attest' if arguments.dry_run else 'attested'} {kind}")
    terminal.out(f"digest   {told['digest']}")
    terminal.out(f"key      {told['key']}")
    terminal.out(f"referrer {told['manifest']}")
    return 0
