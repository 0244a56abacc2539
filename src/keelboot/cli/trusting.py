"""What verbs that bring an image onto a machine have in common about signatures: their options, and what they tell."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keelboot.assembly.verification import Verification
    from keelboot.cli.terminal import Terminal
    from keelboot.host.admission import Terms
    from keelboot.host.install.given import Given
    from keelboot.image.reference import Reference


def add_exceptions(parser: argparse.ArgumentParser) -> None:
    """Declare what lets a machine have what it would refuse; each is recorded and shown."""
    add_unsigned(parser)
    parser.add_argument("--allow-downgrade", action="store_true", help="take it although it is older than what runs")
    parser.add_argument("--allow-leap", action="store_true", help="take it although it is too far ahead of what runs")


def add_unsigned(parser: argparse.ArgumentParser) -> None:
    """Declare the first of them alone."""
    parser.add_argument(
        "--allow-unsigned", action="store_true", help="take an image of a registry that no policy is about"
    )


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Declare how a new machine gets a policy."""
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--key",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="public key that signs what the machine follows, cosign.pub; repeatable",
    )
    given.add_argument(
        "--policy", metavar="FILE", type=Path, help="policy for the machine: a trust.json or a containers' policy.json"
    )


def given(arguments: argparse.Namespace, target: "Reference") -> "Given | None":
    """The policy for a machine that follows TARGET, if there is to be one. Raises Failure."""
    if not arguments.key and arguments.policy is None:
        return None
    from keelboot.host.install import given as policy

    if arguments.policy is not None:
        return policy.from_policy(arguments.policy)
    from keelboot.cli.registries import registries
    from keelboot.image.reference import Transport

    named = target.transport is Transport.REGISTRY
    return policy.from_keys(arguments.key, target, str(registries().name(target)) if named else "")


def terms(
    arguments: argparse.Namespace,
    terminal: "Terminal",
    *,
    strict: bool = False,
    given: "Given | None" = None,
    called: "Reference | None" = None,
) -> "Terms":
    """What was said about signatures. STRICT, GIVEN and CALLED are `Terms`' own."""
    from keelboot.host.admission import Terms

    said = vars(arguments)
    more: dict[str, Any] = {"called": called, "policies": lambda: given.policies} if given else {}
    return Terms(
        lenient=terminal.command == "bootc",
        strict=strict,
        allow_unsigned=said.get("allow_unsigned", False),
        allow_downgrade=said.get("allow_downgrade", False),
        allow_leap=said.get("allow_leap", False),
        **more,
    )


def told(verification: "Verification | None") -> str:
    """Who signed an image, or why nobody had to, in one line; empty where nothing is known."""
    if verification is None:
        return ""
    from keelboot.host import shown, status

    return shown.signed(status.verification(verification) or {})
