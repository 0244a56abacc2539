"""Another version for this machine: found, fetched, judged, staged. What runs goes on running until the next boot."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from keelboot.assembly.record import Record, State
from keelboot.assembly.verification import Verification
from keelboot.boot import esp
from keelboot.failure import Failure, Unhealthy
from keelboot.host import (
    admission,
    cached,
    conflicts,
    garbage,
    kept,
    records,
    retention,
    rollback,
    signatures,
    space,
    stage,
    trial,
)
from keelboot.host.admission import Terms
from keelboot.host.admitted import Admitted
from keelboot.host.failed import FailedVersion
from keelboot.host.stage import Candidate
from keelboot.host.status import Cached
from keelboot.host.sysroot import Sysroot
from keelboot.image.reference import Reference
from keelboot.image.transports import Image, fingerprint, open_image
from keelboot.image.tree import ObjectId
from keelboot.progress import SILENT, Progress
from keelboot.store.repository import Lock, opened


class Result(Enum):
    """What an upgrade came to."""

    UNCHANGED = "unchanged"  # nothing was there that this machine does not have
    STAGED = "staged"  # it boots next
    DOWNLOADED = "downloaded"  # it waits for `upgrade --from-downloaded`
    REFUSED = "refused"  # it failed on this machine before, and nobody asked to try it again


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for. AUTOMATIC is for timers: a version that failed before is passed over without an error.

    TERMS are about who has to have signed it.
    """

    source: Reference
    terms: Terms = field(default_factory=Terms)
    switching: bool = False
    retry_failed: bool = False
    automatic: bool = False
    download_only: bool = False
    jobs: int = 2
    scratch: Path | None = None  # where a copy from podman's store may lie
    var: Path | None = None  # the machine's /var, which has to have room


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What it came to: the version's record, remarks for people, files in /etc that both sides changed."""

    result: Result
    record: Record | None = None
    remarks: tuple[str, ...] = ()
    both: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a source has now, told without reading a layer. Sizes are bytes as stored.

    `verification` is what was decided about its signatures, `refusal` why it would not be staged; neither where nothing
    would be.
    """

    image: str
    manifest_digest: str
    version: str
    timestamp: str
    changed: bool
    layers: int = 0
    missing_layers: int = 0
    missing_size: int = 0
    remark: str = ""
    verification: Verification | None = None
    refusal: str = ""


def followed(sysroot: Sysroot, booted: ObjectId) -> str | None:
    """The reference that upgrades follow: what is staged says so, else what runs; None where its record is lost."""
    record = records.find(sysroot, waiting(sysroot, booted) or booted)
    return record.image if record else None


def require_followed(sysroot: Sysroot, booted: ObjectId) -> Reference:
    """The same. Raises Failure where it is not known."""
    image = followed(sysroot, booted)
    if image is None:
        raise Failure(
            "cannot tell which image this machine follows",
            why=f"the record of what runs, {booted.hex[:12]}, is lost",
            fix="`keelboot switch IMAGE` says which, and puts the record back.",
        )
    return Reference.parse(image)


def waiting(sysroot: Sysroot, booted: ObjectId) -> ObjectId | None:
    """The deployment that boots next and never did, or that was downloaded for it."""
    staged = retention.staged(kept.held(sysroot), booted)
    return staged.digest if staged else kept.downloaded(sysroot)


def check(sysroot: Sysroot, booted: ObjectId, wish: Wish, *, rehearse: bool = False) -> Offer:
    """What the source has, and whether that is new here; remembered for `status`. Raises as opening an image does.

    REHEARSE changes nothing, and refuses what `update` refuses, as far as no layer has to be read for that.
    """
    if wish.switching:
        admission.foresee(wish.source, wish.terms)
    judged = replace(wish, download_only=False, automatic=not rehearse)  # nothing is held back, a failure only told
    outcome = _decided(sysroot, booted, judged, _marks(wish.source))
    if outcome and outcome.record:
        return offered(outcome.record, source=wish.source)
    with open_image(wish.source, architecture=os.uname().machine, scratch=wish.scratch) as image:
        outcome = _decided(sysroot, booted, judged, _marks(image))
        if outcome and outcome.record:
            return offered(outcome.record, source=wish.source)
        older = signatures.running(sysroot, booted, wish.source, switching=wish.switching)
        verification, refusal = signatures.look(image, wish.terms, older, refusing=rehearse)
        with opened(sysroot.store, Lock.SHARED) as repository:
            missing = [layer for layer in image.layers if not stage.has_layer(repository, layer.diff_id)]
        if rehearse:
            stage.refuse_unfit(str(wish.source), image.config)
            size = space.missing(missing, lambda _: False)
            space.require_store(sysroot, wish.source, size)
            if size:
                space.require_stated(sysroot, image.config, wish.source, var=wish.var, rehearse=True)
        offer = Offer(
            image=str(wish.source),
            manifest_digest=str(image.manifest_digest),
            version=image.config.labels.get("org.opencontainers.image.version", ""),
            timestamp=image.config.created or "",
            changed=True,
            layers=len(image.layers),
            missing_layers=len(missing),
            missing_size=sum(layer.descriptor.size for layer in missing),
            remark=outcome.remarks[0] if outcome else "",
            verification=verification,
            refusal=refusal,
        )
    if rehearse:
        return offer
    with suppress(OSError):
        cached.write(
            sysroot,
            Cached(
                image=offer.image,
                manifest_digest=offer.manifest_digest,
                version=offer.version,
                timestamp=offer.timestamp,
                checked=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            ),
        )
    return offer


def update(
    sysroot: Sysroot,
    booted: ObjectId,
    wish: Wish,
    *,
    progress: Progress = SILENT,
    reached: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Have what WISH names as the next boot of the machine that runs BOOTED. Cuts leave what `stage` says.

    Raises SignatureRefused, EtcConflict, Unhealthy, OutOfSpace, CannotFinish, Failure, and what opening and reading an
    image raises.
    """
    if wish.switching:
        admission.foresee(wish.source, wish.terms)
    # First by what names it, then by its documents, then by what it turns out to be: the earlier, the less is fetched.
    if outcome := _decided(sysroot, booted, wish, _marks(wish.source)):
        return _renewed(sysroot, booted, wish, outcome)
    with open_image(wish.source, architecture=os.uname().machine, scratch=wish.scratch) as image:
        if outcome := _decided(sysroot, booted, wish, _marks(image)):
            return outcome
        older = signatures.running(sysroot, booted, wish.source, switching=wish.switching)
        admitted = admission.admit(image, wish.terms, older)
        with stage.fetched(
            sysroot, image, var=wish.var, jobs=wish.jobs, progress=progress, reached=reached
        ) as candidate:
            record = records.find(sysroot, candidate.digest)
            if record is None and candidate.digest == booted:
                record = _put_back(sysroot, candidate, admitted)
            if record and (outcome := _settled(sysroot, booted, wish, record)):
                return outcome
            if refused := _failed_before(sysroot, wish, lambda one: one.digest == candidate.digest):
                return refused
            return _commit(
                sysroot,
                booted,
                candidate,
                admitted,
                var=wish.var,
                download_only=wish.download_only,
                progress=progress,
                reached=reached,
            )


