"""What a machine has: records, boot entries and marks of this boot, put together for who decides about deployments."""

from contextlib import suppress

from keelboot.assembly.record import Record, State
from keelboot.boot import esp
from keelboot.boot.esp import Listed
from keelboot.host import records
from keelboot.host.retention import Held
from keelboot.host.sysroot import Sysroot
from keelboot.image.tree import ObjectId
from keelboot.store import names


def held(sysroot: Sysroot) -> list[Held]:
    """All deployments of the machine, also those whose record or whose boot entry is lost. Raises OSError."""
    known = {record.digest: record for record in records.deployments(sysroot)}
    newest = newest_entries(sysroot)
    return [_held(sysroot, digest, known.get(digest), newest.get(digest)) for digest in {**known, **newest}]


def newest_entries(sysroot: Sysroot) -> dict[ObjectId, Listed]:
    """Of each deployment that has boot entries the one that the loader would take. Raises OSError."""
    found: dict[ObjectId, Listed] = {}
    for listed in esp.entries(sysroot.esp):
        found.setdefault(listed.digest, listed)
    return found


def needed_entries(sysroot: Sysroot) -> dict[ObjectId, list[Listed]]:
    """Of each deployment that entry, and while it is on trial the one that the loader returns to. Raises OSError."""
    found: dict[ObjectId, list[Listed]] = {}
    for listed in esp.entries(sysroot.esp):
        needed = found.setdefault(listed.digest, [])
        if not needed or (needed[-1].on_trial and not listed.on_trial):
            needed.append(listed)
    return found


def downloaded(sysroot: Sysroot) -> ObjectId | None:
    """The deployment that waits for `upgrade --from-downloaded`, if there is one."""
    with suppress(OSError, ValueError):
        digest = ObjectId(sysroot.downloaded.read_text().strip())
        return digest if records.find(sysroot, digest) else None
    return None


def _held(sysroot: Sysroot, digest: ObjectId, record: Record | None, listed: Listed | None) -> Held:
    return Held(
        digest=digest,
        state=record.state if record else _likely_state(sysroot, digest, listed),
        generation=listed.generation if listed else None,
        left=listed.entry.tries.left if listed and listed.entry.tries else None,
        pinned=bool(record and record.pinned),
        recorded=record is not None,
    )


def _likely_state(sysroot: Sysroot, digest: ObjectId, listed: Listed | None) -> State:
    """What an entry without a record tells: it loses its counter when it is blessed; without an image it is nothing."""
    if not (sysroot.store / names.IMAGES / digest.hex).exists():
        return State.BAD
    return State.STAGED if listed and listed.on_trial else State.GOOD
