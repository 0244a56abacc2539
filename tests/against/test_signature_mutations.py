"""No change to a vector that is accepted makes anything else acceptable: the rule of docs/trust.md.

A changed document is judged twice: as it is, where only what a tag names can differ and still be found; and with all
digests and sizes above it made to fit, as who serves a repository can do it. It has to be refused, or everything that
is decided from stays equal. With KEELBOOT_MUTATIONS=all each bit of each byte is changed, which takes minutes.
"""

import base64
import json
import os
import random
from dataclasses import replace

import pytest

from keelboot.failure import SignatureRefused
from keelboot.image.documents import OCI_MANIFEST
from keelboot.trust.artifact import LOG, described, signature_annotations, signature_manifest
from keelboot.trust.bundle import Envelope, pae, write_bundle
from keelboot.trust.collecting import Bundled, Collected, Simple
from keelboot.trust.decision import decide, verify
from keelboot.trust.identity import MatchRepository
from keelboot.trust.keyfiles import generate
from keelboot.trust.keys import parse_keys
from keelboot.trust.policy import Signed, TrustedKey
from keelboot.trust.simplesigning import write_payload
from keelboot.trust.statement import PAYLOAD_TYPE, write_signature
from signature_mutations import byte_changes, differing, structural_changes
from signature_vectors import VECTORS, Case, cases, dir_signature, needs_vectors, policy, question
from signed_images import IMAGE, REPOSITORY, ask, rules
from unit.trust.test_keyless import Sigstore, bundled, rule

pytestmark = needs_vectors
ALL = os.environ.get("KEELBOOT_MUTATIONS") == "all"
ACCEPTED = {stated["name"]: stated for stated in cases() if stated["expect"] == "accept"}
# Of each file so many bytes; together with the structural changes some 20,000 documents.
SAMPLE = None if ALL else 60
# What nobody signed and nothing is decided from, by kind of file; and so is a member of a name that no format knows.
UNSIGNED = {
    "bundle": {"verificationMaterial.publicKey.hint", "verificationMaterial.tlogEntries",
               "verificationMaterial.timestampVerificationData", "dsseEnvelope.signatures[].keyid"},
    "referrer": {"config.mediaType", "config.digest", "config.size", "config.artifactType", "mediaType", "annotations",
                 "layers"},
    "referrers-index": {"mediaType", "manifests[].artifactType", "manifests[].annotations", "manifests", "annotations"},
    "sig-manifest": {"config.digest", "config.size", "mediaType", "annotations", "layers"},
}  # fmt: skip
KNOWN = {
    "schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations", "digest",
    "size", "urls", "data", "platform", "verificationMaterial", "publicKey", "certificate", "x509CertificateChain",
    "dsseEnvelope", "messageSignature", "payload", "payloadType", "signatures", "sig",
    "dev.cosignproject.cosign/signature",
}  # fmt: skip
# These hold a signature by somebody else too, which may change as it likes.
MIXED = {"v2-bad-then-good", "v2-bad-v3-good"}


def meaning(image):
    """What is decided, and the signed bytes it is decided from."""
    return (
        image.digest,
        frozenset(
            (one.fingerprint, one.identity, tuple(sorted(one.annotations.items())), one.time, signed(one.evidence))
            for one in image.signatures
        ),
    )


def signed(evidence):
    if evidence.startswith(b"\0"):
        return json.loads(evidence.removeprefix(b"\0sigstore-json\n"))["payload"]
    return json.loads(evidence)["dsseEnvelope"]["payload"]


def served(case, name, changed):
    """The repository with CHANGED in the place of the file NAME; and where that has a digest, with one that fits."""
    shelf = case.shelf()
    tags = {"sig-manifest.json": ".sig", "referrers-index.json": case.question().descriptor.digest.hex}
    if name in tags:
        (tag,) = (one for one in shelf.tags if one.endswith(tags[name]))
        shelf.tags[tag] = changed
        return [shelf]
    lying = case.shelf()
    lying.objects[described(case.files[name], "").digest] = changed
    fitted = fitting({**case.files, name: changed}, name)
    for file, data in fitted.items():
        shelf.objects[described(data, "").digest] = data
        if file in tags:
            (tag,) = (one for one in shelf.tags if one.endswith(tags[file]))
            shelf.tags[tag] = data
    return [lying, shelf]


