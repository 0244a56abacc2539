"""What is signed, and what is around it: written as cosign does, read strictly."""

import base64
import copy
import json

import pytest

from keelboot.image.digest import Digest
from keelboot.image.documents import OCI_MANIFEST, Descriptor
from keelboot.image.refusal import Refused
from keelboot.registry.referrers import parse_artifact
from keelboot.trust.artifact import (
    bundles,
    described,
    payloads,
    referrer_manifest,
    signature_annotations,
    signature_manifest,
    signature_tag,
)
from keelboot.trust.bundle import MEDIA_TYPE, Envelope, pae, parse_bundle, write_bundle
from keelboot.trust.simplesigning import Claim, parse_payload, write_payload
from keelboot.trust.statement import (
    PAYLOAD_TYPE,
    SIGNATURE,
    parse_attestation,
    parse_signature,
    write_attestation,
    write_signature,
)
from signed_images import NOW

HEX = "9db7f75fdf266cbb74e92a55579b08b6c5763aea5902ca5ddc5742bdea7494f0"
DIGEST = Digest("sha256", HEX)
PAYLOAD = {
    "critical": {
        "identity": {"docker-reference": "localhost:5077/os/base"},
        "image": {"docker-manifest-digest": f"sha256:{HEX}"},
        "type": "cosign container image signature",
    },
    "optional": None,
}
STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"digest": {"sha256": HEX}, "annotations": {}}],
    "predicateType": "https://sigstore.dev/cosign/sign/v1",
    "predicate": {},
}


def compact(value) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def variant(value, path, *put):
    """VALUE with another member at PATH, or without it where nothing is PUT there."""
    changed = copy.deepcopy(value)
    *above, last = path
    place = changed
    for name in above:
        place = place[name]
    if put:
        place[last] = put[0]
    else:
        del place[last]
    return changed


def test_payload_is_cosigns():
    assert write_payload(DIGEST, "localhost:5077/os/base", {}) == compact(PAYLOAD)
    said = {"version": "42", "stream": "stable"}
    written = write_payload(DIGEST, "localhost:5077/os/base", said)
    assert written.endswith(b'"optional":{"stream":"stable","version":"42"}}')
    assert parse_payload(written) == Claim(DIGEST, "localhost:5077/os/base", said)
    assert b"\\u003ca\\u003e\\u0026\\u2028" in write_payload(DIGEST, "x", {"a": "<a>&\u2028"})


def test_payload_with_other_annotations():
    optional = {
        "creator": "containers/image",
        "timestamp": 1657296609,
        "list": [1],
        "no": True,
        "half": 1.5,
        "null": None,
    }
    claim = parse_payload(compact({**PAYLOAD, "optional": optional}))
    assert claim.annotations == {"creator": "containers/image", "timestamp": "1657296609"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xef\xbb\xbf" + compact(PAYLOAD),
        compact(PAYLOAD) + b"\n{}",
        compact(PAYLOAD) + b"\0",
        compact(PAYLOAD).decode().encode("utf-16"),
        compact(PAYLOAD).replace(b'"optional":null', b'"optional":null,"optional":{}'),
        compact({**PAYLOAD, "optional": []}),
        compact({**PAYLOAD, "optional": "x"}),
        compact({**PAYLOAD, "more": 1}),
        compact({**PAYLOAD, "Critical": {}}),
        compact(variant(PAYLOAD, ["optional"])),
        compact(variant(PAYLOAD, ["critical"])),
        compact(variant(PAYLOAD, ["critical"], None)),
        compact(variant(PAYLOAD, ["critical", "type"])),
        compact(variant(PAYLOAD, ["critical", "type"], "atomic container signature")),
        compact(variant(PAYLOAD, ["critical", "type"], None)),
        compact(variant(PAYLOAD, ["critical", "more"], 1)),
        compact(variant(PAYLOAD, ["critical", "identity"])),
        compact(variant(PAYLOAD, ["critical", "identity"], "x")),
        compact(variant(PAYLOAD, ["critical", "identity", "docker-reference"], "")),
        compact(variant(PAYLOAD, ["critical", "identity", "docker-reference"], None)),
        compact(variant(PAYLOAD, ["critical", "identity", "docker-reference"], ["x"])),
        compact(variant(PAYLOAD, ["critical", "identity", "docker-reference "], "x")),
        compact(variant(PAYLOAD, ["critical", "image", "docker-manifest-digest"], HEX)),
        compact(variant(PAYLOAD, ["critical", "image", "docker-manifest-digest"], f"sha256:{HEX[:-1]}")),
        compact(variant(PAYLOAD, ["critical", "image", "docker-manifest-digest"], f"sha256:{HEX.upper()}")),
        compact(variant(PAYLOAD, ["critical", "image", "docker-manifest-digest"], f"sha256:{HEX}\n")),
        compact(variant(PAYLOAD, ["critical", "image", "docker-manifest-digest"], f"sha512:{HEX}")),
        compact({**PAYLOAD, "optional": {"a": "\ud800"}}),
        b'{"critical":' * 40,
    ],
)
def test_payload_is_refused(data):
    assert parse_payload(compact(PAYLOAD)).identity == "localhost:5077/os/base"
    with pytest.raises(Refused):
        parse_payload(data)


