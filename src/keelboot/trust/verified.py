"""What a decision gives: an image that may run, with who said so, or a refusal that says why for each signature."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from keelboot.image.digest import Digest
from keelboot.trust.freshness import Standing


@dataclass(frozen=True, slots=True)
class Counted:
    """A signature that counts. `identity` is the name that was signed, None where none was: never show another.

    `time` is when it was made, as the log or the signer says. `evidence` are the bytes it can be verified from again:
    a bundle, or what `dir:` directories of containers-transports(5) keep as `signature-1`.
    """

    where: str
    fingerprint: str
    signer: str  # for people: the kind of the key, or who the certificate is for
    identity: str | None
    annotations: Mapping[str, str]
    time: datetime | None
    evidence: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class VerifiedImage:
    """An image that satisfies the policy: to be shown by whoever wants it staged.

    `signatures` has one for each key that counted; it is empty where the policy wants none. `downgrade` is what speaks
    against it and was allowed by the user.
    """

    image: str
    digest: Digest
    signatures: tuple[Counted, ...]
    standing: Standing
    policy: str  # where the rule is written
    policy_hash: str
    notes: tuple[str, ...] = ()
    downgrade: str | None = None

    @property
    def enforced(self) -> bool:
        """Whether a signature was needed."""
        return bool(self.signatures)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the keys that signed."""
        return tuple(one.fingerprint for one in self.signatures)