def fitting(files, name):
    """FILES, with the digests and sizes above NAME those of what is there now."""
    stem, _, number = name.removesuffix(".json").rpartition("-")
    above = {"payload": "sig-manifest.json", "bundle": f"referrer-{number}.json", "referrer": "referrers-index.json"}
    if stem not in above:
        return files
    parent = above[stem]
    document = json.loads(files[parent])
    listed = document["manifests" if stem == "referrer" else "layers"]
    place = 0 if stem == "bundle" else int(number) - 1
    old, new = listed[place]["digest"], described(files[name], "")
    for one in listed:
        if one["digest"] == old:  # equal payloads are one object
            one.update(digest=str(new.digest), size=new.size)
    return fitting({**files, parent: json.dumps(document, separators=(",", ":")).encode()}, parent)


def unsigned_only(kind, before, after):
    """Whether two documents differ in nothing that is decided from."""
    paths = differing(json.loads(before), json.loads(after))
    return kind in UNSIGNED and all(
        (path.rpartition(".")[2] not in KNOWN and "dev.cosign" not in path)
        or any(path == one or path.startswith((f"{one}.", f"{one}[")) for one in UNSIGNED[kind])
        for path in paths
    )


@pytest.mark.timeout(4 * 3600 if ALL else 600)
@pytest.mark.parametrize("name", ACCEPTED)
def test_changes_of_vectors(name, record_property):
    case = Case.load(ACCEPTED[name])
    asked, wanted = case.question(), case.policy()
    expected = meaning(verify(asked, wanted, case.shelf()))
    tried, refused, equal, wrong = 0, 0, 0, []
    chance = random.Random(name)
    for file, data in case.files.items():
        if file in ("image-manifest.json", "pae-1.bin", "sig-config.json"):  # the question, and what nobody fetches
            continue
        kind = file.removesuffix(".json").rstrip("0123456789").rstrip("-")
        for changed in (*byte_changes(data, chance, SAMPLE), *structural_changes(data)):
            if changed == data:
                continue
            for shelf in served(case, file, changed):
                tried += 1
                try:
                    found = verify(asked, wanted, shelf)
                except SignatureRefused:
                    refused += 1
                    continue
                if meaning(found) == expected and (name in MIXED or unsigned_only(kind, data, changed)):
                    equal += 1
                else:
                    wrong.append((file, changed))
    record_property("mutations", f"{tried} tried, {refused} refused, {equal} equal in meaning, {len(wrong)} wrong")
    print(f"{name}: {tried} tried, {refused} refused, {equal} equal in meaning, {len(wrong)} wrong")
    assert wrong == []
    assert tried > 500
    assert refused


def test_changes_of_what_is_signed_again():
    """Whoever has the key may sign nonsense: it is read in one way, or not at all."""
    key = generate()
    wanted = rules(Signed((TrustedKey(key.public, (REPOSITORY.repository,)),), MatchRepository()))
    said = {"version": "42", "stream": "stable"}
    tried, wrong = 0, []
    payload = write_payload(IMAGE.digest, REPOSITORY.repository, said)
    statement = write_signature(IMAGE.digest, said)
    chance = random.Random(1)
    for original, free in ((payload, {"optional"}), (statement, {"subject[].annotations"})):
        for changed in (*byte_changes(original, chance, None if ALL else 400), *structural_changes(original)):
            tried += 1
            if original is payload:
                found = Collected((Simple("it", changed, signature_annotations(key.sign(changed))),))
            else:
                envelope = Envelope(PAYLOAD_TYPE, changed, key.sign(pae(PAYLOAD_TYPE, changed)))
                found = Collected(bundles=(Bundled("it", write_bundle(envelope, key.public)),))
            try:
                image = decide(ask(), wanted, found)
            except SignatureRefused:
                continue
            paths = differing(json.loads(original), json.loads(changed))
            same = all(any(path == one or path.startswith(f"{one}.") for one in free) for path in paths)
            if not same or image.digest != IMAGE.digest or changed.count(b'"optional"') > 1:
                wrong.append(changed)
    print(f"signed again: {tried} tried, {len(wrong)} wrong")
    assert wrong == []
    assert tried > 2000


