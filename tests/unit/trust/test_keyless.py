"""Signatures without keys, by a Sigstore of our own: its authority, its log of certificates, its log of signatures."""

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from cryptography import x509

from keelboot.failure import MissingTool, SignatureRefused
from keelboot.image.refusal import Refused
from keelboot.trust.artifact import CERTIFICATE, LOG, SIGNATURE
from keelboot.trust.base64text import encode
from keelboot.trust.bundle import parse_bundle
from keelboot.trust.collecting import Bundled, Collected, Simple
from keelboot.trust.decision import decide
from keelboot.trust.identity import MatchRepository
from keelboot.trust.keyfiles import PrivateKey, generate
from keelboot.trust.keyless import KeylessRule, bundle_time
from keelboot.trust.logproof import Proof, check_proof
from keelboot.trust.policy import Signed
from keelboot.trust.simplesigning import write_payload
from keelboot.trust.statement import PAYLOAD_TYPE, write_signature
from keelboot.trust.trustedroot import parse_trusted_root
from signed_images import IMAGE, ask, rules
from unit.trust.certificates import START, Authority

ISSUER, IDENTITY = "https://issuer.example.org", "https://git.example.org/os/web/.workflow@refs/heads/main"
THEN = START + timedelta(minutes=3)
TIMESTAMPS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
VOUCHED = (x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), ISSUER.encode(), False)


def pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n"


def compact(value) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


@dataclass
class Sigstore:
    """What gives certificates and keeps logs."""

    authority: Authority = field(default_factory=Authority)
    log: PrivateKey = field(default_factory=generate)
    certificates: PrivateKey = field(default_factory=generate)

    def trusted_root(self, **windows) -> bytes:
        def window(part):
            return windows.get(part, {"start": "2026-01-01T00:00:00Z"})

        def log(key, part):
            return {
                "baseUrl": "https://log.example.org",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {"rawBytes": encode(key.public.der), "keyDetails": "x", "validFor": window(part)},
                "logId": {"keyId": encode(sha256(key.public.der).digest())},
            }

        chain = {"certificates": [{"rawBytes": encode(self.authority.der)}]}
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self.log, "tlogs")],
                "certificateAuthorities": [{"certChain": chain, "validFor": window("authorities")}],
                "ctlogs": [log(self.certificates, "ctlogs")],
                "timestampAuthorities": [],
            }
        ).encode()

    def issue(self, *, more=(VOUCHED,), entered_by=None, entered=THEN, uris=(IDENTITY,)) -> tuple[PrivateKey, bytes]:
        """A signer's key and certificate for ten minutes, which a log of certificates entered."""
        log = entered_by or self.certificates
        number = x509.random_serial_number()
        key, before = self.authority.issue(more=more, uris=uris, days=0, minutes=10, number=number)
        body = x509.load_der_x509_certificate(before).tbs_certificate_bytes
        issuer = sha256(x509_key(self.authority)).digest()
        when = int(entered.timestamp() * 1000).to_bytes(8, "big")
        signed = b"\0\0" + when + b"\0\1" + issuer + len(body).to_bytes(3, "big") + body + b"\0\0"
        signature = log.sign(signed)
        name = sha256(log.public.der).digest()
        one = b"\0" + name + when + b"\0\0" + b"\4\3" + len(signature).to_bytes(2, "big") + signature
        listed = len(one).to_bytes(2, "big") + one
        listed = len(listed).to_bytes(2, "big") + listed
        raw = b"\4" + (bytes([len(listed)]) if len(listed) < 128 else b"\x81" + bytes([len(listed)])) + listed
        _, after = self.authority.issue(
            more=(*more, (TIMESTAMPS, raw, False)), uris=uris, days=0, minutes=10, number=number, key=key.der
        )
        return key, after

    def enter(self, kind, spec, version="0.0.1", *, when=THEN, others=()) -> dict:
        """An entry of the log of signatures, with promise and proof."""
        body = compact({"apiVersion": version, "kind": kind, "spec": spec})
        name = sha256(self.log.public.der)
        entry = {
            "body": encode(body),
            "integratedTime": int(when.timestamp()),
            "logID": name.hexdigest(),
            "logIndex": 7,
        }
        leaves = [*others, body]
        root, hashes = tree(leaves), way(leaves, len(leaves) - 1)
        note = f"log.example.org - 1\n{len(leaves)}\n{encode(root)}\n"
        signature = encode(name.digest()[:4] + self.log.sign(note.encode()))
        return {
            "logIndex": "7",
            "logId": {"keyId": encode(name.digest())},
            "kindVersion": {"kind": kind, "version": version},
            "integratedTime": str(entry["integratedTime"]),
            "inclusionPromise": {"signedEntryTimestamp": encode(self.log.sign(compact(entry)))},
            "inclusionProof": {
                "logIndex": str(len(leaves) - 1),
                "rootHash": encode(root),
                "treeSize": str(len(leaves)),
                "hashes": [encode(one) for one in hashes],
                "checkpoint": {
                    "envelope": f"{note}\n\u2014 witness.example.org AAAA\n\u2014 log.example.org {signature}\n"
                },
            },
            "canonicalizedBody": encode(body),
        }


