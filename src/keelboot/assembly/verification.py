"""What is kept of the decision that let an image onto the machine: who signed it, or why nobody had to, by what policy.

It is a part of the deployment's record: docs/formats/deployment.md, "The verification".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from keelboot.image.refusal import Refused
from keelboot.image.strictjson import Members

_MEMBERS = (
    "basis", "image", "digest", "media-type", "policy", "policy-hash", "signatures", "version-signed", "downgrade",
    "until",
)  # fmt: skip
_SIGNATURE = ("key", "name", "signer", "identity", "annotations", "time", "evidence")


class Basis(StrEnum):
    """Why an image was accepted."""

    SIGNED = "signed"  # by whom the policy wants
    POLICY = "policy"  # the policy wants no signature for it
    LOCAL = "local"  # it came from a place on the machine, not from a registry
    UNCHECKED = "unchecked"  # no policy is about it, and none was asked for: bootc's default
    ALLOWED = "allow-unsigned"  # no policy is about it, and the operator wanted it all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature that counted. `key` is a fingerprint, `name` what the policy calls that key; `evidence` names bytes.

    `identity` is the name that was signed, None where none was. `time` is RFC 3339, or empty.
    """

    key: str
    name: str = ""
    signer: str = ""
    identity: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    time: str = ""
    evidence: str = ""  # SHA-256, in hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was decided about `digest`, a manifest or an index, that was asked for as `image`.

    `version` was signed; `downgrade` is what spoke against the image and was allowed; until `until` (RFC 3339) its
    signatures are recent enough for the policy, empty where that is for ever.
    """

    basis: Basis
    image: str = ""
    digest: str = ""
    media_type: str = ""
    policy: str = ""
    policy_hash: str = ""
    signatures: Sequence[Signature] = ()
    version: str | None = None
    downgrade: str | None = None
    until: str = ""
    unknown: Mapping[str, Any] = field(default_factory=dict)  # members of a newer keelboot

    @property
    def evidence(self) -> frozenset[str]:
        """The names of the bytes that are kept with it: the signatures, and the document that was signed."""
        if not self.signatures:
            return frozenset()
        return frozenset((self.digest.rpartition(":")[2], *(one.evidence for one in self.signatures)))

    def encoded(self) -> dict[str, Any]:
        """As JSON has it."""
        return dict(self.unknown) | {
            "basis": str(self.basis),
            "image": self.image,
            "digest": self.digest,
            "media-type": self.media_type,
            "policy": self.policy,
            "policy-hash": self.policy_hash,
            "signatures": [_encoded(one) for one in self.signatures],
            "version-signed": self.version,
            "downgrade": self.downgrade,
            "until": self.until,
        }

    @classmethod
    def parse(cls, value: object, path: str) -> Self:
        """What VALUE, at PATH of a record, says. Raises Refused."""
        members = Members(value, path, _MEMBERS)
        assert isinstance(value, dict)
        try:
            basis = Basis(members.required_text("basis"))
        except ValueError as error:
            raise Refused(str(error)) from error
        return cls(
            basis=basis,
            image=members.text("image") or "",
            digest=members.text("digest") or "",
            media_type=members.text("media-type") or "",
            policy=members.text("policy") or "",
            policy_hash=members.text("policy-hash") or "",
            signatures=tuple(_signature(item, where) for where, item in members.items("signatures")),
            version=members.text("version-signed"),
            downgrade=members.text("downgrade"),
            until=members.text("until") or "",
            unknown={name: item for name, item in value.items() if name not in _MEMBERS},
        )


def _encoded(one: Signature) -> dict[str, Any]:
    return {
        "key": one.key,
        "name": one.name,
        "signer": one.signer,
        "identity": one.identity,
        "annotations": dict(one.annotations),
        "time": one.time,
        "evidence": one.evidence,
    }


def _signature(value: object, path: str) -> Signature:
    members = Members(value, path, _SIGNATURE)
    evidence = members.text("evidence") or ""
    if evidence and (len(evidence) != 64 or set(evidence) - set("0123456789abcdef")):
        raise Refused(f"{members.where('evidence')} is no SHA-256")
    return Signature(
        key=members.required_text("key"),
        name=members.text("name") or "",
        signer=members.text("signer") or "",
        identity=members.text("identity"),
        annotations=members.mapping("annotations"),
        time=members.text("time") or "",
        evidence=evidence,
    )
