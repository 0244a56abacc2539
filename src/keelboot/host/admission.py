"""Whether an image may be staged on this machine: the policies are read, signatures are found, and `trust` decides.

Under its own name keelboot takes no image from a registry that nobody decided about; under the name bootc it does.
What a policy says holds under both, and no option switches it off. Images from places on the machine are judged by
containers-policy.json(5) alone, as podman does; none of these places keeps signatures.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from keelboot.assembly.record import Record
from keelboot.assembly.verification import Basis, Verification
from keelboot.failure import Failure, SignatureRefused
from keelboot.host import clock, policies
from keelboot.host.admitted import Admitted, Exempted
from keelboot.host.policies import Policies
from keelboot.image import remote
from keelboot.image.digest import Digest
from keelboot.image.documents import Descriptor, is_index, parse_index
from keelboot.image.reference import Reference, Transport
from keelboot.image.refusal import Refused, refusing
from keelboot.image.transports import Image
from keelboot.trust.freshness import EXPIRES, Standing

if TYPE_CHECKING:
    from keelboot.registry.opening import Registries
    from keelboot.trust.decision import Question, Rules
    from keelboot.trust.identity import Asked
    from keelboot.trust.policy import Ruling
    from keelboot.trust.verified import VerifiedImage


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for one operation: what the operator said, and where policies are read, at each decision anew.

    `lenient` takes what no policy is about, as bootc does; `strict` wants a policy that does not accept everything by
    default. `called` is whose name the policy is asked about, where the image is read from another place.
    """

    lenient: bool = False
    strict: bool = False
    allow_unsigned: bool = False
    allow_downgrade: bool = False
    allow_leap: bool = False
    called: Reference | None = None
    policies: Callable[[], Policies] = policies.machines
    now: Callable[[], datetime] = _now


def foresee(reference: Reference, terms: Terms) -> None:
    """Refuse what a policy refuses whatever the image is, before anyone is asked for it, and all if one is broken.

    That no policy is about it is told later: first a name that was mistyped is. Raises SignatureRefused,
    InvalidSettings, MissingTool.
    """
    held = _read(terms, reference)
    if reference.transport is not Transport.REGISTRY:
        return
    image = _asked(reference, terms)
    if not held.covers(image):
        return
    from keelboot.trust.policy import Reject  # noqa: PLC0415 - it loads what verifies signatures

    ruling = _rules(held).ruling(image)
    if any(isinstance(one, Reject) for one in ruling.requirements):
        raise SignatureRefused(
            f"{image} is refused",
            why=f"the policy rejects it ({ruling.where})",
            fix="Name an image that the policy lets run, or change the policy.",
        )


def admit(image: Image, terms: Terms, running: Standing | None = None) -> Admitted:
    """Decide about IMAGE, none of whose layers has been read. RUNNING is what it must not be older than.

    Raises SignatureRefused, InvalidSettings, MissingTool, and for registries NetworkFailed, AccessDenied.
    """
    if image.reference.transport is Transport.REGISTRY:
        created = clock.moment(image.config.created)
        return admit_resolved(image.reference, image.manifest_digest, terms, created=created, running=running)
    held = _read(terms, image.reference)
    return _local(image.reference, image.manifest_digest, held)


def admit_resolved(
    reference: Reference,
    manifest: Digest,
    terms: Terms,
    *,
    created: datetime | None,
    running: Standing | None = None,
) -> Admitted:
    """Decide about the image in a registry that REFERENCE was resolved to, once; its own manifest is MANIFEST.

    It was CREATED then, as its config says. Raises as `admit` does.
    """
    held, now = _read(terms, reference), terms.now()
    registries = _registries()
    with refusing(reference, "its documents"):
        resolved = registries.resolve(reference)
        image = _asked(reference, terms)
        descriptor, document = resolved.document.descriptor, resolved.document.data
        _require_listed(manifest, descriptor, document)
        if (basis := _exception(image, held, terms)) is not None:
            exempted = Exempted(image=str(image), digest=descriptor.digest, basis=basis)
            return Admitted(manifest=manifest, proof=exempted, media_type=descriptor.media_type)
        from keelboot.trust import decision  # noqa: PLC0415 - it loads what verifies signatures
        from keelboot.trust.decision import Question  # noqa: PLC0415
        from keelboot.trust.shelf import RegistryShelf, deadline  # noqa: PLC0415

        rules = _rules(held)
        if not _enforced(rules.ruling(image)):  # it could say of itself what it likes: nothing of that is compared
            created = running = None
        question = Question(image, descriptor, document, now, created, running, terms.allow_downgrade, terms.allow_leap)
        with _explained(terms, running, now), deadline(registries.cut):
            verified = decision.verify(question, rules, RegistryShelf(resolved.client))
    return _admitted(manifest, question, verified, held)


