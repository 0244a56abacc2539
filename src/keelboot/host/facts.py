"""Finds out what a machine runs, has staged and can go back to. Nothing that is damaged or missing ends it: it is told.

Each source is read by itself; one that cannot be read is left out, and the facts have a warning instead.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from keelboot.assembly.verification import Basis
from keelboot.boot import esp
from keelboot.failure import Failure
from keelboot.host import (
    boots,
    cached,
    enforced,
    etc,
    failed,
    mounts,
    namespace,
    policies,
    published,
    records,
    status,
)
from keelboot.host.failed import FailedVersion
from keelboot.host.mounts import Mount
from keelboot.host.policies import Files
from keelboot.host.record import Record
from keelboot.host.status import Choice, Facts
from keelboot.host.sysroot import Sysroot
from keelboot.image.refusal import Refused
from keelboot.image.tree import ObjectId

_RUNNING: Final = Path("/sysroot")
_NO_ESP: Final = Path("/nonexistent")
_TIMER: Final = Path("/etc/systemd/system/timers.target.wants/keelboot-update.timer")
_WARNING_ID: Final = "5b6a4a0b2c1f4b0fa3f6a87c5b0c9d1e"  # MESSAGE_ID: a part of the state is damaged or missing
_LINE_MAX = 16384  # bytes

_T = TypeVar("_T")


def collect() -> Facts:
    """All that root can find out about this machine; never fails, and leaves /sysroot as it is."""
    seen = mounted()
    if mounts.booted(seen) is None:
        return Facts(booted=None, read_only=read_only(seen))
    try:
        with namespace.reading() as sysroot:
            facts = gather(sysroot, seen)
    except (Failure, OSError) as error:
        unread = f"the boot entries cannot be read: {_one_line(error)}"
        facts = gather(Sysroot(_RUNNING, _NO_ESP), seen, warnings=[unread])
    if facts.warnings:
        from keelboot.host import journal  # noqa: PLC0415 - sockets are of no use to a healthy machine's status

        for warning in facts.warnings:
            journal.send(f"Status: {warning}", _WARNING_ID, priority=journal.WARNING)
    return facts


def publish(sysroot: Sysroot, *, changed: bool = True) -> None:
    """Let ordinary users know what SYSROOT's machine is like now, and who watches that its deployments CHANGED.

    It is this machine. Notes for others: that they cannot be written is no reason to end what has already been done.
    """
    with suppress(OSError):
        published.write(status.document(gather(sysroot, mounted())), sysroot.run)
    if changed:
        with suppress(OSError):
            published.touch(sysroot.root)


def mounted() -> list[Mount]:
    """What this process sees mounted."""
    return mounts.parse(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))


def read_only(seen: Sequence[Mount]) -> bool:
    """Whether the disk with the store cannot be written at all, or its filesystem is read-only after an error."""
    disk = mounts.at("/sysroot", seen) or mounts.at("/", seen)
    if disk and disk.point == "/sysroot" and disk.frozen:
        return True
    if disk:
        with suppress(OSError):
            return Path(f"/sys/dev/block/{disk.device}/ro").read_text().strip() == "1"
    return False


def gather(sysroot: Sysroot, seen: Sequence[Mount], *, warnings: Sequence[str] = ()) -> Facts:
    """The facts that SYSROOT and the mounts SEEN tell. An `esp` that is no directory has no known entries."""
    told = list(warnings)

    def attempt(what: str, read: Callable[[], _T]) -> _T | None:
        try:
            return read()
        except (Failure, OSError, Refused, ValueError) as error:
            told.append(f"{what} cannot be read: {_one_line(error)}")
            return None

    booted = mounts.booted(seen)
    known = attempt("the deployments", lambda: _known(sysroot, told)) or []
    choices = attempt("the boot entries", lambda: _choices(sysroot, told)) if sysroot.esp != _NO_ESP else None
    told += _loose_ends(booted, known, choices)
    downloaded = _downloaded(sysroot)
    runs, next_one = _now_and_next(booted, downloaded, known, choices)
    files = attempt("the policies", policies.find) or Files()
    image = _registry_name(next_one or runs)
    demands = attempt("what the policies demand", lambda: _demands(files, image)) if image else None
    settings = attempt("the machine's settings", lambda: records.settings(sysroot))
    return Facts(
        booted=booted,
        since=rfc3339(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)),
        deployed=_first_boot(sysroot, booted) if booted else "",
        records=known,
        choices=choices,
        command_line=attempt("the kernel's command line", Path("/proc/cmdline").read_text) or "",
        downloaded=downloaded,
        failures=attempt("failures.json", lambda: _failures(sysroot)) or (),
        drift=attempt("what changed in /etc", lambda: _drift(sysroot, booted)) if booted else None,
        unhealthy=published.unhealthy(sysroot.run),
        usr_overlay=mounts.usr_overlay(seen),
        read_only=read_only(seen),
        cached=cached.read(sysroot),
        updates=attempt("the settings of automatic updates", updates),
        policies=[file.path for file in (files.own, files.containers) if file],
        demands=demands,
        strict=bool(settings and settings.strict),
        cautions=enforced.cautions(runs, next_one, datetime.now(UTC)),
        warnings=told,
    )


def _now_and_next(
    booted: ObjectId | None, downloaded: ObjectId | None, known: Sequence[Record], choices: Sequence[Choice] | None
) -> tuple[Record | None, Record | None]:
    """The records of what runs and of what is staged or was downloaded, as far as they are there."""
    if booted is None:
        return None, None
    slots = status.sort(Facts(booted=booted, records=known, choices=choices, downloaded=downloaded))
    return slots.booted, slots.staged


def _registry_name(record: Record | None) -> str:
    """The full name of the image that RECORD is of and that is followed, if it is in a registry."""
    if record is None or not record.image.startswith("docker:"):
        return ""
    verification = record.verification
    if verification and verification.image and verification.basis is not Basis.LOCAL:
        return verification.image
    return status.transport_and_image(record.image)[1]


def _demands(files: Files, image: str) -> dict[str, str]:
    own, containers = ((file.path, file.content) if file else None for file in (files.own, files.containers))
    return enforced.outline(own, containers, image)


def _known(sysroot: Sysroot, told: list[str]) -> list[Record]:
    """All records that can be read: one that is damaged hides no other."""
    found = []
    for name in sorted(path.name for path in sysroot.deployments.iterdir()):
        try:
            record = None if name.startswith(".") else records.find(sysroot, ObjectId(name))
        except (OSError, ValueError):
            record = None
        if record:
            found.append(record)
        elif not name.startswith("."):  # those are being made or removed
            shown = ascii(name)[1:-1]
            told.append(f"the deployment {shown[:64]} has no record that can be read: it is passed over")
    return found


def _loose_ends(booted: ObjectId | None, known: Sequence[Record], choices: Sequence[Choice] | None) -> list[str]:
    """What does not belong together among records and boot entries."""
    digests = {record.digest for record in known}
    told = []
    if booted and booted not in digests:
        told.append(f"the deployment that runs, {booted.hex[:12]}, has no record")
    if choices is None:
        return told
    told += [
        f"a boot entry names {digest.hex[:12]}, which is no deployment: it is passed over"
        for digest in dict.fromkeys(choice.digest for choice in choices)
        if digest not in digests and digest != booted
    ]
    bootable = {choice.digest for choice in choices}
    told += [
        f"the deployment {record.digest.hex[:12]} is kept but has no boot entry"
        for record in known
        if record.digest not in bootable and (record.digest == booted or record.pinned)
    ]
    return told


def updates() -> dict[str, Any] | None:
    """How this machine updates itself; None where its timer is not enabled. Raises InvalidSettings and OSError."""
    if not os.path.lexists(_TIMER):
        return None
    from keelboot.host import automatic  # noqa: PLC0415 - tomllib is a quarter of the time that `status` takes

    return automatic.describe()


def rfc3339(seconds: float) -> str:
    """SECONDS since the epoch, as RFC 3339 writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _choices(sysroot: Sysroot, told: list[str]) -> list[Choice]:
    found = [
        Choice(
            digest=listed.digest,
            generation=listed.generation,
            options=listed.entry.options,
            left=listed.entry.tries.left if listed.entry.tries else None,
            done=listed.entry.tries.done if listed.entry.tries else 0,
        )
        for listed in esp.entries(sysroot.esp)
    ]
    told += [f"the boot entry {name} is not keelboot's, or is damaged: it is passed over" for name in _foreign(sysroot)]
    return found