def test_changes_of_a_logs_promise():
    folder = VECTORS / "container-libs"
    (found,) = dir_signature(folder / "dir-img-cosign-key-rekor-valid/signature-1").simple
    keys = {name: parse_keys((folder / f"{name}.pub").read_bytes())[0] for name in ("cosign2", "rekor")}
    wanted = policy(Signed((TrustedKey(keys["cosign2"]),), MatchRepository(), log_keys=(keys["rekor"],)))
    asked = question(
        "192.168.64.2:5000/cosign-signed/key-1",
        (folder / "dir-img-cosign-key-rekor-valid/manifest.json").read_bytes(),
    )
    original = found.annotations[LOG]
    expected = meaning(decide(asked, wanted, Collected((found,))))
    tried = 0
    changes = byte_changes(original.encode(), random.Random(2), None if ALL else 500)
    for changed in (*changes, *structural_changes(original.encode())):
        tried += 1
        annotations = {**found.annotations, LOG: changed.decode("utf-8", "surrogateescape")}
        try:
            image = decide(asked, wanted, Collected((replace(found, annotations=annotations),)))
        except SignatureRefused:
            continue
        assert meaning(image) == expected
        assert json.loads(changed) == json.loads(original)
    print(f"log: {tried} tried")
    assert tried > 1000


@pytest.mark.timeout(4 * 3600 if ALL else 600)
def test_changes_of_a_bundle_without_a_key():
    sigstore = Sigstore()
    requirement = rules(rule(sigstore))
    (original,) = bundled(sigstore, *sigstore.issue()).bundles
    expected = meaning(decide(ask(), requirement, Collected(bundles=(original,))))
    tried = refused = 0
    for changed in (
        *byte_changes(original.data, random.Random(3), None if ALL else 300),
        *structural_changes(original.data),
    ):
        tried += 1
        try:
            image = decide(ask(), requirement, Collected(bundles=(Bundled("it", changed),)))
        except SignatureRefused:
            refused += 1
            continue
        assert meaning(image) == expected
        # What the entry says of its kind stands in its signed body too; the other names of a note are a stranger's.
        free = ("kindVersion", "keyid", "timestampVerificationData", "checkpoint.envelope")
        paths = differing(json.loads(original.data), json.loads(changed))
        assert all(any(name in path for name in free) for path in paths), paths
    print(f"without a key: {tried} tried, {refused} refused")
    assert tried > 1000


def test_the_other_signature_of_the_same_bytes():
    """ECDSA has two; both say the same, and neither needs the key to be made from the other."""
    from cryptography.hazmat.primitives.asymmetric.utils import (  # noqa: PLC0415
        decode_dss_signature,
        encode_dss_signature,
    )

    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    case = Case.load(ACCEPTED["v2-plain"])
    document = json.loads(case.files["sig-manifest.json"])
    r, s = decode_dss_signature(base64.b64decode(document["layers"][0]["annotations"].popitem()[1]))
    signature = encode_dss_signature(r, order - s)
    manifest, _ = signature_manifest([(case.files["payload-1.json"], signature_annotations(signature))])
    assert manifest.descriptor.media_type == OCI_MANIFEST
    other = Case(case.stated, {**case.files, "sig-manifest.json": manifest.data})
    assert meaning(verify(case.question(), case.policy(), other.shelf())) == meaning(
        verify(case.question(), case.policy(), case.shelf())
    )
