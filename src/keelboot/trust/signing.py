"""Making signatures, in both of cosign's formats, and what has to be stored for each.

Both carry the repository and the time: a bundle by cosign 3 has neither, so these are annotations there, of which
cosign takes no notice and keelboot's policies can make use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from keelboot.failure import Failure
from keelboot.image.digest import Digest
from keelboot.image.documents import Descriptor
from keelboot.registry.referrers import Artifact
from keelboot.trust import bundle, simplesigning
from keelboot.trust.artifact import (
    Stored,
    described,
    referrer_manifest,
    signature_annotations,
    signature_manifest,
    signature_tag,
)
from keelboot.trust.bundle import Envelope, pae, write_bundle
from keelboot.trust.freshness import EXPIRES, STREAM, TIMESTAMP, VERSION, version_numbers
from keelboot.trust.identity import Named
from keelboot.trust.keyfiles import PrivateKey
from keelboot.trust.simplesigning import write_payload
from keelboot.trust.statement import IDENTITY, PAYLOAD_TYPE, SIGNATURE, write_attestation, write_signature

_RESERVED = (IDENTITY, TIMESTAMP, "creator")


@dataclass(frozen=True, slots=True)
class ToStore:
    """What to push, blobs before the manifest. `tag` is where the manifest goes, None for a referrer.

    Where the registry has no interface for referrers, `registry.referrers.with_referrer` lists it.
    """

    blobs: tuple[Stored, ...]
    manifest: Stored
    tag: str | None


def sign_simple(
    image: Descriptor,
    identity: Named,
    key: PrivateKey,
    annotations: Mapping[str, str],
    *,
    now: datetime,
    before: Artifact | None = None,
) -> ToStore:
    """The signature of IMAGE for IDENTITY as cosign 2 makes it, added to what is there BEFORE.

    ANNOTATIONS are signed too. Raises Failure.
    """
    said = {**_checked(annotations), "creator": "keelboot", TIMESTAMP: int(now.timestamp())}
    payload = write_payload(image.digest, str(identity), said)
    signed = (payload, signature_annotations(key.sign(payload)))
    manifest, config = signature_manifest([signed], before)
    blob = Stored(described(payload, simplesigning.MEDIA_TYPE), payload)
    return ToStore((blob, config), manifest, signature_tag(image.digest))


def sign_bundle(
    image: Descriptor, identity: Named | None, key: PrivateKey, annotations: Mapping[str, str], *, now: datetime
) -> ToStore:
    """The signature of IMAGE as cosign 3 makes it, with the name IDENTITY if there is one. Raises Failure."""
    said = {**_checked(annotations), TIMESTAMP: str(int(now.timestamp()))}
    if identity is not None:
        said[IDENTITY] = str(identity)
    return _as_referrer(write_signature(_subject(image), said), SIGNATURE, image, key, now)


def attest(
    image: Descriptor, identity: Named, predicate_type: str, predicate: object, *, key: PrivateKey, now: datetime
) -> ToStore:
    """An attestation of PREDICATE_TYPE about IMAGE, as cosign 3 makes it. Raises Failure."""
    statement = write_attestation(_subject(image), identity.repository, predicate_type, predicate)
    return _as_referrer(statement, predicate_type, image, key, now)


def _subject(image: Descriptor) -> Digest:
    """The digest of IMAGE, if bundles can name it."""
    if image.digest.algorithm != "sha256":
        raise Failure(
            f"cannot sign {image.digest}",
            why="a bundle names an image by its SHA-256 only",
            fix="Push the image again, so that it is named by a SHA-256, or sign it in the format of cosign 2.",
        )
    return image.digest


def _as_referrer(payload: bytes, predicate_type: str, image: Descriptor, key: PrivateKey, now: datetime) -> ToStore:
    signature = key.sign(pae(PAYLOAD_TYPE, payload))
    data = write_bundle(Envelope(PAYLOAD_TYPE, payload, signature), key.public)
    manifest, config = referrer_manifest(data, image, predicate_type, now)
    return ToStore((Stored(described(data, bundle.MEDIA_TYPE), data), config), manifest, None)


def _checked(annotations: Mapping[str, str]) -> Mapping[str, str]:
    """ANNOTATIONS, if nobody will misunderstand them."""
    for name, value in annotations.items():
        why = None
        if name in _RESERVED or not name:
            why = f"the annotation {name!a} is written by keelboot itself"
        elif name == VERSION and version_numbers(value) is None:
            why = f"the version {value!a} can be compared with none: it needs digits, with dots or dashes between them"
        elif name == EXPIRES and not (value.isascii() and value.isdigit() and len(value) <= 12):
            why = f"{EXPIRES} is {value!a}, not seconds since 1970"
        elif name == STREAM and not value:
            why = "the stream has no name"
        if why:
            raise Failure("cannot sign with these annotations", why=why, fix="Give others: --annotation NAME=VALUE.")
    return annotations
