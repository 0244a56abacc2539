"""What a machine runs, has staged and can go back to: facts -> the document that bootc calls BootcHost.

Fields, types and enumerations are those of bootc's published schema (org.containers.bootc/v1). What keelboot knows
beyond it stands in one more object, `status.keelboot`: docs/decisions/0008-status-is-bootcs-document.md.

Boot entries decide what can boot, records say what it is: an entry without a record is passed over, and so is a record
without an entry, unless it is the one that runs or that was only downloaded.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from keelboot.assembly.verification import Basis, Verification
from keelboot.host.failed import FailedVersion
from keelboot.host.record import Record, State
from keelboot.image.tree import ObjectId

API_VERSION: Final = "org.containers.bootc/v1"
KIND: Final = "BootcHost"
_EXTRA_VERSION = 1
# RFC 3339, section 5.6.
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
# What is not the version's: which deployment boots, and what loaders add by themselves.
_PASSED_OVER = ("composefs", "composefs.digest", "initrd", "BOOT_IMAGE")

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A boot entry of a deployment. `left` and `done` are its tries; `left` is None where they are not counted."""

    digest: ObjectId
    generation: int
    options: str = ""
    left: int | None = None
    done: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """What `upgrade --check` found last. Times are RFC 3339."""

    image: str
    manifest_digest: str
    version: str = ""
    timestamp: str = ""
    checked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the document is made from. Times are RFC 3339, empty where unknown.

    `choices` is None where the boot entries could not be read; `failures` has the newest last.
    """

    booted: ObjectId | None
    since: str = ""  # when this boot began
    deployed: str = ""  # when what runs was booted first
    records: Sequence[Record] = ()
    choices: Sequence[Choice] | None = None
    command_line: str = ""  # of the kernel that runs
    downloaded: ObjectId | None = None
    failures: Sequence[FailedVersion] = ()
    drift: int | None = None  # paths of /etc that differ from the image's
    unhealthy: Sequence[str] = ()  # required checks that failed when this boot was checked
    usr_overlay: str | None = None  # readOnly or readWrite
    read_only: bool = False  # the disk itself cannot be written
    cached: Cached | None = None
    updates: Mapping[str, Any] | None = None  # how automatic updates are set; None where they are off
    policies: Sequence[str] = ()  # the files that are there
    demands: Mapping[str, str] | None = None  # by file, of the image that is followed; None for one of no registry
    strict: bool = False  # whether a policy is enforced that does not accept everything by default
    cautions: Sequence[str] = ()  # warnings that are about no damage
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Slots:
    """Which deployment is what."""

    booted: Record | None
    staged: Record | None
    rollback: Record | None
    others: tuple[Record, ...]
    download_only: bool
    rollback_queued: bool


def document(facts: Facts) -> Document:
    """The whole of it; on a machine that keelboot does not run, booted and type are null."""
    if facts.booted is None:
        return _host(None, {"readOnly": facts.read_only, "usrOverlay": None})
    slots = sort(facts)
    runs = _entry(slots.booted, facts) if slots.booted else _unrecorded(facts.booted)
    status: Document = {
        "staged": _entry(slots.staged, facts, download_only=slots.download_only) if slots.staged else None,
        "booted": runs,
        "rollback": _entry(slots.rollback, facts) if slots.rollback else None,
        "rollbackQueued": slots.rollback_queued,
        "type": "bootcHost",
        "readOnly": facts.read_only,
        "usrOverlay": {"accessMode": facts.usr_overlay, "persistence": "transient"} if facts.usr_overlay else None,
        "keelboot": _extra(facts, slots),
    }
    if slots.others:
        status["otherDeployments"] = [_entry(record, facts) for record in slots.others]
    followed = slots.staged or slots.booted
    return _host(followed, status, rollback_queued=slots.rollback_queued, strict=facts.strict)


def only_booted(whole: Document) -> Document:
    """WHOLE without the deployments that do not run, as `status --booted` shows it."""
    status = {name: value for name, value in whole["status"].items() if name != "otherDeployments"}
    return whole | {"status": status | {"staged": None, "rollback": None}}


def sort(facts: Facts) -> Slots:
    """Which deployment of FACTS is what; FACTS have a booted one."""
    assert facts.booted is not None
    records = {record.digest: record for record in facts.records}
    order = [digest for digest in _order(facts, records) if digest in records or digest == facts.booted]
    first = order[0] if order else facts.booted
    on_trial = first != facts.booted and records[first].state is State.STAGED
    staged = records[first] if on_trial else None
    download_only = staged is None and facts.downloaded not in {None, facts.booted} and facts.downloaded in records
    if download_only and facts.downloaded:
        staged = records[facts.downloaded]
    others = [records[digest] for digest in order if digest != facts.booted and records[digest] is not staged]
    return Slots(
        booted=records.get(facts.booted),
        staged=staged,
        rollback=others[0] if others else None,
        others=tuple(others[1:]),
        download_only=download_only,
        rollback_queued=first != facts.booted and not on_trial,
    )


def transport_and_image(reference: str) -> tuple[str, str]:
    """How bootc writes REFERENCE, a canonical one of containers-transports(5): its transport, and the rest."""
    transport, _, rest = reference.partition(":")
    return ("registry" if transport == "docker" else transport), rest.removeprefix("//")


def _order(facts: Facts, records: Mapping[ObjectId, Record]) -> list[ObjectId]:
    """The deployments in the order in which the loader would take them, each once, without those that failed."""
    if facts.choices is None:
        return _likely_order(facts, records)
    found: list[ObjectId] = []
    for choice in sorted(facts.choices, key=lambda choice: -choice.generation):
        record = records.get(choice.digest)
        # What runs may be on its last try. It keeps its place: health checks that pass make it the next boot.
        if choice.left == 0 and (choice.digest != facts.booted or (record and record.state is State.BAD)):
            continue
        if choice.digest not in found:
            found.append(choice.digest)
    return found


def _likely_order(facts: Facts, records: Mapping[ObjectId, Record]) -> list[ObjectId]:
    """Without boot entries: what waits for its first boot, then what runs, then the good ones, newest first."""
    rank = {State.STAGED: 0, State.GOOD: 2}
    able = [record for record in records.values() if record.state in rank and record.digest != facts.downloaded]
    newest = sorted(able, key=lambda record: record.staged, reverse=True)
    ordered = sorted(newest, key=lambda record: 1 if record.digest == facts.booted else rank[record.state])
    return [record.digest for record in ordered]


def _host(
    followed: Record | None, status: Document, *, rollback_queued: bool = False, strict: bool = False
) -> Document:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "host"},
        "spec": {
            "image": _reference(followed.image, _signature(followed, strict=strict)) if followed else None,
            "bootOrder": "rollback" if rollback_queued else "default",
        },
        "status": {"staged": None, "booted": None, "rollback": None, "rollbackQueued": False, "type": None} | status,
    }


def _entry(record: Record, facts: Facts, *, download_only: bool = False) -> Document:
    cached = facts.cached
    return {
        "image": {
            "image": _reference(record.image, _signature(record, strict=facts.strict)),
            "version": record.image_version or None,
            "timestamp": _timestamp(record.created),
            "imageDigest": record.manifest_digest,
            "architecture": record.architecture,
        },
        "cachedUpdate": _cached(cached, record.architecture) if cached and cached.image == record.image else None,
        "incompatible": False,
        "pinned": record.pinned,
        "softRebootCapable": _same_kernel(record, facts),
        "downloadOnly": download_only,
        "store": None,
        "ostree": None,
        "composefs": _composefs(record.digest, record.boot_digest, _options(record.digest, facts)),
    }


def _unrecorded(digest: ObjectId) -> Document:
    """The entry of a deployment that runs although its record is gone."""
    return {
        "image": None,
        "cachedUpdate": None,
        "incompatible": False,
        "pinned": False,
        "softRebootCapable": False,
        "downloadOnly": False,
        "store": None,
        "ostree": None,
        "composefs": _composefs(digest, "", ""),
    }


def _composefs(digest: ObjectId, boot_digest: str, options: str) -> Document:
    named = [word.partition("=")[2] for word in options.split() if word.startswith("composefs")]
    return {
        "verity": digest.hex,
        "bootType": "Bls",
        "bootloader": "systemd",
        "bootDigest": boot_digest or None,
        "missingVerityAllowed": any(value.startswith("?") for value in named),
    }


def _reference(text: str, signature: str | None = None) -> Document:
    transport, image = transport_and_image(text)
    found = {"image": image, "transport": transport}
    return found | {"signature": signature} if signature else found


def _signature(record: Record, *, strict: bool) -> str | None:
    """What bootc calls the way in which signatures are checked; it leaves its default out."""
    basis = record.verification.basis if record.verification else None
    if strict or basis is Basis.SIGNED:
        return "containerPolicy"
    return "insecure" if basis is Basis.ALLOWED else None


def verification(found: Verification | None) -> Document | None:
    """What was decided about an image, without the bytes; None where nothing is known of it."""
    if found is None:
        return None
    return {
        "basis": str(found.basis),
        "image": found.image or None,
        "imageDigest": found.digest or None,
        "policy": found.policy or None,
        "policyHash": found.policy_hash or None,
        "signatures": [
            {
                "key": one.key,
                "name": one.name or None,
                "signer": one.signer or None,
                "identity": one.identity,
                "time": _timestamp(one.time),
                "annotations": dict(one.annotations),
            }
            for one in found.signatures
        ],
        "version": found.version,
        "downgrade": found.downgrade,
        "until": _timestamp(found.until),
    }


def _cached(cached: Cached, architecture: str) -> Document:
    return {
        "image": _reference(cached.image),
        "version": cached.version or None,
        "timestamp": _timestamp(cached.timestamp),
        "imageDigest": cached.manifest_digest,
        "architecture": architecture,
    }


def _timestamp(text: str) -> str | None:
    return text if _TIMESTAMP.fullmatch(text) else None


def _choice(digest: ObjectId, facts: Facts) -> Choice | None:
    """The entry of DIGEST that counts: the newest, where a change under way has left two."""
    own = [choice for choice in facts.choices or () if choice.digest == digest]
    return max(own, key=lambda choice: choice.generation, default=None)


def _options(digest: ObjectId, facts: Facts) -> str:
    choice = _choice(digest, facts)
    return choice.options if choice else ""


def _same_kernel(record: Record, facts: Facts) -> bool:
    """Whether RECORD has the kernel, initramfs and arguments that run, so that only userspace would have to restart."""
    runs = next((one for one in facts.records if one.digest == facts.booted), None)
    if runs is None or runs is record or not runs.boot_digest or runs.boot_digest != record.boot_digest:
        return False
    own, other = (
        [word for word in text.split() if word.partition("=")[0] not in _PASSED_OVER]
        for text in (_options(record.digest, facts), facts.command_line)
    )
    return own == other and bool(own)


def _extra(facts: Facts, slots: Slots) -> Document:
    versions = {record.digest.hex: record.image_version for record in facts.records}
    shown = [record for record in (slots.staged, slots.booted, slots.rollback, *slots.others) if record]
    return {
        "version": _EXTRA_VERSION,
        "since": _timestamp(facts.since),
        "deployed": _timestamp(facts.deployed),
        "etcChanged": facts.drift,
        "unhealthy": list(facts.unhealthy),
        "deployments": {record.digest.hex: _deployment(record, facts) for record in shown},
        "failures": [_failure(item, versions) for item in facts.failures],
        "checked": _timestamp(facts.cached.checked) if facts.cached else None,
        "updates": dict(facts.updates) if facts.updates is not None else None,
        "policy": {
            "files": list(facts.policies),
            "demands": dict(facts.demands) if facts.demands is not None else None,
            "strict": facts.strict,
        },
        "warnings": [*facts.warnings, *facts.cautions],
    }


def _deployment(record: Record, facts: Facts) -> Document:
    choice = _choice(record.digest, facts)
    return {
        "title": record.title or None,
        "kernel": record.kernel or None,
        "staged": _timestamp(record.staged),
        "state": str(record.state),
        "parent": record.parent.hex if record.parent else None,
        "rolledBack": record.rolled_back,
        "verification": verification(record.verification),
        "triesLeft": choice.left if choice else None,
        "triesDone": choice.done if choice else 0,
    }


def _failure(failed: FailedVersion, versions: Mapping[str, str]) -> Document:
    return {
        "composefs": failed.digest.hex,
        "image": failed.image or None,
        "imageDigest": failed.manifest_digest or None,
        "version": versions.get(failed.digest.hex) or None,  # known while the deployment is kept
        "first": _timestamp(failed.first),
        "last": _timestamp(failed.last),
        "tries": failed.tries,
        "stage": failed.stage or None,
        "reason": failed.reason or None,
        "detail": failed.detail or None,
    }
