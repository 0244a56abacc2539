"""Proof that an image may be staged: what `stage` wants to see. `admission` makes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from keelboot.assembly.verification import Basis, Signature, Verification
from keelboot.host import clock
from keelboot.image.digest import Digest
from keelboot.trust.verified import VerifiedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Exempted:
    """An image whose signatures nobody verified, and on what BASIS it is taken all the same."""

    image: str
    digest: Digest
    basis: Basis
    policy: str = ""  # where that is written
    policy_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The image with the manifest `manifest` may be staged: `proof` is about it, or about an index that lists it.

    `document` are the bytes that were signed, `names` what the policy calls its keys, by fingerprint; the signatures
    are recent enough until `until`.
    """

    manifest: Digest
    proof: VerifiedImage | Exempted
    media_type: str = ""
    document: bytes = field(default=b"", repr=False)
    names: Mapping[str, str] = field(default_factory=dict)
    until: datetime | None = None

    @property
    def verification(self) -> Verification:
        """What the deployment's record keeps of it."""
        proof = self.proof
        if isinstance(proof, Exempted):
            return Verification(
                basis=proof.basis,
                image=proof.image,
                digest=str(proof.digest),
                media_type=self.media_type,
                policy=proof.policy,
                policy_hash=proof.policy_hash,
            )
        return Verification(
            basis=Basis.SIGNED if proof.enforced else Basis.POLICY,
            image=proof.image,
            digest=str(proof.digest),
            media_type=self.media_type,
            policy=proof.policy,
            policy_hash=proof.policy_hash,
            signatures=tuple(
                Signature(
                    key=one.fingerprint,
                    name=self.names.get(one.fingerprint, ""),
                    signer=one.signer,
                    identity=one.identity,
                    annotations=one.annotations,
                    time=clock.rfc3339(one.time),
                    evidence=sha256(one.evidence).hexdigest(),
                )
                for one in proof.signatures
            ),
            version=proof.standing.version,
            downgrade=proof.downgrade,
            until=clock.rfc3339(self.until),
        )

    @property
    def evidence(self) -> Mapping[str, bytes]:
        """The bytes from which the decision can be made again, by their names: `Verification.evidence`."""
        if isinstance(self.proof, Exempted) or not self.proof.signatures:
            return {}
        kept = {sha256(one.evidence).hexdigest(): one.evidence for one in self.proof.signatures}
        return {self.proof.digest.hex: self.document, **kept}