def x509_key(authority: Authority) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    return authority.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def tree(leaves) -> bytes:
    """The root of a Merkle tree, by the definition (RFC 9162, 2.1.1)."""
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + tree(leaves[:split]) + tree(leaves[split:])).digest()


def way(leaves, index) -> list[bytes]:
    """What lies beside the way from a leaf to the root (2.1.3.1)."""
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*way(leaves[:split], index), tree(leaves[split:])]
    return [*way(leaves[split:], index - split), tree(leaves[:split])]


@pytest.fixture(scope="module")
def sigstore():
    return Sigstore()


def rule(sigstore, *, issuer=ISSUER, identity=IDENTITY, repositories=("example.org/os/web",), **windows) -> Signed:
    root = parse_trusted_root(sigstore.trusted_root(**windows))
    return Signed((), MatchRepository(), certificate=KeylessRule(root, issuer, identity, repositories))


def simple(sigstore, key, leaf, *, when=THEN) -> Collected:
    """As cosign 2 stores it."""
    payload = write_payload(IMAGE.digest, "example.org/os/web", {})
    signature = key.sign(payload)
    spec = {
        "data": {"hash": {"algorithm": "sha256", "value": sha256(payload).hexdigest()}},
        "signature": {"content": encode(signature), "publicKey": {"content": encode(pem(leaf))}},
    }
    entry = sigstore.enter("hashedrekord", spec, when=when)
    log = {
        "SignedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
        "Payload": {
            "body": entry["canonicalizedBody"],
            "integratedTime": int(entry["integratedTime"]),
            "logIndex": 7,
            "logID": base64.b64decode(entry["logId"]["keyId"]).hex(),
        },
    }
    annotations = {SIGNATURE: encode(signature), CERTIFICATE: pem(leaf).decode(), LOG: json.dumps(log)}
    return Collected((Simple("it", payload, annotations),))


def bundled(sigstore, key, leaf, *, when=THEN, change=lambda _: None) -> Collected:
    """As cosign 3 stores it."""
    payload = write_signature(IMAGE.digest, {})
    signature = key.sign(b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload))
    spec = {
        "envelopeHash": {"algorithm": "sha256", "value": "0" * 64},
        "payloadHash": {"algorithm": "sha256", "value": sha256(payload).hexdigest()},
        "signatures": [{"signature": encode(signature), "verifier": encode(pem(leaf))}],
    }
    document = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "certificate": {"rawBytes": encode(leaf)},
            "tlogEntries": [sigstore.enter("dsse", spec, when=when, others=(b"one", b"two"))],
        },
        "dsseEnvelope": {
            "payload": encode(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": encode(signature)}],
        },
    }
    change(document)
    return Collected(bundles=(Bundled("it", json.dumps(document).encode()),))


