"""What refers to an image: signatures and other documents with a `subject` (OCI distribution specification 1.1).

A registry lists them at referrers/DIGEST. Where it cannot, clients keep the list themselves: an index under the tag
ALGORITHM-HEX. What it says of an entry is what another client wrote there, and is not relied on: cosign 3 puts the type
of an empty config where the artifact's own belongs. So every manifest that is listed has to be looked at.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from keelboot.image.digest import Digest
from keelboot.image.documents import OCI_INDEX, OCI_MANIFEST, Descriptor, parse_descriptor
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import Members, parse

LISTED_MAX: Final = 200  # entries of all pages together
_MANIFEST = ("schemaVersion", "mediaType", "artifactType", "config", "layers", "subject", "annotations")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest that is attached to SUBJECT, or to nothing; `descriptor` names exactly the bytes `data`."""

    descriptor: Descriptor
    data: bytes = field(repr=False)
    artifact_type: str  # its own, or else its config's media type, as the specification has it
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None
    annotations: Mapping[str, str]


def fallback_tag(subject: Digest) -> str:
    """Where the list of SUBJECT's referrers is if the registry keeps none."""
    # The specification cuts both parts, so that a tag has room for them.
    return f"{subject.algorithm[:32]}-{subject.hex[:64]}"


def parse_referrers(data: bytes) -> tuple[Descriptor, ...]:
    """What the index DATA, an answer about referrers or a fallback's, lists. Raises Refused."""
    members = Members(parse(data), "", ("schemaVersion", "mediaType", "manifests", "annotations", "subject"))
    if members.integer("schemaVersion") != 2 or members.text("mediaType") not in (None, OCI_INDEX):
        raise Refused("the list of what refers to it is no index")
    return tuple(parse_descriptor(item, path) for path, item in members.items("manifests"))


def parse_artifact(data: bytes, named: Descriptor) -> Artifact:
    """The artifact's manifest DATA, which NAMED describes and which was compared with its digest. Raises Refused."""
    members = Members(parse(data), "", _MANIFEST)
    if named.media_type != OCI_MANIFEST or members.text("mediaType") not in (None, OCI_MANIFEST):
        raise Refused(f"what refers to it is {named.media_type[:100]!a}, and no manifest")
    if members.integer("schemaVersion") != 2 or "manifests" in members:
        raise Refused("what refers to it is no manifest")
    config = parse_descriptor(members.value("config"), "config")
    subject = parse_descriptor(members.value("subject"), "subject") if "subject" in members else None
    return Artifact(
        named,
        data,
        members.text("artifactType") or config.media_type,
        config,
        tuple(parse_descriptor(item, path) for path, item in members.items("layers")),
        subject,
        members.mapping("annotations"),
    )


def encoded(one: Descriptor) -> dict[str, Any]:
    """ONE as JSON has it."""
    value: dict[str, Any] = {"mediaType": one.media_type, "digest": str(one.digest), "size": one.size}
    if one.artifact_type:
        value["artifactType"] = one.artifact_type
    if one.annotations:
        value["annotations"] = dict(one.annotations)
    return value


def with_referrer(index: bytes | None, artifact: Artifact) -> bytes | None:
    """The fallback's INDEX, or None where there is none, and ARTIFACT in it; None if it is there already.

    What others wrote stays as it is. Raises Refused.
    """
    entry = encoded(artifact.descriptor) | {"artifactType": artifact.artifact_type}
    if artifact.annotations:
        entry["annotations"] = dict(artifact.annotations)
    if index is None:
        return _index([entry])
    if any(one.digest == artifact.descriptor.digest for one in parse_referrers(index)):
        return None
    value = parse(index)
    assert isinstance(value, dict)
    return _index([*(value.get("manifests") or []), entry], value)


def _index(manifests: Sequence[object], old: Mapping[str, object] | None = None) -> bytes:
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, **(old or {}), "manifests": manifests}
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