def test_statement_is_cosigns():
    assert write_signature(DIGEST, {}) == compact(STATEMENT)
    said = {"docker-reference": "example.org/web:1", "version": "42"}
    assert parse_signature(write_signature(DIGEST, said)) == Claim(DIGEST, "example.org/web:1", said)
    assert parse_signature(compact(STATEMENT)) == Claim(DIGEST, None, {})
    assert pae(PAYLOAD_TYPE, b"abc") == b"DSSEv1 28 application/vnd.in-toto+json 3 abc"
    assert pae("ä", b"") == b"DSSEv1 2 \xc3\xa4 0 "


@pytest.mark.parametrize(
    "value",
    [
        variant(STATEMENT, ["_type"], "https://in-toto.io/Statement/v0.1"),
        variant(STATEMENT, ["_type"]),
        variant(STATEMENT, ["predicateType"], "https://slsa.dev/provenance/v1"),
        variant(STATEMENT, ["predicateType"], "https://sigstore.dev/cosign/sign/v1/"),
        variant(STATEMENT, ["predicateType"]),
        variant(STATEMENT, ["predicate"]),
        variant(STATEMENT, ["predicate"], {"a": 1}),
        variant(STATEMENT, ["predicate"], None),
        variant(STATEMENT, ["subject"], []),
        variant(STATEMENT, ["subject"], None),
        variant(STATEMENT, ["subject"], STATEMENT["subject"] * 2),
        variant(STATEMENT, ["subject", 0, "digest"]),
        variant(STATEMENT, ["subject", 0, "digest"], {"sha256": HEX, "sha512": HEX * 2}),
        variant(STATEMENT, ["subject", 0, "digest"], {"sha512": HEX * 2}),
        variant(STATEMENT, ["subject", 0, "digest", "sha256"], f"sha256:{HEX}"),
        variant(STATEMENT, ["subject", 0, "digest", "sha256"], HEX.upper()),
        variant(STATEMENT, ["subject", 0, "digest", "sha256"], HEX[:-1]),
        variant(STATEMENT, ["subject", 0, "name"], "web"),
        variant(STATEMENT, ["subject", 0, "annotations"], []),
        variant(STATEMENT, ["more"], 1),
    ],
)
def test_statement_is_refused(value):
    with pytest.raises(Refused):
        parse_signature(compact(value))


def test_attestations():
    written = write_attestation(DIGEST, "example.org/web", "https://slsa.dev/provenance/v1", {"a": [1]})
    said = parse_attestation(written, DIGEST)
    assert (said.identity, said.predicate_type, said.predicate) == (
        "example.org/web",
        "https://slsa.dev/provenance/v1",
        {"a": [1]},
    )
    for data, other in ((written, Digest("sha256", "0" * 64)), (compact(STATEMENT), DIGEST)):
        with pytest.raises(Refused):
            parse_attestation(data, other)
    with pytest.raises(Refused, match="an attestation"):
        parse_signature(written)


PAYLOAD_B64 = base64.b64encode(compact(STATEMENT)).decode()
BUNDLE = {
    "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
    "verificationMaterial": {"publicKey": {"hint": "x"}},
    "dsseEnvelope": {"payload": PAYLOAD_B64, "payloadType": PAYLOAD_TYPE, "signatures": [{"sig": "YQ=="}]},
}
ENTRY = {
    "logIndex": "1",
    "logId": {"keyId": "YQ=="},
    "kindVersion": {"kind": "dsse", "version": "0.0.1"},
    "integratedTime": "2",
    "inclusionPromise": {"signedEntryTimestamp": "YQ=="},
    "canonicalizedBody": "YQ==",
}
MATERIAL = ["verificationMaterial"]