@pytest.mark.parametrize("make", [simple, bundled])
def test_signed_without_a_key(make, sigstore):
    key, leaf = sigstore.issue()
    (one,) = decide(ask(), rules(rule(sigstore)), make(sigstore, key, leaf)).signatures
    assert (one.signer, one.time, one.fingerprint) == (f"{IDENTITY} ({ISSUER})", THEN, key.public.fingerprint)


def refused(requirement, collected) -> str:
    with pytest.raises(SignatureRefused) as refusal:
        decide(ask(), rules(requirement), collected)
    return refusal.value.reasons[0]


@pytest.mark.parametrize("make", [simple, bundled])
def test_who_signed_and_when(make, sigstore):
    key, leaf = sigstore.issue()
    collected = make(sigstore, key, leaf)
    assert "is for" in refused(rule(sigstore, identity=IDENTITY[:-1]), collected)
    assert "vouched for" in refused(rule(sigstore, issuer=f"{ISSUER}/"), collected)
    assert "other repositories" in refused(rule(sigstore, repositories=("example.org/os/other",)), collected)
    past = {"start": "2025-01-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"}
    assert "no root" in refused(rule(sigstore, authorities=past), collected)
    assert "log that the policy does not know" in refused(rule(sigstore, tlogs=past), collected)
    assert "no timestamp by a log" in refused(rule(sigstore, ctlogs=past), collected)
    for late in (THEN + timedelta(minutes=8), THEN - timedelta(minutes=4)):
        assert "no root" in refused(rule(sigstore), make(sigstore, key, leaf, when=late))
    other, _ = sigstore.issue()
    assert "key of its certificate" in refused(rule(sigstore), make(sigstore, other, leaf))
    stranger = Sigstore()
    assert "does not know" in refused(rule(sigstore), make(stranger, *stranger.issue()))
    mixed = Sigstore(log=sigstore.log, certificates=sigstore.certificates)
    assert "no root" in refused(rule(sigstore), make(sigstore, *mixed.issue()))


@pytest.mark.parametrize("make", [simple, bundled])
def test_certificates_that_no_log_entered(make, sigstore):
    key, leaf = sigstore.issue(entered_by=generate())
    assert "no timestamp by a log" in refused(rule(sigstore), make(sigstore, key, leaf))
    key, leaf = sigstore.issue(entered=datetime(2025, 12, 1, tzinfo=UTC))
    assert "no timestamp by a log" in refused(rule(sigstore), make(sigstore, key, leaf))
    key, leaf = sigstore.authority.issue(more=(VOUCHED,), uris=(IDENTITY,), days=0, minutes=10)
    assert "no public log" in refused(rule(sigstore), make(sigstore, key, leaf))


def test_a_bundle_that_names_no_repository(sigstore):
    collected = bundled(sigstore, *sigstore.issue())
    assert "not bound to one" in refused(rule(sigstore, repositories=None), collected)


def entry_of(document):
    return document["verificationMaterial"]["tlogEntries"][0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda entry: entry.pop("inclusionProof"), "no proof"),
        (lambda entry: entry.pop("inclusionPromise"), "no log says when"),
        (lambda entry: entry["inclusionProof"].update(logIndex="1"), "does not lead to"),
        (lambda entry: entry["inclusionProof"].update(treeSize="4"), "does not lead to"),
        (lambda entry: entry["inclusionProof"].update(logIndex="3"), "does not lead to"),
        (lambda entry: entry["inclusionProof"]["hashes"].pop(), "does not lead to"),
        (lambda entry: entry["inclusionProof"]["hashes"].append("YQ=="), "does not lead to"),
        (lambda entry: entry["inclusionProof"].update(hashes=["YQ=="] * 65), "65 hashes"),
        (lambda entry: entry["inclusionProof"].update(rootHash="YQ=="), "does not lead to"),
        (lambda entry: entry["kindVersion"].update(version="9"), None),
        (lambda entry: entry.update(integratedTime="1"), "does not know"),
        (lambda entry: entry.update(canonicalizedBody=encode(b"{}")), "not signed by the log"),
        (lambda entry: noted(entry, "\n3\n", "\n4\n"), "another tree"),
        (lambda entry: noted(entry, "log.example.org - 1\n", ""), "not complete"),
        (lambda entry: noted(entry, "log.example.org - 1\n", "x\n"), "not signed by the log"),
        (lambda entry: noted(entry, "\n\n", "\nmore\n\n"), "not signed by the log"),
        (lambda entry: noted(entry, "\n\n", "\n"), "not complete"),
        (lambda entry: noted(entry, "\u2014 log", "- log"), "no signature"),
        (lambda entry: noted(entry, "AAAA\n", "AAAA\n" + "\u2014 x AAAA\n" * 20), "22 signatures"),
    ],
)
def test_entries_of_the_log(change, why, sigstore):
    collected = bundled(sigstore, *sigstore.issue(), change=lambda document: change(entry_of(document)))
    if why is None:  # what it says of its kind is a hint: the entry itself was signed
        assert decide(ask(), rules(rule(sigstore)), collected)
    else:
        assert why in refused(rule(sigstore), collected)


