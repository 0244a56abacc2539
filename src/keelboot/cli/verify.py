"""keelboot verify: who signed an image, and whether that is enough."""

import argparse
from typing import TYPE_CHECKING

from keelboot.cli import signatures
from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.trust.verified import Counted, VerifiedImage

SUMMARY = "tell who signed an image, and whether that is enough"
EXAMPLES = """\
  keelboot verify registry.example.org/os/web:1 --key cosign.pub
  keelboot verify registry.example.org/os/web:1 --key build.pub --key review.pub --threshold 2
  keelboot verify registry.example.org/os/web:1 --policy /etc/keelboot/trust.json --json
  keelboot verify registry.example.org/os/web:1 --certificate-identity ci@example.org \
--certificate-oidc-issuer https://accounts.example.org --trusted-root trusted_root.json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    signatures.add_image(parser)
    signatures.add_trust_options(parser)
    parser.epilog = (
        "Ends with 0 if the signatures are enough, with 20 if they are not. --json tells what was passed over, too."
        f"\n\n{parser.epilog}"
    )


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Verify it."""
    from datetime import UTC, datetime

    from keelboot.cli import registries
    from keelboot.trust.shelf import Circumstances, asked_for, verified

    reference = signatures.reference(arguments.image, "verify")
    through = registries.registries()
    try:
        trusted = signatures.rules(arguments, asked_for(through, reference))
        image = verified(through, reference, trusted, Circumstances(now=datetime.now(UTC)))
    finally:
        through.close()
    if terminal.json_wanted:
        terminal.json(_told(image))
        return 0
    rows = [("image", image.image), ("digest", str(image.digest)), ("policy", image.policy)]
    if not image.enforced:
        rows.append(("signed", "not needed: the policy wants no signature"))
    for one in image.signatures:
        rows += [("", ""), *_rows(one)]
    for name, value in rows:
        terminal.out(f"{name:<9} {value}".rstrip())
    return 0


def _rows(one: "Counted") -> list[tuple[str, str]]:
    made = f"{one.time:%Y-%m-%d %H:%M:%S} UTC" if one.time else "not said"
    return [
        ("key", f"{one.fingerprint} ({one.signer})"),
        ("name", ascii(one.identity)[1:-1] if one.identity else "none was signed; the key is bound to the repository"),
        ("signed", made),
        ("at", one.where),
        *(("says", f"{ascii(name)[1:-1]}={ascii(value)[1:-1]}") for name, value in sorted(one.annotations.items())),
    ]


def _told(image: "VerifiedImage") -> dict[str, object]:
    return {
        "image": image.image,
        "digest": str(image.digest),
        "policy": image.policy,
        "policyHash": image.policy_hash,
        "enforced": image.enforced,
        "signatures": [
            {
                "key": one.fingerprint,
                "signer": one.signer,
                "name": one.identity,
                "time": one.time.isoformat() if one.time else None,
                "annotations": dict(one.annotations),
                "where": one.where,
            }
            for one in image.signatures
        ],
        "notes": list(image.notes),
    }
