"""sigstore-conformance's bundles: those whose name ends in _fail are refused, the others accepted."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from keelboot.image.digest import Digest
from keelboot.image.refusal import Refused
from keelboot.trust.bundle import parse_bundle
from keelboot.trust.keyless import KeylessRule, bundle_time, check_by_library, keyless_signer
from keelboot.trust.keys import parse_keys
from keelboot.trust.statement import parse_attestation
from keelboot.trust.trustedroot import parse_trusted_root
from signature_vectors import VECTORS, needs_vectors

pytestmark = needs_vectors
FOLDER = VECTORS / "sigstore-conformance"
CASES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir()) if FOLDER.exists() else []
BEACON = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon"
IDENTITY = f"{BEACON}/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main"
ISSUER = "https://token.actions.githubusercontent.com"


def text(case: Path, name: str, otherwise: str) -> str:
    file = case / name
    return file.read_text().strip() if file.exists() else otherwise


def verify(case: Path, *, identity: str | None = None, issuer: str | None = None) -> None:
    """What CASE wants to be verified. Raises Refused."""
    file = case / "artifact" if (case / "artifact").exists() else FOLDER / "a.txt"
    content, data = file.read_bytes(), (case / "bundle.sigstore.json").read_bytes()
    bundle = parse_bundle(data)
    if (case / "key.pub").exists():
        (key,) = parse_keys((case / "key.pub").read_bytes())
        if bundle.file_signature is None or not key.verifies(bundle.file_signature, content):
            raise Refused("it is not by the key")
        return
    root = case / "trusted_root.json"
    rule = KeylessRule(
        parse_trusted_root((root if root.exists() else FOLDER / "production_trusted_root.json").read_bytes()),
        issuer or text(case, "issuer", ISSUER),
        identity or text(case, "identity", IDENTITY),
    )
    when = bundle_time(rule, data, bundle, None if bundle.envelope else content)
    key = keyless_signer(rule, bundle.certificates, when)
    signed, signature = content, bundle.file_signature or b""
    if bundle.envelope is not None:
        signed, signature = bundle.envelope.signed, bundle.envelope.signature
        parse_attestation(bundle.envelope.payload, Digest("sha256", sha256(content).hexdigest()))
    if not key.verifies(signature, signed):
        raise Refused("it is not by the key of its certificate")


@pytest.fixture(autouse=True)
def _library():
    pytest.importorskip("sigstore", reason="the library sigstore is not installed")


def test_all_cases_are_here():
    assert len(CASES) == 25


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    if case.endswith("_fail"):
        with pytest.raises(Refused):
            verify(FOLDER / case)
    else:
        verify(FOLDER / case)


@pytest.mark.parametrize("case", ["happy-path-v0.1", "happy-path-v0.3", "happy-path-intoto-in-dsse-v3"])
def test_the_library_is_of_the_same_opinion(case):
    """Where keelboot does not need it."""
    data = (FOLDER / case / "bundle.sigstore.json").read_bytes()
    bundle, content = parse_bundle(data), (FOLDER / "a.txt").read_bytes()
    rule = KeylessRule(parse_trusted_root((FOLDER / "production_trusted_root.json").read_bytes()), ISSUER, IDENTITY)
    file = None if bundle.envelope else content
    check_by_library(rule, data, bundle, bundle_time(rule, data, bundle, file), file)


@pytest.mark.parametrize("case", ["happy-path-v0.1", "happy-path-v0.3", "happy-path-intoto-in-dsse-v3"])
def test_names_are_whole(case):
    for identity in (IDENTITY[:-1], IDENTITY + "x", IDENTITY.upper(), BEACON, ".*"):
        with pytest.raises(Refused):
            verify(FOLDER / case, identity=identity)
    for issuer in (ISSUER + "/", "https://token.actions", "https://accounts.google.com"):
        with pytest.raises(Refused, match="vouched for who signed"):
            verify(FOLDER / case, issuer=issuer)


def test_what_did_not_count_then_does_not_count():
    """The authority and the logs have to have been in use when it was signed."""
    data = (FOLDER / "happy-path-v0.3/bundle.sigstore.json").read_bytes()
    document = json.loads((FOLDER / "production_trusted_root.json").read_bytes())
    content, bundle = (FOLDER / "a.txt").read_bytes(), parse_bundle(data)
    for part in ("certificateAuthorities", "tlogs", "ctlogs"):
        for window in (
            {"start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z"},
            {"start": "2039-01-01T00:00:00Z"},
        ):
            changed = json.loads(json.dumps(document))
            for item in changed[part]:
                (item if part == "certificateAuthorities" else item["publicKey"])["validFor"] = window
            rule = KeylessRule(parse_trusted_root(json.dumps(changed).encode()), ISSUER, IDENTITY)
            with pytest.raises(Refused):
                keyless_signer(rule, bundle.certificates, bundle_time(rule, data, bundle, content))
