"""What sign, verify, attest and their like have in common: references, keys, passwords, policies."""

import argparse
import os
import stat
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from keelboot.cli.terminal import Terminal
from keelboot.cli.values import BadValue
from keelboot.failure import Failure, InvalidSettings, MissingTool

if TYPE_CHECKING:
    from keelboot.image.reference import Reference
    from keelboot.trust.decision import Rules
    from keelboot.trust.identity import Asked
    from keelboot.trust.keyfiles import PrivateKey
    from keelboot.trust.policy import Policy, Signed

FORMATS: Final = ("both", "simple", "bundle")
_PASSWORD: Final = "COSIGN_PASSWORD"  # noqa: S105 - the name of a variable
_READ_MAX: Final = 4 << 20


def add_image(parser: argparse.ArgumentParser) -> None:
    """Declare the image that signatures are about."""
    parser.add_argument("image", metavar="REF", help="an image in a registry: HOST/NAME:TAG, HOST/NAME@DIGEST")


def add_trust_options(parser: argparse.ArgumentParser) -> None:
    """Declare the ways to say who is trusted."""
    parser.add_argument(
        "--key", metavar="FILE", type=Path, action="append", default=[], help="public keys; may be repeated"
    )
    parser.add_argument(
        "--threshold", metavar="N", type=int, default=1, help="how many different keys have to sign (default: 1)"
    )
    parser.add_argument(
        "--policy", metavar="FILE", type=Path, help="a trust.json or a containers-policy.json(5) that decides"
    )
    parser.add_argument(
        "--certificate-identity", metavar="NAME", help="without keys: who has to sign, an e-mail address or a URI"
    )
    parser.add_argument("--certificate-oidc-issuer", metavar="URL", help="without keys: who vouches for that name")
    parser.add_argument(
        "--trusted-root", metavar="FILE", type=Path, help="without keys: the trusted_root.json that counts; no network"
    )


def add_type(parser: argparse.ArgumentParser) -> None:
    """Declare the type of an attestation."""
    parser.add_argument(
        "--type",
        metavar="TYPE",
        default="custom",
        help="slsaprovenance1, slsaprovenance, spdxjson, cyclonedx, link, vuln, openvex, custom, or a URI "
        "(default: %(default)s)",
    )


def reference(text: str, what: str) -> "Reference":
    """The image TEXT in a registry; WHAT is to be done with it. Raises Failure for others."""
    from keelboot.image.reference import Reference, Transport

    found = Reference.parse(text)
    if found.transport is Transport.REGISTRY:
        return found
    raise Failure(
        f"cannot {what} {text}",
        why="signatures are kept in registries, beside the image, and this is not in one",
        fix=f"Push it first: `keelboot push {text} docker://HOST/NAME:TAG`, then name docker://HOST/NAME:TAG.",
    )


def private_key(file: Path, terminal: Terminal) -> "PrivateKey":
    """The key in FILE, whose password comes from COSIGN_PASSWORD or is asked for. Raises Failure."""
    from keelboot.trust.keyfiles import read_private_key

    data = read(file, "key")
    asked = False

    def password() -> bytes:
        nonlocal asked
        asked = True
        return _password(file)

    if stat.S_IMODE(file.stat().st_mode) & 0o077 and b"PRIVATE KEY" in data:
        terminal.note(f"{file} is open to other users: chmod 600 {file}")
    try:
        return read_private_key(data, str(file), password)
    except MissingTool:
        raise
    except Failure as error:
        if not asked:
            raise
        raise Failure(
            error.what, why=error.why, fix=f"Check the password; ${_PASSWORD} counts before a prompt."
        ) from error


def new_password(file: Path) -> bytes:
    """The password for a new key: from COSIGN_PASSWORD, or asked for twice. Raises Failure."""
    given = os.environ.get(_PASSWORD)
    if given is not None:
        return given.encode()
    _require_terminal(file)
    first = getpass(f"Password for {file} (empty for none): ")
    if getpass("The same again: ") != first:
        raise Failure("cannot make a key", why="the two passwords differ", fix="Run the same command again.")
    return first.encode()


def read(file: Path, what: str, limit: int = _READ_MAX) -> bytes:
    """The bytes of FILE, which is a WHAT. Raises BadValue."""
    try:
        with file.open("rb") as opened:
            data = opened.read(limit + 1)
    except OSError as error:
        raise BadValue(
            f"cannot read the {what} {file}", why=error.strerror or str(error), fix="Check the path that was given."
        ) from error
    if len(data) > limit:
        raise BadValue(f"cannot use the {what} {file}", why=f"it has more than {limit} bytes", fix="Name another file.")
    return data


