"""Whether an image may run: the one function that decides, in the order of docs/trust.md.

Nothing is fetched here and no clock is read. Each step works on what the steps before it have proven; whatever goes
wrong is a reason against one signature, never a success and never a traceback.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from keelboot.failure import SignatureRefused
from keelboot.image.documents import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, verified
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import DOCUMENT_MAX, Members, parse
from keelboot.trust.collecting import Collected, Shelf, collect
from keelboot.trust.freshness import VERSION, Standing, leap, rollback, version_numbers
from keelboot.trust.identity import Asked
from keelboot.trust.judging import Judge
from keelboot.trust.policy import AcceptAnything, Reject, Requirement, Ruling, Signed, Unsupported
from keelboot.trust.verified import Counted, VerifiedImage

_REASONS_MAX = 10
_INDEXES = (OCI_INDEX, DOCKER_INDEX)
_TYPED = (OCI_INDEX, DOCKER_INDEX, DOCKER_MANIFEST)  # these have to state their own type
_NAMES = (
    "schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations",
    "fsLayers", "history", "signatures",
)  # fmt: skip


class Rules(Protocol):
    """A policy: `policy.Policy`, or `policy.Both`."""

    @property
    def source(self) -> str:
        """For people: where it is written."""

    @property
    def hash(self) -> str:
        """Names its bytes."""

    def ruling(self, image: Asked) -> Ruling:
        """What must hold for IMAGE."""


@dataclass(frozen=True, slots=True)
class Question:
    """May this run? `image` is what was asked for, `descriptor` what it was resolved to, once.

    `manifest` are the bytes of that, `created` is when the image was made as its config says, `now` is the time, in
    UTC. `running` is what it would replace; what speaks against that can be allowed.
    """

    image: Asked
    descriptor: Descriptor
    manifest: bytes = field(repr=False)
    now: datetime
    created: datetime | None = None
    running: Standing | None = None
    allow_downgrade: bool = False
    allow_leap: bool = False


def verify(question: Question, policy: Rules, shelf: Shelf, late: Callable[[], bool] = lambda: False) -> VerifiedImage:
    """As `decide`, with the signatures that SHELF has; it is asked only where the policy wants signatures.

    LATE tells whether the deadline for finding them is over. Raises SignatureRefused, and what SHELF raises.
    """
    check_manifest(question)
    wanted = any(isinstance(one, Signed) for one in policy.ruling(question.image).requirements)
    return decide(question, policy, collect(shelf, question.descriptor, late) if wanted else Collected())


def decide(question: Question, policy: Rules, collected: Collected) -> VerifiedImage:
    """The image, if POLICY is satisfied by what was COLLECTED. Raises SignatureRefused."""
    check_manifest(question)
    ruling = policy.ruling(question.image)
    counted: dict[str, Counted] = {}
    for requirement in ruling.requirements:
        for one in _satisfied(question, requirement, collected, ruling):
            counted.setdefault(one.fingerprint, one)
    signatures = tuple(counted.values())
    standing = Standing(question.descriptor.digest, _version(signatures), question.created)
    return VerifiedImage(
        str(question.image),
        question.descriptor.digest,
        signatures,
        standing,
        ruling.where,
        policy.hash,
        collected.notes,
        _downgrade(question, standing, ruling),
    )


def check_manifest(question: Question) -> None:
    """That the manifest or index is what was resolved, and is of one kind. Raises SignatureRefused."""
    try:
        _check_manifest(question.manifest, question.descriptor)
    except Refused as error:
        raise _refusal(question, f"its manifest: {error}", "Build, pull or push the image again.") from error


def _check_manifest(data: bytes, descriptor: Descriptor) -> None:
    if len(data) > DOCUMENT_MAX:
        raise Refused(f"it has {len(data)} bytes, more than {DOCUMENT_MAX}")
    members = Members(parse(verified(data, descriptor)), "", _NAMES)
    if members.integer("schemaVersion") != 2:
        raise Refused("its schemaVersion is not 2")
    stated = members.text("mediaType")
    if descriptor.media_type not in (*_INDEXES, OCI_MANIFEST, DOCKER_MANIFEST):
        raise Refused(f"it is {descriptor.media_type[:100]!a}, neither a manifest nor an index")
    if stated != descriptor.media_type and (stated is not None or descriptor.media_type in _TYPED):
        raise Refused(f"it says it is {stated!a}, its descriptor says {descriptor.media_type!a}")
    others = ("config", "layers") if descriptor.media_type in _INDEXES else ("manifests",)
    for name in (*others, "fsLayers", "history", "signatures"):
        if name in members:
            raise Refused(f"it has {name}, as documents of another kind have")


def _satisfied(
    question: Question, requirement: Requirement, collected: Collected, ruling: Ruling
) -> tuple[Counted, ...]:
    """The signatures that satisfy REQUIREMENT."""
    match requirement:
        case AcceptAnything():
            return ()
        case Reject():
            fix = "Name an image that the policy lets run, or change the policy."
            raise _refusal(question, f"the policy rejects it ({ruling.where})", fix)
        case Unsupported(what):
            fix = "Use sigstoreSigned in the policy, with the public key of who signs the image."
            raise _refusal(question, f"{what} ({ruling.where})", fix)
    judge = Judge(question.image, question.descriptor.digest, question.now, requirement)
    counted, reasons = judge.all(collected)
    if len(counted) >= requirement.threshold:
        return tuple(counted.values())
    raise _unsigned(question, requirement, len(counted), [*collected.notes, *reasons], ruling)


def _unsigned(
    question: Question, requirement: Signed, found: int, reasons: list[str], ruling: Ruling
) -> SignatureRefused:
    if not reasons and not found:
        why = f"it is not signed: there is no signature where signatures are kept ({ruling.where})"
    else:
        few = "no signature of it counts"
        if found:
            few = f"{found} of the {requirement.threshold} keys that are needed signed it"
        shown = reasons[:_REASONS_MAX]
        if len(reasons) > len(shown):
            shown.append(f"and {len(reasons) - len(shown)} more")
        why = f"{few} ({ruling.where}): " + "; ".join(shown or ["there is no other signature"])
    if requirement.certificate:
        wanted = "by a certificate that fits the policy"
    else:
        wanted = "by " + ", ".join(one.key.fingerprint for one in requirement.keys)
    return _refusal(question, why, f"Name an image that is signed {wanted}, or change the policy.", tuple(reasons))


def _refusal(question: Question, why: str, fix: str, reasons: tuple[str, ...] = ()) -> SignatureRefused:
    what = f"{question.image} is refused"
    return SignatureRefused(what, why=f"{question.descriptor.digest}: {why}", fix=fix, reasons=reasons)


def _version(signatures: tuple[Counted, ...]) -> str | None:
    """The least of the versions that were signed, as several signers may say several; what is no version is none."""
    said = (one.annotations.get(VERSION, "") for one in signatures)
    return min(
        (text for text in said if version_numbers(text)), key=lambda text: version_numbers(text) or (), default=None
    )


def _downgrade(question: Question, new: Standing, ruling: Ruling) -> str | None:
    """What speaks against NEW and was allowed."""
    spoken = []
    ahead = leap(new, question.running, question.now, ruling.max_jump)
    if ahead is not None:
        if not question.allow_leap:
            fix = "If this is meant, add --allow-leap; it is recorded and shown."
            raise _refusal(question, f"it is too far ahead: {ahead}", fix)
        spoken.append(ahead)
    older = rollback(new, question.running) if question.running else None
    if older is not None:
        if not question.allow_downgrade:
            fix = "If you want the older one, add --allow-downgrade; it is recorded and shown."
            raise _refusal(question, f"it is older than what runs: {older}", fix)
        spoken.append(older)
    return "; ".join(spoken) or None
