"""keelboot verify-attestation: what trusted keys say about an image."""

import argparse
from typing import TYPE_CHECKING

from keelboot.cli import signatures
from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.trust.attesting import Attested

SUMMARY = "tell what trusted keys attest about an image"
EXAMPLES = """\
  keelboot verify-attestation registry.example.org/os/web:1 --key cosign.pub --type slsaprovenance1
  keelboot verify-attestation registry.example.org/os/web:1 --key cosign.pub --type spdxjson --json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    signatures.add_image(parser)
    signatures.add_trust_options(parser)
    signatures.add_type(parser)
    parser.epilog = f"--json has the statements' predicates too.\n\n{parser.epilog}"


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Verify them."""
    from datetime import UTC, datetime

    from keelboot.cli import registries
    from keelboot.trust.predicates import predicate_type
    from keelboot.trust.shelf import Circumstances, asked_for, attestations

    reference = signatures.reference(arguments.image, "verify an attestation about")
    kind = predicate_type(arguments.type)
    through = registries.registries()
    try:
        image = asked_for(through, reference)
        wanted = signatures.requirements(signatures.rules(arguments, image), image)
        given = Circumstances(now=datetime.now(UTC))
        found: dict[tuple[str, str], Attested] = {}
        for requirement in wanted:
            digest, those = attestations(through, reference, kind, requirement, given)
            found |= {(one.where, one.fingerprint): one for one in those}
    finally:
        through.close()
    if terminal.json_wanted:
        told = [
            {
                "key": one.fingerprint,
                "where": one.where,
                "predicateType": one.predicate_type,
                "predicate": one.predicate,
            }
            for one in found.values()
        ]
        terminal.json({"image": str(reference), "digest": str(digest), "attestations": told})
        return 0
    terminal.out(f"image     {image}")
    terminal.out(f"digest    {digest}")
    for one in found.values():
        terminal.out()
        terminal.out(f"key       {one.fingerprint}")
        terminal.out(f"type      {ascii(one.predicate_type)[1:-1]}")
        terminal.out(f"at        {one.where}")
    return 0
