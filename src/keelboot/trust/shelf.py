"""Signatures in registries: where they are found, and whether they let an image run.

An image is resolved once (`Registries.resolve`). What is attached to it is then looked for at the same place, a mirror
included, by the digest that was found: no tag is asked for a second time.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from keelboot.failure import ImageNotFound, NetworkFailed
from keelboot.image.digest import Digest
from keelboot.image.documents import OCI_MANIFEST, Descriptor, is_manifest
from keelboot.image.reference import Reference
from keelboot.image.refusal import Refused, refusing
from keelboot.registry.client import Client
from keelboot.registry.connections import Cut
from keelboot.registry.opening import Registries, Resolved
from keelboot.trust.attesting import Attested, attested
from keelboot.trust.collecting import Collected, collect
from keelboot.trust.decision import Question, Rules, check_manifest, decide
from keelboot.trust.freshness import Standing
from keelboot.trust.identity import Asked, asked
from keelboot.trust.policy import Signed
from keelboot.trust.verified import VerifiedImage

DEADLINE: Final = 120.0  # seconds to find all that is attached to one image


class RegistryShelf:
    """What is attached to the images of the repository that CLIENT reads: `keelboot.trust.collecting.Shelf`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def tagged(self, tag: str, limit: int) -> bytes | None:
        try:
            return _bounded(self._client.fetch(tag, (OCI_MANIFEST,)).data, limit)
        except ImageNotFound:
            return None

    def fetch(self, descriptor: Descriptor, limit: int) -> bytes:
        if is_manifest(descriptor.media_type):
            return _bounded(self._client.fetch(descriptor.digest, (descriptor.media_type,)).data, limit)
        return self._client.read_blob(descriptor, limit=limit)

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        return self._client.referrers(digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a decision needs besides the image and its signatures; see keelboot.trust.decision.Question."""

    now: datetime
    created: datetime | None = None
    running: Standing | None = None
    allow_downgrade: bool = False


def verified(
    registries: Registries, reference: Reference, rules: Rules, given: Circumstances, *, seconds: float = DEADLINE
) -> VerifiedImage:
    """The image that REFERENCE names, if RULES are satisfied by what is attached to it.

    What it stands for is `registries.resolve(reference)`, before and after: use that, or the result's digest. Raises
    SignatureRefused, ImageNotFound, InvalidImage, NetworkFailed, AccessDenied, and Failure for settings.
    """
    resolved = _resolved(registries, reference)
    question = _question(resolved, reference, given)
    check_manifest(question)
    wanted = any(isinstance(one, Signed) for one in rules.ruling(question.image).requirements)
    found = _collected(registries, resolved, seconds) if wanted else Collected()
    return decide(question, rules, found)


def attestations(
    registries: Registries,
    reference: Reference,
    predicate_type: str,
    requirement: Signed,
    given: Circumstances,
    *,
    seconds: float = DEADLINE,
) -> tuple[Digest, tuple[Attested, ...]]:
    """The digest of what REFERENCE names, and what REQUIREMENT's keys attest about it. Raises as `verified` does."""
    resolved = _resolved(registries, reference)
    question = _question(resolved, reference, given)
    check_manifest(question)
    found = _collected(registries, resolved, seconds, attestations=True)
    digest = resolved.document.descriptor.digest
    return digest, attested(question.image, digest, predicate_type, found, requirement=requirement, now=given.now)


def asked_for(registries: Registries, reference: Reference) -> Asked:
    """What REFERENCE asks for, as policies have it; nobody is asked for that."""
    return asked(reference, registries.name(reference))


def _resolved(registries: Registries, reference: Reference) -> Resolved:
    with refusing(reference, "its documents"):
        return registries.resolve(reference)


def _question(resolved: Resolved, reference: Reference, given: Circumstances) -> Question:
    return Question(
        asked(reference, resolved.name),
        resolved.document.descriptor,
        resolved.document.data,
        given.now,
        given.created,
        given.running,
        given.allow_downgrade,
    )


def _collected(registries: Registries, resolved: Resolved, seconds: float, *, attestations: bool = False) -> Collected:
    with deadline(registries.cut, seconds):
        return collect(RegistryShelf(resolved.client), resolved.document.descriptor, attestations=attestations)


@contextmanager
def deadline(cut: Callable[[], None], seconds: float = DEADLINE) -> Iterator[None]:
    """Let what is inside take so many SECONDS; then CUT, which ends requests under way, is called.

    Raises NetworkFailed where it was late: nobody knows then whether an image is signed.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        cut()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (NetworkFailed, ImageNotFound, Cut) as error:
        if not late.is_set():
            raise
        raise _late(seconds) from error
    finally:
        timer.cancel()
        timer.join()
    if late.is_set():  # what came of connections that were cut is not to be relied on
        raise _late(seconds)


def _late(seconds: float) -> NetworkFailed:
    return NetworkFailed(
        "cannot find the image's signatures",
        why=f"the registry took more than {seconds:g} s to hand them over",
        fix="Nothing was decided. Run the same command again, where the network is better.",
    )


def _bounded(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise Refused(f"it has {len(data)} bytes, more than {limit}")
    return data