def from_downloaded(
    sysroot: Sysroot,
    booted: ObjectId,
    *,
    terms: Terms | None = None,
    var: Path | None = None,
    progress: Progress = SILENT,
    reached: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Have what was downloaded as the next boot; no network is needed. Raises as `update` does.

    By TERMS it is decided again whether it may be, from the signatures that were kept with it.
    """
    record = require_downloaded(sysroot)
    admitted = signatures.admit_downloaded(sysroot, booted, record, terms or Terms())
    with stage.stored(sysroot, record, progress=progress) as candidate:
        return _commit(sysroot, booted, candidate, admitted, var=var, progress=progress, reached=reached)


def require_downloaded(sysroot: Sysroot) -> Record:
    """What `from_downloaded` would stage. Raises Failure where there is nothing."""
    digest = kept.downloaded(sysroot)
    if digest is None:
        raise Failure(
            "there is nothing to stage",
            why="no version was downloaded since the last boot",
            fix="`keelboot upgrade --download-only` downloads one, `keelboot upgrade` stages it at once.",
        )
    return records.read(sysroot, digest)


def tidy(sysroot: Sysroot, booted: ObjectId, progress: Progress = SILENT) -> str:
    """Remove what a new version made superfluous; what went wrong, or nothing: the upgrade itself is done by then."""
    try:
        if garbage.due(sysroot, booted):
            garbage.collect(sysroot, booted, progress=progress)
    except (Failure, OSError) as error:
        return f"what is no longer needed was not removed: {str(error).splitlines()[0]}"
    return ""


def _commit(
    sysroot: Sysroot,
    booted: ObjectId,
    candidate: Candidate,
    admitted: Admitted,
    *,
    var: Path | None,
    download_only: bool = False,
    progress: Progress,
    reached: Callable[[str], None],
) -> Outcome:
    if var:
        space.require_var(var, candidate.tree, candidate.system.image)
    both, remarks = conflicts.judge(sysroot, booted, candidate)
    record = stage.commit(
        sysroot,
        candidate,
        admitted,
        parent=booted,
        settings=records.settings(sysroot),
        verified=rollback.verified(sysroot),
        download_only=download_only,
        progress=progress,
        reached=reached,
    )
    with suppress(OSError):  # what was found before is not news any more
        cached.forget(sysroot)
    result = Result.DOWNLOADED if download_only else Result.STAGED
    return Outcome(result=result, record=record, both=both, remarks=remarks)


def _marks(of: Reference | Image) -> frozenset[str]:
    """What names an image: the digest of its manifest, and in hex that of its config. A source tells one of them."""
    if isinstance(of, Reference):
        return frozenset((fingerprint(of, architecture=os.uname().machine),))
    return frozenset((str(of.manifest_digest), of.manifest.config.digest.hex))


def _decided(sysroot: Sysroot, booted: ObjectId, wish: Wish, marks: frozenset[str]) -> Outcome | None:
    """What comes of the image that one of MARKS names, if that can be told; None where it has to be looked at."""
    known = _same(sysroot, booted, marks)
    if known and (outcome := _settled(sysroot, booted, wish, known)):
        return outcome
    same = {known.digest} if known else set()
    return _failed_before(sysroot, wish, lambda one: one.digest in same or one.manifest_digest in marks)


def _same(sysroot: Sysroot, booted: ObjectId, marks: frozenset[str]) -> Record | None:
    """The deployment of the image that one of MARKS names, what runs before others."""
    fitting = [
        record
        for record in records.deployments(sysroot)
        if marks & {record.manifest_digest, record.config_digest.partition(":")[2]} - {""}
    ]
    return next((record for record in fitting if record.digest == booted), fitting[0] if fitting else None)


def offered(record: Record, *, source: Reference | None = None, changed: bool = False) -> Offer:
    """RECORD's version, which is here, as what SOURCE has; CHANGED if it would be staged."""
    return Offer(
        image=str(source or record.image),
        manifest_digest=record.manifest_digest,
        version=record.image_version,
        timestamp=record.created,
        changed=changed,
    )


def _settled(sysroot: Sysroot, booted: ObjectId, wish: Wish, record: Record) -> Outcome | None:
    """What a version that this machine has comes to; None where it still has to be staged."""
    held = {one.digest: one for one in kept.held(sysroot)}
    one = held.get(record.digest)
    staged = retention.staged(list(held.values()), booted)
    runs = record.digest == booted
    if not runs and (one is None or record.state is State.BAD or one.generation is None):
        return None  # it failed, was only downloaded, or staging it was interrupted
    if wish.switching and record.image != str(wish.source):
        raise Failure(
            f"cannot switch to {wish.source}",
            why=f"it is the version {record.digest.hex[:12]} of {record.image}, which is on this machine already",
            fix="Nothing has to be done for what runs; `keelboot rollback` boots the previous version."
            if runs
            else "`keelboot rollback` boots the previous version; `keelboot status` lists all of them.",
        )
    if staged and record.digest == staged.digest:
        if wish.download_only:
            return _hold_back(sysroot, record)
        return Outcome(result=Result.UNCHANGED, record=record, remarks=("It is staged already: a restart boots it.",))
    remarks: tuple[str, ...] = ()
    if not runs:
        remarks = ("It is on this machine already, and not what runs: `keelboot rollback` goes to it.",)
    return Outcome(result=Result.UNCHANGED, record=record, remarks=remarks)


def _renewed(sysroot: Sysroot, booted: ObjectId, wish: Wish, outcome: Outcome) -> Outcome:
    """OUTCOME, after what the machine has was looked at for new signatures of it."""
    record = outcome.record
    if outcome.result is not Result.UNCHANGED or record is None:
        return outcome
    if record.digest not in (booted, waiting(sysroot, booted)):
        return outcome
    remark = signatures.renew(sysroot, record, wish.source, wish.terms)
    return replace(outcome, remarks=(*outcome.remarks, remark)) if remark else outcome


def _hold_back(sysroot: Sysroot, record: Record) -> Outcome:
    """Have what is staged wait for `--from-downloaded`: its note comes before its entry goes."""
    stage.note_downloaded(sysroot, record.digest)
    for listed in esp.entries(sysroot.esp):
        if listed.digest == record.digest:
            esp.remove_entry(sysroot.esp, listed.file_name)
    return Outcome(result=Result.DOWNLOADED, record=record)


def _failed_before(sysroot: Sysroot, wish: Wish, fits: Callable[[FailedVersion], bool]) -> Outcome | None:
    """Whether the version failed on this machine: an outcome for timers, Unhealthy for people; None if it did not."""
    failed = next((one for one in reversed(trial.failures(sysroot)) if fits(one)), None)
    if failed is None or wish.retry_failed:
        return None
    why = f"it failed on this machine {failed.tries} times, last {failed.last}: {failed.reason}"
    if wish.automatic:
        return Outcome(result=Result.REFUSED, remarks=(f"{wish.source} is not staged again: {why}",))
    verb = f"switch {wish.source}" if wish.switching else "upgrade"
    raise Unhealthy(
        f"cannot stage {wish.source}",
        why=why,
        fix=f"`keelboot {verb} --retry-failed` tries it again; `keelboot status` tells more.",
    )


def _put_back(sysroot: Sysroot, candidate: Candidate, admitted: Admitted) -> Record:
    """The record of what runs, which was lost: it is the candidate."""
    record = candidate.system.record(
        candidate.digest,
        manifest_digest=candidate.record.manifest_digest,
        config_digest=candidate.record.config_digest,
        boot_digest=candidate.boot_digest,
        verification=admitted.verification,
    )
    sysroot.deployment(record.digest).mkdir(parents=True, exist_ok=True)
    records.write_verified(sysroot, record, admitted.evidence)
    return record