def test_bundle_is_cosigns(key):
    payload = write_signature(DIGEST, {})
    data = write_bundle(Envelope(PAYLOAD_TYPE, payload, b"signature"), key.public)
    found = parse_bundle(data)
    assert found.envelope == Envelope(PAYLOAD_TYPE, payload, b"signature")
    assert found.hint == base64.b64encode(bytes.fromhex(key.public.fingerprint[7:])).decode()
    assert (found.version, found.certificates, found.entries, found.timestamps) == (3, (), (), ())
    assert list(json.loads(data)) == list(BUNDLE)


@pytest.mark.parametrize(
    ("changed", "version"),
    [
        (variant(BUNDLE, ["mediaType"], "application/vnd.dev.sigstore.bundle+json;version=0.1"), 1),
        (variant(BUNDLE, ["mediaType"], "application/vnd.dev.sigstore.bundle+json;version=0.2"), 2),
        (variant(BUNDLE, ["mediaType"], "application/vnd.dev.sigstore.bundle+json;version=0.3"), 3),
        (variant(BUNDLE, [*MATERIAL, "publicKey"], {}), 3),
        (variant(BUNDLE, [*MATERIAL, "tlogEntries"], [ENTRY]), 3),
        (variant(BUNDLE, [*MATERIAL, "timestampVerificationData"], {}), 3),
        (variant(BUNDLE, MATERIAL, {"certificate": {"rawBytes": "YQ=="}}), 3),
        (variant(BUNDLE, ["dsseEnvelope", "signatures", 0, "keyid"], ""), 3),
    ],
)
def test_bundles_that_differ(changed, version):
    assert parse_bundle(compact(changed)).version == version


@pytest.mark.parametrize(
    "changed",
    [
        variant(BUNDLE, ["mediaType"]),
        variant(BUNDLE, ["mediaType"], "application/vnd.dev.sigstore.bundle.v0.4+json"),
        variant(BUNDLE, ["mediaType"], 3),
        variant(BUNDLE, ["more"], None),
        variant(BUNDLE, ["DsseEnvelope"], {}),
        variant(BUNDLE, ["dsse_envelope"], {}),
        variant(BUNDLE, ["messageSignature"], None),
        variant(BUNDLE, ["dsseEnvelope"]),
        variant(BUNDLE, ["dsseEnvelope"], None),
        variant(BUNDLE, ["dsseEnvelope", "payload"]),
        variant(BUNDLE, ["dsseEnvelope", "payload"], ""),
        variant(BUNDLE, ["dsseEnvelope", "payload"], PAYLOAD_B64.rstrip("=") + "\n"),
        variant(BUNDLE, ["dsseEnvelope", "payloadType"]),
        variant(BUNDLE, ["dsseEnvelope", "signatures"], []),
        variant(BUNDLE, ["dsseEnvelope", "signatures"], [{"sig": "YQ=="}] * 2),
        variant(BUNDLE, ["dsseEnvelope", "signatures"], {"sig": "YQ=="}),
        variant(BUNDLE, ["dsseEnvelope", "signatures", 0, "sig"], "YR=="),
        variant(BUNDLE, ["dsseEnvelope", "signatures", 0, "cert"], "x"),
        variant(BUNDLE, MATERIAL),
        variant(BUNDLE, MATERIAL, {}),
        variant(BUNDLE, MATERIAL, None),
        variant(BUNDLE, [*MATERIAL, "certificate"], {"rawBytes": "YQ=="}),
        variant(BUNDLE, [*MATERIAL, "publicKey"], None),
        variant(BUNDLE, [*MATERIAL, "publicKey"], {"rawBytes": "x"}),
        variant(BUNDLE, [*MATERIAL, "x509CertificateChain"], {"certificates": [{"rawBytes": "YQ=="}]}),
        variant(BUNDLE, MATERIAL, {"x509CertificateChain": {"certificates": [{"rawBytes": "YQ=="}]}}),
        variant(BUNDLE, [*MATERIAL, "tlogEntries"], [ENTRY] * 9),
        variant(BUNDLE, [*MATERIAL, "tlogEntries"], [variant(ENTRY, ["logIndex"], "01")]),
        variant(BUNDLE, [*MATERIAL, "tlogEntries"], [variant(ENTRY, ["logIndex"], 1)]),
        variant(BUNDLE, [*MATERIAL, "tlogEntries"], [variant(ENTRY, ["integratedTime"], "-1")]),
        variant(BUNDLE, [*MATERIAL, "tlogEntries"], [variant(ENTRY, ["logId"])]),
        variant(BUNDLE, [*MATERIAL, "tlogEntries"], [variant(ENTRY, ["more"], 1)]),
        variant(BUNDLE, [*MATERIAL, "timestampVerificationData"], {"rfc3161Timestamps": [{}]}),
        variant(
            variant(BUNDLE, ["mediaType"], "application/vnd.dev.sigstore.bundle+json;version=0.1"),
            MATERIAL,
            {"certificate": {"rawBytes": "YQ=="}},
        ),
    ],
)
def test_bundle_is_refused(changed):
    with pytest.raises(Refused):
        parse_bundle(compact(changed))


