"""Manifests of what is attached to an image: signatures as cosign 2 keeps them, and bundles as cosign 3 does.

    sha256-HEX.sig   cosign 2: an image manifest, one layer for each signature; what the layer is was signed, and the
                     signature is an annotation of its descriptor
    sha256-HEX.att   the same for attestations; the layers are DSSE envelopes
    referrers        OCI distribution specification 1.1: manifests with a `subject`, one bundle each

Nothing of that is signed: what is read decides only where to look and which bytes to verify.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

from keelboot.image.digest import Digest
from keelboot.image.documents import OCI_CONFIG, OCI_MANIFEST, Descriptor
from keelboot.registry.referrers import Artifact
from keelboot.trust import bundle, simplesigning
from keelboot.trust.base64text import encode
from keelboot.trust.simplesigning import go_json

SIGNATURE: Final = "dev.cosignproject.cosign/signature"
CERTIFICATE: Final = "dev.sigstore.cosign/certificate"
CHAIN: Final = "dev.sigstore.cosign/chain"
LOG: Final = "dev.sigstore.cosign/bundle"
ENVELOPE: Final = "application/vnd.dsse.envelope.v1+json"
PREDICATE_TYPE: Final = "dev.sigstore.bundle.predicateType"
_SIGNATURES: Final = "application/vnd.dev.cosign.artifact.sig.v1+json"
_ATTESTATIONS: Final = "application/vnd.dev.cosign.artifact.att.v1+json"
_EMPTY: Final = "application/vnd.oci.empty.v1+json"
CREATED: Final = "org.opencontainers.image.created"


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes to be stored in a registry, with the descriptor that names them."""

    descriptor: Descriptor
    data: bytes


def signature_tag(digest: Digest) -> str:
    """The tag at which cosign 2 keeps the signatures of DIGEST."""
    return f"{digest.algorithm}-{digest.hex}.sig"


def attestation_tag(digest: Digest) -> str:
    """The tag at which cosign 2 keeps the attestations about DIGEST."""
    return f"{digest.algorithm}-{digest.hex}.att"


def bundles(artifact: Artifact) -> tuple[Descriptor, ...]:
    """The bundles of ARTIFACT, if that is what it is for."""
    return tuple(one for one in artifact.layers if artifact.artifact_type == one.media_type == bundle.MEDIA_TYPE)


def payloads(artifact: Artifact) -> tuple[Descriptor, ...]:
    """What was signed by simple signing, each with its signature among the annotations."""
    fitting = artifact.artifact_type in (OCI_CONFIG, _SIGNATURES)
    return tuple(one for one in artifact.layers if fitting and one.media_type == simplesigning.MEDIA_TYPE)


def envelopes(artifact: Artifact) -> tuple[Descriptor, ...]:
    """The envelopes of attestations as cosign 2 makes them."""
    fitting = artifact.artifact_type in (OCI_CONFIG, _ATTESTATIONS)
    return tuple(one for one in artifact.layers if fitting and one.media_type == ENVELOPE)


def signature_manifest(
    signatures: Iterable[tuple[bytes, Mapping[str, str]]], before: Artifact | None = None
) -> tuple[Stored, Stored]:
    """Manifest and config for the tag of `signature_tag`, as cosign 2 writes them.

    SIGNATURES are payloads with the annotations they get; those that BEFORE, what the tag names now, has stay first.
    """
    layers = [_written(one) for one in before.layers] if before else []
    for payload, annotations in signatures:
        layers.append(_written(described(payload, simplesigning.MEDIA_TYPE, annotations)))
    epoch = "0001-01-01T00:00:00Z"
    config = go_json(
        {
            "architecture": "",
            "created": epoch,
            "history": [{"created": epoch} for _ in layers],
            "os": "",
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
            "config": {},
        }
    )
    descriptor = described(config, OCI_CONFIG)
    manifest = go_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _written(descriptor),
            "layers": layers,
        }
    )
    return Stored(described(manifest, OCI_MANIFEST), manifest), Stored(descriptor, config)


def referrer_manifest(data: bytes, subject: Descriptor, predicate_type: str, now: datetime) -> tuple[Stored, Stored]:
    """Manifest and config for the bundle DATA about SUBJECT, as cosign 3 writes them. NOW is in UTC."""
    config = described(b"{}", _EMPTY)
    manifest = go_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {**_written(config), "artifactType": bundle.MEDIA_TYPE},
            "layers": [_written(described(data, bundle.MEDIA_TYPE))],
            "annotations": {
                "dev.sigstore.bundle.content": "dsse-envelope",
                PREDICATE_TYPE: predicate_type,
                CREATED: f"{now:%Y-%m-%dT%H:%M:%SZ}",
            },
            "subject": _written(Descriptor(subject.media_type, subject.digest, subject.size)),
            "artifactType": bundle.MEDIA_TYPE,
        }
    )
    return Stored(described(manifest, OCI_MANIFEST), manifest), Stored(config, b"{}")


def described(data: bytes, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
    """The descriptor of DATA."""
    return Descriptor(media_type, Digest("sha256", sha256(data).hexdigest()), len(data), annotations=annotations or {})


def signature_annotations(signature: bytes) -> dict[str, str]:
    """The annotations of a layer that say how its payload was signed."""
    return {SIGNATURE: encode(signature)}


def _written(one: Descriptor) -> dict[str, object]:
    """In the order of go-containerregistry, which cosign uses."""
    members: dict[str, object] = {"mediaType": one.media_type, "size": one.size, "digest": str(one.digest)}
    if one.annotations:
        members["annotations"] = dict(sorted(one.annotations.items()))
    if one.artifact_type:
        members["artifactType"] = one.artifact_type
    return members
