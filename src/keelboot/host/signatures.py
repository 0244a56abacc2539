"""Signatures in the life of a machine: before a version is staged, when that was downloaded, and while it runs."""

from dataclasses import replace

from keelboot.assembly.record import Record
from keelboot.assembly.verification import Basis, Verification
from keelboot.failure import AccessDenied, NetworkFailed, SignatureRefused
from keelboot.host import admission, clock, records
from keelboot.host.admission import Terms
from keelboot.host.admitted import Admitted
from keelboot.host.sysroot import Sysroot
from keelboot.image.digest import Digest
from keelboot.image.reference import Reference, Transport
from keelboot.image.transports import Image
from keelboot.image.tree import ObjectId
from keelboot.trust.freshness import Standing


def running(sysroot: Sysroot, booted: ObjectId, source: Reference, *, switching: bool) -> Standing | None:
    """What an image from SOURCE must not be older than: what runs, unless the machine is SWITCHING to another image.

    Another repository has a history of its own, so its versions and times say nothing about what runs here.
    """
    record = records.find(sysroot, booted)
    if record is None or (switching and Reference.parse(record.image).location != source.location):
        return None
    return admission.standing(record)


def look(
    image: Image, terms: Terms, older: Standing | None, *, refusing: bool = False
) -> tuple[Verification | None, str]:
    """What would be decided about IMAGE, and why it would be refused, if it would be; REFUSING, that is raised."""
    try:
        return admission.admit(image, terms, older).verification, ""
    except SignatureRefused as refused:
        if refusing:
            raise
        return None, refused.why


def admit_downloaded(sysroot: Sysroot, booted: ObjectId, record: Record, terms: Terms) -> Admitted:
    """Decide again about what was downloaded and RECORD is of, by the policies of now. Raises as `admit` does."""
    before = records.find(sysroot, booted)
    switching = before is None or Reference.parse(before.image).location != Reference.parse(record.image).location
    older = running(sysroot, booted, Reference.parse(record.image), switching=switching)
    return admission.admit_again(record, records.evidence(sysroot, record), terms, older)


def renew(sysroot: Sysroot, record: Record, source: Reference, terms: Terms) -> str:
    """Keep what is found now about the signatures of RECORD's image, which SOURCE still names; a remark for people.

    Signing an image again keeps it fresh, and a policy may have come since. What is refused now goes on running.
    Raises InvalidSettings, MissingTool.
    """
    if source.transport is not Transport.REGISTRY or record.image != str(source):
        return ""
    try:
        admitted = admission.admit_resolved(
            source,
            Digest.parse(record.manifest_digest),
            replace(terms, lenient=True, strict=False, allow_unsigned=False),
            created=clock.moment(record.created),
        )
    except SignatureRefused as refused:
        return f"This version would not be staged now: {refused.why}"
    except (NetworkFailed, AccessDenied) as failure:
        return f"Its signatures could not be looked at again: {failure.why}"
    found, before = admitted.verification, record.verification
    if found.basis not in (Basis.SIGNED, Basis.POLICY):
        return ""  # no policy is about it: what was recorded stays
    found = replace(found, downgrade=before.downgrade if before else None, unknown=before.unknown if before else {})
    if found != before or records.evidence(sysroot, record).keys() != found.evidence:
        records.write_verified(sysroot, replace(record, verification=found), admitted.evidence)
    return ""
