"""Signatures by certificate: the chain, the time, the purposes, the names."""

import base64
import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from keelboot.failure import SignatureRefused
from keelboot.image.refusal import Refused
from keelboot.trust.artifact import CERTIFICATE, CHAIN, LOG, SIGNATURE
from keelboot.trust.base64text import encode
from keelboot.trust.certificates import FulcioRule, PkiRule, parse_authorities, signer
from keelboot.trust.collecting import Collected, Simple
from keelboot.trust.decision import decide
from keelboot.trust.identity import MatchRepository
from keelboot.trust.keyfiles import generate
from keelboot.trust.policy import Signed
from keelboot.trust.simplesigning import write_payload
from signed_images import IMAGE, NOW, ask, rules
from unit.trust.certificates import CODE, START, Authority

ISSUER, MAIL = "https://issuer.example.org", "me@example.org"
V1, V2 = (x509.ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{number}") for number in (1, 8))
VOUCHED = ((V1, ISSUER.encode(), False), (V2, b"\x0c" + bytes([len(ISSUER)]) + ISSUER.encode(), False))


@pytest.fixture(scope="module")
def root():
    return Authority()


@pytest.fixture(scope="module")
def middle(root):
    return Authority("middle", root)


def pki(root, *between, email=MAIL, hostname=None):
    return PkiRule((root.der,), tuple(one.der for one in between), email, hostname)


def test_chains(root, middle):
    key, leaf = root.issue(emails=[MAIL])
    assert signer(pki(root), [leaf], NOW) == key.public
    key, leaf = middle.issue(emails=["other@example.org", MAIL])
    assert signer(pki(root), [leaf, middle.der], NOW) == key.public
    assert signer(pki(root, middle), [leaf], NOW) == key.public
    assert signer(pki(root, middle), [leaf, root.der], NOW) == key.public
    assert signer(PkiRule((middle.der,), (), MAIL, None), [leaf], NOW) == key.public
    key, leaf = root.issue(hosts=["Signer.example.org"])
    assert signer(pki(root, email=None, hostname="signer.example.org"), [leaf], NOW) == key.public


@pytest.mark.parametrize("when", [START - timedelta(seconds=1), START + timedelta(days=301)])
def test_outside_its_time(root, when):
    _, leaf = root.issue(emails=[MAIL])
    with pytest.raises(Refused, match="leads to no root"):
        signer(pki(root), [leaf], when)


def test_chains_that_lead_nowhere(root, middle):
    _, leaf = middle.issue(emails=[MAIL])
    stranger, deep = Authority(), Authority("deep", Authority("middle", root, length=0))
    short = Authority("short", root, length=0)
    _, below = Authority("below", short).issue(emails=[MAIL])
    _, deep_leaf = deep.issue(emails=[MAIL])
    # An authority of the same name, and its own root sent along: only configured roots count.
    impostor = Authority("middle", stranger)
    _, forged = impostor.issue(emails=[MAIL])
    no_authority = Authority("plain", root, ca=False)
    _, by_plain = no_authority.issue(emails=[MAIL])
    for chain in (
        [leaf],
        [leaf, stranger.der],
        [forged, impostor.der, stranger.der],
        [forged, middle.der],
        [by_plain, no_authority.der],
        [deep_leaf, deep.der],
        [below, short.der, Authority("below", short).der],
        [],
        [leaf] * 17,
    ):
        with pytest.raises(Refused):
            signer(pki(root), chain, NOW)


def test_an_authority_that_may_have_none_below(root):
    short = Authority("short", root, length=0)
    below = Authority("below", short)
    _, leaf = below.issue(emails=[MAIL])
    with pytest.raises(Refused, match="leads to no root"):
        signer(pki(root), [leaf, below.der, short.der], NOW)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)}, "not for signing code"),
        ({"uses": ("key_agreement",)}, "not for signatures"),
        ({"more": ((x509.ObjectIdentifier("1.2.3.4"), b"x", True),)}, "leads to no root"),
        ({"emails": ["other@example.org"]}, "not for 'me@example.org'"),
        ({"emails": ["me@example.org.evil.example"]}, "not for 'me@example.org'"),
        ({"emails": []}, "for nobody"),
        ({"digest": hashes.SHA224()}, "leads to no root"),
    ],
)
def test_leaves_that_are_refused(root, options, why):
    _, leaf = root.issue(**{"emails": [MAIL], "purposes": (CODE,), **options})
    with pytest.raises(Refused, match=why):
        signer(pki(root), [leaf], NOW)


def test_a_company_may_leave_open_what_its_certificates_are_for(root):
    key, leaf = root.issue(emails=[MAIL], purposes=(), more=VOUCHED)
    assert signer(pki(root), [leaf], NOW) == key.public
    with pytest.raises(Refused, match="not for signing code"):
        signer(FulcioRule((root.der,), ISSUER, MAIL), [leaf], NOW)