def rules(arguments: argparse.Namespace, image: "Asked") -> "Rules":
    """Who is trusted to sign IMAGE, by what was typed; every file of it is read. Raises Failure."""
    keyless = (arguments.certificate_identity, arguments.certificate_oidc_issuer, arguments.trusted_root)
    ways = [bool(arguments.key), arguments.policy is not None, any(one is not None for one in keyless)]
    if sum(ways) != 1:
        raise BadValue(
            "cannot tell who is trusted",
            why="more than one way is given" if sum(ways) else "nothing says whose signatures count",
            fix="Give --key FILE, or --policy FILE, or --certificate-identity, --certificate-oidc-issuer and "
            "--trusted-root together.",
        )
    if arguments.threshold != 1 and not arguments.key:
        raise BadValue("cannot use --threshold", why="it counts keys", fix="Give --key; a policy has its own.")
    if arguments.key:
        return _keys(arguments.key, arguments.threshold, image)
    if arguments.policy is not None:
        return _policy(arguments.policy)
    if any(one is None for one in keyless):
        raise BadValue(
            "cannot verify without a key",
            why="--certificate-identity, --certificate-oidc-issuer and --trusted-root are needed together",
            fix="Give all three: who signs, who vouches for the name, and which authorities and logs count.",
        )
    return _keyless(arguments, image)


def requirements(rules: "Rules", image: "Asked") -> "tuple[Signed, ...]":
    """Those of RULES for IMAGE that say by whom it has to be signed. Raises Failure where there is none."""
    from keelboot.trust.policy import Signed

    ruling = rules.ruling(image)
    found = tuple(one for one in ruling.requirements if isinstance(one, Signed))
    if len(found) != len(ruling.requirements):
        raise Failure(
            f"cannot tell who may attest anything about {image}",
            why=f"the policy names no keys for it ({ruling.where})",
            fix="Name one that does, or give --key.",
        )
    return found


def _password(file: Path) -> bytes:
    given = os.environ.get(_PASSWORD)
    if given is not None:
        return given.encode()
    _require_terminal(file)
    return getpass(f"Password for {file}: ").encode()


def _require_terminal(file: Path) -> None:
    try:
        with open("/dev/tty", "rb"):
            return
    except OSError as error:
        raise Failure(
            f"cannot use {file} without its password",
            why="there is no terminal to ask for it",
            fix=f"Set {_PASSWORD} in the environment; to an empty text where there is none.",
        ) from error


def _keys(files: list[Path], threshold: int, image: "Asked") -> "Policy":
    from dataclasses import replace

    from keelboot.trust.keys import FILE_MAX, read_keys
    from keelboot.trust.policy import Signed, key_policy

    keys = tuple(dict.fromkeys(key for file in files for key in read_keys(read(file, "key", FILE_MAX + 1), str(file))))
    if not 1 <= threshold <= len(keys):
        raise BadValue(
            f"cannot want {threshold} keys to sign",
            why=f"{len(keys)} different ones are given",
            fix="Give more of them with --key, or a smaller --threshold.",
        )
    policy = key_policy(keys, image)
    (scope, ruling), *_ = policy.rules.items()
    wanted = tuple(replace(one, threshold=threshold) for one in ruling.requirements if isinstance(one, Signed))
    return replace(policy, rules={scope: replace(ruling, requirements=wanted)})


def _policy(file: Path) -> "Policy":
    from keelboot.image.refusal import Refused
    from keelboot.image.strictjson import parse
    from keelboot.trust.containerspolicy import read_policy
    from keelboot.trust.trustpolicy import read_trust_policy

    data = read(file, "policy")
    try:
        value = parse(data)
    except Refused as error:
        raise InvalidSettings(
            f"the policy {file} cannot be used",
            why=str(error),
            fix="It has to be a trust.json (docs/formats/trust-policy.md) or a containers-policy.json(5).",
        ) from error
    theirs = isinstance(value, dict) and "default" in value
    return (read_policy if theirs else read_trust_policy)(data, str(file), lambda path: _contents(Path(path)))


def _contents(path: Path) -> bytes:
    with path.open("rb") as opened:
        return opened.read(_READ_MAX)


def _keyless(arguments: argparse.Namespace, image: "Asked") -> "Policy":
    from keelboot.image.refusal import Refused
    from keelboot.trust.identity import MatchRepository
    from keelboot.trust.keyless import KeylessRule
    from keelboot.trust.policy import Policy, Reject, Ruling, Signed, policy_hash
    from keelboot.trust.trustedroot import parse_trusted_root

    data = read(arguments.trusted_root, "trusted root")
    try:
        root = parse_trusted_root(data)
    except Refused as error:
        raise InvalidSettings(
            f"the trusted root {arguments.trusted_root} cannot be used",
            why=str(error),
            fix="Name the trusted_root.json of who runs Sigstore; `cosign trusted-root create` makes one.",
        ) from error
    assert image.named is not None  # it is in a registry
    name, issuer = arguments.certificate_identity, arguments.certificate_oidc_issuer
    # Bound to the repository like a key: a bundle of cosign 3 does not say which one it is for.
    rule = KeylessRule(root, issuer, name, (image.named.repository,))
    source = f"{name} by {issuer} for {image.named.repository}"
    ruling = Ruling(source, (Signed((), MatchRepository(), certificate=rule),))
    hashed = policy_hash(source.encode(), {"root": data})
    return Policy(source, (Reject(),), {(image.transport, image.named.repository): ruling}, hashed)
