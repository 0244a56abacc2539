"""in-toto statements: what cosign 3 signs, and what attestations are (in-toto.io/Statement/v1).

    {"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":HEX},"annotations":{...}}],
     "predicateType":TYPE,"predicate":{...}}

A signature of an image has the predicate type `SIGNATURE`; any other type is an attestation, and never a signature.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keelboot.image.digest import Digest
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse
from keelboot.trust.exact import Exact
from keelboot.trust.simplesigning import Claim, go_json, signed_annotations, signed_digest

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
SIGNATURE: Final = "https://sigstore.dev/cosign/sign/v1"
# The name under which a bundle can carry what simple signing has in critical.identity.
IDENTITY: Final = "docker-reference"
_SUBJECT = ("name", "uri", "mediaType", "downloadLocation", "annotations", "content")
_V1 = "https://in-toto.io/Statement/v1"
_ATTESTATION_TYPES = (_V1, "https://in-toto.io/Statement/v0.1")


@dataclass(frozen=True, slots=True)
class Attestation:
    """Something that was signed about an image: of which type, and what."""

    digest: Digest
    identity: str | None  # the name of the subject, as it was signed
    predicate_type: str
    predicate: object


def parse_signature(data: bytes) -> Claim:
    """The claim that the statement DATA, whose signature was verified, makes. Raises Refused."""
    statement = Exact(parse(data), "", ("_type", "subject", "predicateType", "predicate"))
    if statement.text("predicateType") != SIGNATURE:
        raise Refused(f"it is an attestation ({statement.text('predicateType')!a}), not a signature")
    if statement.text("_type") != _V1:
        raise Refused(f"its _type is {statement.text('_type')!a}, not that of a statement")
    if statement.value("predicate") != {}:
        raise Refused("its predicate is not empty")
    subjects = statement.items("subject")
    if len(subjects) != 1:
        raise Refused(f"it has {len(subjects)} subjects; a signature is about one image")
    path, item = subjects[0]
    subject = Exact(item, path, ("digest",), ("annotations",))
    digest = Exact(subject.value("digest"), subject.where("digest"), ("sha256",))
    annotations = signed_annotations(subject.value("annotations"), subject.where("annotations"))
    claimed = signed_digest(f"sha256:{digest.required_text('sha256')}")
    return Claim(claimed, annotations.get(IDENTITY), annotations)


def write_signature(digest: Digest, annotations: Mapping[str, str]) -> bytes:
    """The statement that cosign 3 signs for the image DIGEST. Its bytes are the payload."""
    subject = {"digest": {digest.algorithm: digest.hex}, "annotations": dict(sorted(annotations.items()))}
    return go_json({"_type": _V1, "subject": [subject], "predicateType": SIGNATURE, "predicate": {}})


def parse_attestation(data: bytes, image: Digest) -> Attestation:
    """What the statement DATA, whose signature was verified, says about IMAGE: one of its subjects must be that.

    Raises Refused.
    """
    statement = Exact(parse(data), "", ("_type", "subject", "predicateType"), ("predicate",))
    if statement.text("_type") not in _ATTESTATION_TYPES:
        raise Refused(f"its _type is {statement.text('_type')!a}, not that of a statement")
    predicate_type = statement.required_text("predicateType")
    if predicate_type == SIGNATURE:
        raise Refused("it is a signature, not an attestation")
    names = []
    for path, item in statement.items("subject"):
        subject = Exact(item, path, ("digest",), _SUBJECT)
        if subject.mapping("digest").get(image.algorithm) == image.hex:
            names.append(subject.text("name") or None)
    if len(names) != 1:
        raise Refused(f"{len(names)} of its subjects are this image" if names else "it is about something else")
    return Attestation(image, names[0], predicate_type, statement.value("predicate"))


def write_attestation(digest: Digest, name: str, predicate_type: str, predicate: object) -> bytes:
    """The statement of PREDICATE_TYPE about the image DIGEST of the repository NAME, as `cosign attest` makes it."""
    subject = {"name": name, "digest": {digest.algorithm: digest.hex}}
    return go_json({"_type": _V1, "subject": [subject], "predicateType": predicate_type, "predicate": predicate})