def noted(entry, old, new):
    checkpoint = entry["inclusionProof"]["checkpoint"]
    assert old in checkpoint["envelope"]
    checkpoint["envelope"] = checkpoint["envelope"].replace(old, new, 1)


def test_more_than_one_entry(sigstore):
    def twice(document):
        document["verificationMaterial"]["tlogEntries"] *= 2

    assert "2 log entries" in refused(rule(sigstore), bundled(sigstore, *sigstore.issue(), change=twice))


def test_proofs_of_all_places_in_all_small_trees(sigstore):
    key, name = sigstore.log.public, sha256(sigstore.log.public.der).digest()
    for size in range(1, 18):
        leaves = [bytes([number]) for number in range(size)]
        root = tree(leaves)
        note = f"log\n{size}\n{encode(root)}\n"
        checkpoint = f"{note}\n\u2014 log {encode(name[:4] + sigstore.log.sign(note.encode()))}\n"
        for index in range(size):
            proof = Proof(index, size, root, tuple(way(leaves, index)), checkpoint)
            check_proof(proof, leaves[index], name, key)
            with pytest.raises(Refused):
                check_proof(proof, b"other", name, key)
            for wrong in (index + 1, index ^ 1):
                with pytest.raises(Refused):
                    check_proof(Proof(wrong, size, root, proof.hashes, checkpoint), leaves[index], name, key)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: root.update(mediaType="x"),
        lambda root: root.pop("tlogs"),
        lambda root: root.update(ctlogs=[]),
        lambda root: root["certificateAuthorities"][0]["certChain"].update(certificates=[]),
        lambda root: root["certificateAuthorities"][0].pop("validFor"),
        lambda root: root["certificateAuthorities"][0].update(validFor={"start": "yesterday"}),
        lambda root: root["certificateAuthorities"][0].update(validFor={"start": "2026-01-01T00:00:00"}),
        lambda root: root["tlogs"][0]["publicKey"].pop("rawBytes"),
        lambda root: root["tlogs"][0].update(logId={}),
        lambda root: root["tlogs"][0]["publicKey"].update(rawBytes="YQ=="),
    ],
)
def test_trusted_roots_that_are_refused(change, sigstore):
    document = json.loads(sigstore.trusted_root())
    change(document)
    with pytest.raises(Refused):
        parse_trusted_root(json.dumps(document).encode())


def test_without_the_library(sigstore, monkeypatch):
    """It is needed only where a timestamp stands in for the log's time."""
    for name in ("sigstore.models", "sigstore.verify", "rfc3161_client"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    assert decide(ask(), rules(rule(sigstore)), bundled(sigstore, *sigstore.issue()))

    def timed(document):
        entry_of(document).pop("inclusionPromise")
        stamps = {"rfc3161Timestamps": [{"signedTimestamp": "YQ=="}]}
        document["verificationMaterial"]["timestampVerificationData"] = stamps

    (one,) = bundled(sigstore, *sigstore.issue(), change=timed).bundles
    with pytest.raises(MissingTool, match="sigstore is not installed"):
        bundle_time(rule(sigstore).certificate, one.data, parse_bundle(one.data))