def admit_again(record: Record, kept: Mapping[str, bytes], terms: Terms, running: Standing | None = None) -> Admitted:
    """Decide about what RECORD is of once more, from the evidence that was KEPT with it, by its names; no network.

    Raises as `admit` does.
    """
    before, reference = record.verification or Verification(basis=Basis.UNCHECKED), Reference.parse(record.image)
    manifest = Digest.parse(record.manifest_digest)
    held, now = _read(terms, reference), terms.now()
    if reference.transport is not Transport.REGISTRY or before.basis is Basis.LOCAL:
        return replace(_local(reference, manifest, held), media_type=before.media_type)
    from keelboot.trust.identity import Asked, Named, parse_named  # noqa: PLC0415 - of no use without registries

    with refusing(reference, "the record of its verification"):
        named = parse_named(before.image or f"{reference.name}@{manifest}")
        digest = Digest.parse(before.digest) if before.digest else manifest
        image = Asked("docker", Named(named.repository, None, digest) if named.bare else named)
        already = replace(terms, allow_unsigned=terms.allow_unsigned or before.basis is Basis.ALLOWED)
        if (basis := _exception(image, held, already)) is not None:
            exempted = Exempted(image=str(image), digest=digest, basis=basis)
            return Admitted(manifest=manifest, proof=exempted, media_type=before.media_type)
        from keelboot.trust import decision  # noqa: PLC0415 - it loads what verifies signatures
        from keelboot.trust.decision import Question  # noqa: PLC0415
        from keelboot.trust.evidence import collected  # noqa: PLC0415

        rules, document = _rules(held), kept.get(digest.hex, b"")
        ruling = rules.ruling(image)
        if not _enforced(ruling):
            proof = Exempted(
                image=str(image), digest=digest, basis=Basis.POLICY, policy=ruling.where, policy_hash=rules.hash
            )
            return Admitted(manifest=manifest, proof=proof, media_type=before.media_type)
        if not document:
            raise SignatureRefused(
                f"{image} is refused",
                why=f"the policy wants it signed ({ruling.where}), and no signatures of it were kept",
                fix="Download it again, with `keelboot upgrade --download-only`: then its signatures are looked for.",
            )
        older = before.downgrade is not None  # which was allowed when it was downloaded
        question = Question(
            image,
            Descriptor(before.media_type, digest, len(document)),
            document,
            now,
            clock.moment(record.created),
            running,
            terms.allow_downgrade or older,
            terms.allow_leap or older,
        )
        signatures = {f"signature {name[:12]}": data for name, data in kept.items() if name != digest.hex}
        with _explained(terms, running, now):
            verified = decision.decide(question, rules, collected(signatures))
    return _admitted(manifest, question, verified, held)


def standing(record: Record) -> Standing | None:
    """How old what RECORD is of is; None where nothing is known of it."""
    before = record.verification
    for text in (before.digest if before else "", record.manifest_digest, record.config_digest):
        if text:
            version = before.version if before else None
            return Standing(Digest.parse(text), version, clock.moment(record.created))
    return None


def _read(terms: Terms, reference: Reference) -> Policies:
    """The policies that hold now. Raises InvalidSettings; SignatureRefused where they are not as strict as wanted."""
    held = terms.policies()
    if terms.strict and held.accepts_by_default:
        raise SignatureRefused(
            f"{reference} is refused",
            why="a policy is to be enforced (--enforce-container-sigpolicy), and "
            + ("there is none" if held.rules is None else f"{policies.CONTAINERS} accepts everything by default"),
            fix=f'Have {policies.CONTAINERS} with another default than insecureAcceptAnything, like "reject".',
        )
    return held


def _require_listed(manifest: Digest, descriptor: Descriptor, document: bytes) -> None:
    """That MANIFEST is what DESCRIPTOR names, or one of the index that it names. Raises Refused."""
    listed = {descriptor.digest}
    if is_index(descriptor.media_type):
        listed = {one.digest for one in parse_index(document, descriptor.media_type).manifests}
    if manifest not in listed:
        raise Refused(f"{manifest} is not what the name led to, {descriptor.digest}")


def _asked(reference: Reference, terms: Terms) -> "Asked":
    """The name by which policies are asked about REFERENCE, an image in a registry."""
    from keelboot.trust.identity import asked  # noqa: PLC0415 - of no use where there are no registries

    named = terms.called if terms.called and terms.called.transport is Transport.REGISTRY else reference
    return asked(named, _registries().name(named))