def test_signatures_as_cosign_2_stores_them():
    first, config = signature_manifest([(b"payload", signature_annotations(b"s"))])
    assert config.descriptor.size == len(config.data)
    assert json.loads(config.data)["rootfs"]["diff_ids"] == [str(described(b"payload", "x").digest)]
    found = parse_artifact(first.data, first.descriptor)
    assert [one.annotations for one in payloads(found)] == [{"dev.cosignproject.cosign/signature": "cw=="}]
    more, _ = signature_manifest([(b"other", signature_annotations(b"t"))], found)
    assert [one.digest for one in payloads(parse_artifact(more.data, more.descriptor))] == [
        described(data, "x").digest for data in (b"payload", b"other")
    ]
    assert signature_tag(DIGEST) == f"sha256-{HEX}.sig"


SUBJECT = Descriptor(OCI_MANIFEST, DIGEST, 310, annotations={"not": "repeated"})
REFERRER = referrer_manifest(b"bundle", SUBJECT, SIGNATURE, NOW)[0]
ARTIFACT = json.loads(REFERRER.data)


def parsed(document):
    data = compact(document)
    return parse_artifact(data, described(data, OCI_MANIFEST))


def test_bundles_as_cosign_3_stores_them():
    manifest, config = referrer_manifest(b"bundle", SUBJECT, SIGNATURE, NOW)
    found = parse_artifact(manifest.data, manifest.descriptor)
    assert found.subject == Descriptor(OCI_MANIFEST, DIGEST, 310)
    assert [one.digest for one in bundles(found)] == [described(b"bundle", "x").digest]
    assert found.annotations["org.opencontainers.image.created"] == "2026-11-27T12:00:00Z"
    assert (config.data, config.descriptor.media_type) == (b"{}", "application/vnd.oci.empty.v1+json")


def test_the_config_tells_the_type_where_the_manifest_does_not():
    changed = variant(variant(ARTIFACT, ["artifactType"]), ["config", "mediaType"], MEDIA_TYPE)
    assert bundles(parsed(changed))
    assert not bundles(parsed(variant(ARTIFACT, ["artifactType"])))
    assert not bundles(parsed(variant(ARTIFACT, ["artifactType"], "application/spdx+json")))
    assert not bundles(parsed(variant(ARTIFACT, ["layers", 0, "mediaType"], "text/plain")))
    assert not payloads(parsed(ARTIFACT))


@pytest.mark.parametrize(
    "changed",
    [
        [],
        variant(ARTIFACT, ["schemaVersion"], 1),
        variant(ARTIFACT, ["mediaType"], "application/vnd.oci.image.index.v1+json"),
        variant(ARTIFACT, ["manifests"], []),
        variant(ARTIFACT, ["Layers"], []),
        variant(ARTIFACT, ["layers"], {}),
        variant(ARTIFACT, ["layers", 0, "digest"], "sha256:../../x"),
        variant(ARTIFACT, ["layers", 0, "size"], -1),
        variant(ARTIFACT, ["layers", 0, "size"], 1.5),
        variant(ARTIFACT, ["layers", 0, "urls"], ["https://elsewhere.example"]),
        variant(ARTIFACT, ["subject", "digest"]),
        variant(ARTIFACT, ["config"], None),
        variant(ARTIFACT, ["annotations"], {"a": 1}),
    ],
)
def test_artifact_is_refused(changed):
    with pytest.raises(Refused):
        parsed(changed)