def _foreign(sysroot: Sysroot) -> list[str]:
    # Others than ours may be there on purpose, like that of the system before `install to-existing-root`.
    return [ascii(str(name))[1:-1] for name in esp.foreign(sysroot.esp) if name.startswith("keelboot-")]


def _downloaded(sysroot: Sysroot) -> ObjectId | None:
    with suppress(OSError, ValueError):
        return ObjectId(sysroot.downloaded.read_text().strip())
    return None


def _failures(sysroot: Sysroot) -> list[FailedVersion]:
    """The failures that are known, the newest last. Raises OSError and Refused."""
    try:
        return failed.decode(sysroot.failures.read_bytes())
    except FileNotFoundError:
        return []


def _first_boot(sysroot: Sysroot, booted: ObjectId) -> str:
    """When BOOTED was tried first, from the first of its boot records; empty where there is none."""
    with suppress(OSError, OverflowError), (sysroot.boots / booted.hex).open("rb") as file:
        for boot in boots.parse(file.readline(_LINE_MAX)):
            return rfc3339(boot.started)
    return ""


def _drift(sysroot: Sysroot, booted: ObjectId) -> int | None:
    """How many paths of /etc differ from the image's, as `etc diff` counts them. Raises OSError."""
    upper = sysroot.deployment(booted) / "etc/upper"
    if not upper.is_dir():
        return None
    if sysroot.root != _RUNNING:  # the root that runs is not the one that BOOTED is judged by
        return etc.drift(upper).count
    with etc.pristine() as lower:
        return etc.drift(upper, lower).count


def _one_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