def _exception(image: "Asked", held: Policies, terms: Terms) -> Basis | None:
    """On what basis IMAGE is taken although no policy is about it; None where one is. Raises SignatureRefused."""
    if held.covers(image):
        return None
    if terms.allow_unsigned or terms.lenient:
        return Basis.ALLOWED if terms.allow_unsigned else Basis.UNCHECKED
    assert image.named is not None
    repository = image.named.repository
    key = f'"keys": {{"release": {{"path": "/etc/keelboot/keys/release.pub", "repositories": ["{repository}"]}}}}'
    example = f'{{"version": 1, {key}, "images": {{"{repository}": {{"keys": ["release"]}}}}}}'
    raise SignatureRefused(
        f"{image} is refused",
        why=f"no policy of this machine says who signs {repository}",
        fix=f"Say it in {policies.OWN}: {example}. Or add --allow-unsigned: it is recorded and shown.",
    )


def _enforced(ruling: "Ruling") -> bool:
    from keelboot.trust.policy import AcceptAnything  # noqa: PLC0415 - it loads what verifies signatures

    return not all(isinstance(one, AcceptAnything) for one in ruling.requirements)


def _admitted(manifest: Digest, question: "Question", verified: "VerifiedImage", held: Policies) -> Admitted:
    return Admitted(
        manifest=manifest,
        proof=verified,
        media_type=question.descriptor.media_type,
        document=question.manifest,
        names=held.names,
        until=_until(_rules(held).ruling(question.image), verified),
    )


def _until(ruling: "Ruling", verified: "VerifiedImage") -> datetime | None:
    """Until when what counted is recent enough for RULING."""
    from keelboot.trust.freshness import seconds  # noqa: PLC0415 - see the module
    from keelboot.trust.policy import Signed  # noqa: PLC0415

    never, ends = datetime.max.replace(tzinfo=UTC), []
    for one in ruling.requirements:
        if not isinstance(one, Signed):
            continue
        keys, age = {trusted.key.fingerprint for trusted in one.keys}, one.claims.max_age
        each = []
        for counted in verified.signatures:
            if one.certificate is None and counted.fingerprint not in keys:
                continue
            said = counted.annotations.get(EXPIRES)
            expires = seconds(said, EXPIRES) if said is not None else never
            each.append(min(expires, counted.time + age if counted.time and age else never))
        # With more signatures than are needed, the oldest ones may run out.
        ends += sorted(each, reverse=True)[one.threshold - 1 : one.threshold]
    return min((end for end in ends if end != never), default=None)


def _local(reference: Reference, manifest: Digest, held: Policies) -> Admitted:
    """An image from a place on the machine, if containers-policy.json(5) lets it in. Raises SignatureRefused."""
    proof = Exempted(image=str(reference), digest=manifest, basis=Basis.LOCAL)
    if held.containers is None:
        return Admitted(manifest=manifest, proof=proof)
    from keelboot.trust.identity import Asked  # noqa: PLC0415 - it loads what verifies signatures

    by_path = reference.transport in (Transport.OCI, Transport.OCI_ARCHIVE)
    path = str(Path(reference.location).resolve()) if by_path else ""
    ruling = held.containers.ruling(Asked(str(reference.transport), None, path))
    if _enforced(ruling):
        raise SignatureRefused(
            f"{reference} is refused",
            why=f"the policy does not let every image of {reference.transport}: in ({ruling.where}), and no signatures "
            "are kept there",
            fix=f"Take the image from a registry, or change the policy for {reference.transport}.",
        )
    proof = replace(proof, policy=ruling.where, policy_hash=held.containers.hash)
    return Admitted(manifest=manifest, proof=proof)


@contextmanager
def _explained(terms: Terms, running: Standing | None, now: datetime) -> Iterator[None]:
    """Add to a refusal what the machine's clock, or an option that did not help, has to do with it."""
    try:
        yield
    except SignatureRefused as error:
        trouble = clock.trouble(running.created if running else None, now)
        why, fix = error.why, error.fix
        if trouble:
            why, fix = f"{why}; {trouble}", f"Set the clock (`timedatectl`), then try again. {fix}"
        if terms.allow_unsigned:
            fix = f"{fix} --allow-unsigned does not switch a policy off."
        raise SignatureRefused(error.what, why=why, fix=fix, reasons=error.reasons) from error


def _rules(held: Policies) -> "Rules":
    rules = held.rules
    assert rules is not None  # what is covered is covered by one
    return rules


def _registries() -> "Registries":
    """What opened the image: it remembers what its name was resolved to."""
    from keelboot.registry.opening import Registries  # noqa: PLC0415 - it loads what speaks HTTP

    provided = remote.provided()
    if not isinstance(provided, Registries):
        raise Failure(
            "cannot look for signatures",
            why="this program does not speak with registries",
            fix="Use an image from another place.",
        )
    return provided