def test_hosts_are_whole(root):
    for host in ("example.org", "a.signer.example.org", "*.example.org"):
        _, leaf = root.issue(hosts=[host])
        with pytest.raises(Refused, match=r"not for 'signer\.example\.org'"):
            signer(pki(root, email=None, hostname="signer.example.org"), [leaf], NOW)


@pytest.mark.parametrize(
    ("more", "good"),
    [
        (VOUCHED, True),
        (VOUCHED[:1], True),
        (VOUCHED[1:], True),
        ((), False),
        (((V1, b"https://other.example", False),), False),
        ((VOUCHED[0], (V2, b"\x0c\x01x", False)), False),
        (((V2, ISSUER.encode(), False),), False),
        (((V2, b"\x0c", False),), False),
    ],
)
def test_fulcio(root, more, good):
    key, leaf = root.issue(emails=[MAIL], more=more)
    rule = FulcioRule((root.der,), ISSUER, MAIL)
    if good:
        assert signer(rule, [leaf], NOW) == key.public
    else:
        with pytest.raises(Refused, match=r"vouched|said who signs|cannot be read"):
            signer(rule, [leaf], NOW)


def test_files_of_authorities(root, middle, key):
    assert parse_authorities(root.pem + middle.pem) == [root.der, middle.der]
    for data in (b"", b"x", key.public.pem.encode(), root.pem * 17, root.pem[:-40]):
        with pytest.raises(Refused):
            parse_authorities(data)


def pem(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n"


def logged(log, payload, signature, leaf, *, when=NOW, **changes) -> str:
    """The promise of LOG to have entered a signature."""
    body = {
        "apiVersion": "0.0.1",
        "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": sha256(payload).hexdigest()}},
            "signature": {"content": encode(signature), "publicKey": {"content": encode(pem(leaf).encode())}},
        },
    }
    entry = {
        "body": encode(json.dumps({**body, **changes}).encode()),
        "integratedTime": int(when.timestamp()),
        "logID": sha256(log.public.der).hexdigest(),
        "logIndex": 7,
    }
    promise = log.sign(json.dumps(entry, sort_keys=True, separators=(",", ":")).encode())
    return json.dumps({"SignedEntryTimestamp": encode(promise), "Payload": entry})


def test_a_signature_by_certificate(root, middle):
    """Both kinds, through the whole decision; a Fulcio's certificate is valid when the log says, not now."""
    log = generate()
    key, leaf = middle.issue(emails=[MAIL], more=VOUCHED, days=1)
    payload = write_payload(IMAGE.digest, "example.org/os/web", {})
    signature = key.sign(payload)
    then = START + timedelta(hours=1)
    annotations = {
        SIGNATURE: encode(signature),
        CERTIFICATE: pem(leaf),
        CHAIN: pem(middle.der) + pem(root.der),
        LOG: logged(log, payload, signature, leaf, when=then),
    }
    by_fulcio = FulcioRule((root.der,), ISSUER, MAIL)
    fulcio = rules(Signed((), MatchRepository(), log_keys=(log.public,), certificate=by_fulcio))
    company = rules(Signed((), MatchRepository(), certificate=pki(root)))

    def judged(policy, now=NOW, **changed):
        found = {name: text for name, text in {**annotations, **changed}.items() if text is not None}
        return decide(ask(now=now), policy, Collected((Simple("it", payload, found),)))

    (one,) = judged(fulcio).signatures
    assert (one.signer, one.time) == (f"{MAIL} ({ISSUER})", then)
    assert judged(company, now=then).signatures[0].signer == MAIL
    other_key, other_leaf = middle.issue(emails=[MAIL], more=VOUCHED, days=1)
    other = other_key.sign(payload)
    for policy, changed in (
        (company, {}),  # it has run out
        (fulcio, {LOG: None}),
        (fulcio, {CERTIFICATE: None}),
        (fulcio, {CERTIFICATE: pem(leaf) * 2}),
        (fulcio, {CHAIN: None}),
        (fulcio, {CHAIN: generate().public.pem}),
        (fulcio, {CERTIFICATE: pem(other_leaf)}),
        (fulcio, {SIGNATURE: encode(other)}),
        (fulcio, {SIGNATURE: encode(other), CERTIFICATE: pem(other_leaf)}),
        (fulcio, {LOG: logged(log, payload, other, other_leaf, when=then)}),
        (fulcio, {LOG: logged(log, payload, signature, leaf, when=NOW)}),
        (fulcio, {LOG: logged(log, payload, signature, leaf, when=then, kind="rekord")}),
        (fulcio, {LOG: logged(log, b"other", signature, leaf, when=then)}),
        (fulcio, {LOG: logged(generate(), payload, signature, leaf, when=then)}),
        (fulcio, {LOG: logged(log, payload, signature, leaf, when=datetime(9999, 1, 1, tzinfo=UTC))}),
    ):
        with pytest.raises(SignatureRefused):
            judged(policy, **changed)
