"""What trusted keys attest about an image: provenance, a list of its packages, anything in in-toto's form."""

from dataclasses import dataclass, field
from datetime import datetime

from keelboot.failure import SignatureRefused
from keelboot.image.digest import Digest
from keelboot.image.refusal import Refused
from keelboot.trust.collecting import Bundled, Collected, Enveloped
from keelboot.trust.identity import Asked
from keelboot.trust.judging import Judge
from keelboot.trust.policy import Signed


@dataclass(frozen=True, slots=True)
class Attested:
    """An attestation that counts, and by which key; `evidence` is the bundle or envelope."""

    where: str
    fingerprint: str
    predicate_type: str
    predicate: object
    evidence: bytes = field(repr=False)


def attested(
    image: Asked, digest: Digest, predicate_type: str, collected: Collected, *, requirement: Signed, now: datetime
) -> tuple[Attested, ...]:
    """The attestations of PREDICATE_TYPE about the image DIGEST by `threshold` different keys of REQUIREMENT.

    COLLECTED is what `collect` found with `attestations`.
    Raises SignatureRefused, with a reason for each that does not count.
    """
    judge = Judge(image, digest, now, requirement)
    found: list[Attested] = []
    reasons = list(collected.notes)
    candidates: tuple[Bundled | Enveloped, ...] = (*collected.bundles, *collected.envelopes)
    for one in candidates:
        try:
            key, said = judge.attestation(one)
            if said.predicate_type != predicate_type:
                raise Refused(f"it is a {said.predicate_type[:200]!a}")  # noqa: TRY301 - one of many reasons
        except Refused as error:
            reasons.append(f"{one.where}: {error}")
            continue
        found.append(Attested(one.where, key.fingerprint, said.predicate_type, said.predicate, one.data))
    if len({one.fingerprint for one in found}) >= requirement.threshold:
        return tuple(found)
    raise SignatureRefused(
        f"{image} is not attested",
        why=f"{digest}: there is no {predicate_type!a} by the keys that are trusted: "
        + ("; ".join(reasons) or "nothing"),
        fix="Attach one, signed by one of these keys, or ask for another type.",
        reasons=tuple(reasons),
    )
