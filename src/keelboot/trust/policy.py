"""What must hold for an image before it may run: requirements, by the scope an image is in; values only.

Two kinds of file give a policy: containers-policy.json(5) (`containerspolicy`) and keelboot's own (`trustpolicy`). A
third is made of keys alone. Where two policies say something about an image, both hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256

from keelboot.trust.certificates import FulcioRule, PkiRule
from keelboot.trust.identity import Asked, Identity, MatchRepository
from keelboot.trust.keyless import KeylessRule
from keelboot.trust.keys import PublicKey
from keelboot.trust.scopes import scopes


@dataclass(frozen=True, slots=True)
class AcceptAnything:
    """No signature is needed."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Nothing is accepted."""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A requirement that keelboot cannot check, and therefore never finds met."""

    what: str


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key that may sign; bound to `repositories` (full names, each whole) where these are given.

    A bound key counts for no other repository. Only a bound key's bundles can do without a signed name.
    """

    key: PublicKey
    repositories: tuple[str, ...] | None = None

    def fits(self, image: Asked) -> bool:
        """Whether the key may sign for IMAGE."""
        return self.repositories is None or (image.named is not None and image.named.repository in self.repositories)


@dataclass(frozen=True, slots=True)
class Claims:
    """What the signed annotations have to say, for a signature to count."""

    stream: str | None = None
    minimum_version: str | None = None
    max_age: timedelta | None = None


CertificateRule = FulcioRule | PkiRule | KeylessRule


@dataclass(frozen=True, slots=True)
class Signed:
    """Signatures by `threshold` different keys of `keys`, or one by a certificate that fits `certificate`.

    With `log_keys`, each needs a signed entry timestamp by one of these logs.
    """

    keys: tuple[TrustedKey, ...]
    identity: Identity
    threshold: int = 1
    log_keys: tuple[PublicKey, ...] = ()
    certificate: CertificateRule | None = None
    claims: Claims = Claims()

    def __post_init__(self) -> None:  # what asks for nothing would always be satisfied
        signers = 1 if self.certificate else len({one.key for one in self.keys})
        if not 1 <= self.threshold <= signers or (self.certificate and self.keys):
            raise ValueError(f"{self.threshold} of {signers} signers")


Requirement = AcceptAnything | Reject | Unsupported | Signed


@dataclass(frozen=True, slots=True)
class Ruling:
    """The requirements that hold for an image, all of them, and where they are written."""

    where: str
    requirements: tuple[Requirement, ...]
    max_jump: int | None = None

    def __post_init__(self) -> None:
        if not self.requirements:
            raise ValueError("a rule without requirements")


@dataclass(frozen=True, slots=True)
class Policy:
    """`rules` are by transport and scope. `hash` names the bytes of the policy and of all files it refers to."""

    source: str
    default: tuple[Requirement, ...]
    rules: Mapping[tuple[str, str], Ruling]
    hash: str
    # Leaves to another policy what it has no rule for.
    defers: bool = False
    bindings: Mapping[PublicKey, tuple[str, ...]] = field(default_factory=dict)

    def find(self, image: Asked) -> Ruling | None:
        """The rule of the most specific scope that IMAGE is in."""
        for scope in scopes(image):
            found = self.rules.get((image.transport, scope))
            if found is not None:
                return found
        return None

    def ruling(self, image: Asked) -> Ruling:
        """What must hold for IMAGE."""
        return self.find(image) or Ruling(f"{self.source}: default", self.default)


@dataclass(frozen=True, slots=True)
class Both:
    """Keelboot's own policy and containers' together: what each says of an image holds.

    Keys that the own one binds to repositories are bound in the other too.
    """

    own: Policy
    containers: Policy

    @property
    def hash(self) -> str:
        """Names both."""
        return _hash(self.own.hash.encode(), self.containers.hash.encode())

    @property
    def source(self) -> str:
        """For people."""
        return f"{self.own.source} and {self.containers.source}"

    def ruling(self, image: Asked) -> Ruling:
        """What must hold for IMAGE."""
        theirs = self.containers.ruling(image)
        theirs = replace(theirs, requirements=tuple(self._bound(one) for one in theirs.requirements))
        own = self.own.find(image)
        if own is None:
            return theirs if self.own.defers else self.own.ruling(image)
        where = f"{own.where} and {theirs.where}"
        return replace(own, where=where, requirements=(*own.requirements, *theirs.requirements))

    def _bound(self, requirement: Requirement) -> Requirement:
        if not isinstance(requirement, Signed):
            return requirement
        keys = (TrustedKey(one.key, self.own.bindings.get(one.key, one.repositories)) for one in requirement.keys)
        return replace(requirement, keys=tuple(keys))


def key_policy(keys: tuple[PublicKey, ...], image: Asked, source: str = "--key") -> Policy:
    """The policy of who says "one of KEYS signs IMAGE's repository" and nothing else.

    The keys are bound to that repository, and everything else is rejected.
    """
    if not keys:
        raise ValueError("a policy without keys")
    if image.named is None:
        raise ValueError(f"no repository: {image}")
    repository = image.named.repository
    where = f"{source} for {repository}"
    trusted = tuple(TrustedKey(key, (repository,)) for key in dict.fromkeys(keys))
    rule = Ruling(where, (Signed(trusted, MatchRepository()),))
    digest = _hash(repository.encode(), *sorted(key.der for key in keys))
    return Policy(source, (Reject(),), {(image.transport, repository): rule}, digest)


def policy_hash(document: bytes, files: Mapping[str, bytes]) -> str:
    """The name of a policy: the SHA-256 of DOCUMENT and of the FILES it refers to, each with its length."""
    parts = [part for name in sorted(files) for part in (name.encode(), files[name])]
    return _hash(document, *parts)


def _hash(*parts: bytes) -> str:
    whole = sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return f"sha256:{whole.hexdigest()}"
