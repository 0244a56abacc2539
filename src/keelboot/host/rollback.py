"""Back to a version that is known to be good: its boot entry comes once more, with a higher generation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from keelboot.assembly.record import Record
from keelboot.assembly.system import entry_of
from keelboot.boot import esp
from keelboot.boot.entries import SORT_KEY, Generation, Tries
from keelboot.failure import Failure
from keelboot.host import arguments, journal, kept, records, retention
from keelboot.host.sysroot import Sysroot
from keelboot.image.tree import ObjectId

STEPS: Final = ("mark", "entry", "earlier", "staged", "records")
# bootc's, so that what waits for it in the journal hears of this one too.
MESSAGE_ID: Final = "26f3b1eb24464d12aa5e7b544a6b5468"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rollback does: what boots then, whether that is what runs (a rollback is taken back), what is dropped."""

    target: ObjectId
    takes_back: bool
    dropped: ObjectId | None


def plan(sysroot: Sysroot, booted: ObjectId) -> Plan:
    """What `rollback` would do on a machine that runs BOOTED. Raises Failure where there is nothing to go back to."""
    held = kept.held(sysroot)
    staged = retention.staged(held, booted)
    target = retention.rollback_target(held, booted)
    if target is None:
        raise Failure(
            "cannot roll back",
            why="no other version on this machine has proved itself",
            fix="`keelboot status` lists the versions; `keelboot switch IMAGE` gets another one.",
        )
    generations = {one.digest: one.generation or 0 for one in held}
    queued = staged is None and generations[target.digest] > generations.get(booted, 0)
    return Plan(
        target=booted if queued else target.digest,
        takes_back=queued,
        dropped=staged.digest if staged else kept.downloaded(sysroot),
    )


def rollback(sysroot: Sysroot, booted: ObjectId, *, reached: Callable[[str], None] = lambda _: None) -> Record:
    """Boot the previous good version next time; a second call takes that back; what is staged is dropped.

    cut after   is left behind                                            cleared by
    mark        a version that is said to be left, and still boots        its next boot; rolling back goes on
    entry       two entries of one deployment: the new one boots          gc
    earlier     what was staged, which the loader would try later on      gc
    staged      a record without an entry; taken back, the mark           gc; its next boot
    records     the rollback, done                                        -

    The entry is the commit. Returns the record of what boots next. Raises Failure.
    """
    wanted = plan(sysroot, booted)
    record = records.read(sysroot, wanted.target)
    left = records.find(sysroot, booted)
    # A mark too many goes with the next boot of the version, and one that is missing never comes: so it comes first.
    if left and not left.rolled_back and not wanted.takes_back:
        records.write(sysroot, replace(left, rolled_back=True))
    reached("mark")
    promoted = promote(sysroot, record, reached=reached)
    with records.explained(sysroot):
        sysroot.downloaded.unlink(missing_ok=True)
    if wanted.dropped:
        for listed in esp.entries(sysroot.esp):
            if listed.digest == wanted.dropped:
                esp.remove_entry(sysroot.esp, listed.file_name)
    reached("staged")
    if left and left.rolled_back and wanted.takes_back:
        records.write(sysroot, replace(left, rolled_back=False))
    reached("records")
    return promoted


def promote(
    sysroot: Sysroot,
    record: Record,
    tries: int | None = None,
    *,
    reached: Callable[[str], None] = lambda _: None,
) -> Record:
    """Make the deployment that RECORD is of the next boot; its earlier entry goes when the new one is durable.

    It gets the kernel arguments that it has now, of those that are on trial and those that are not the latter; where it
    has no entry left, those of its image and this machine. TRIES is None for what proved itself. Raises OutOfSpace,
    Failure.
    """
    earlier = [listed for listed in esp.entries(sysroot.esp) if listed.digest == record.digest]
    if not esp.sound(sysroot.esp, record.boot_digest):
        raise Failure(
            f"cannot boot {record.digest.hex[:12]}",
            why="its kernel on the ESP is missing or damaged",
            fix="`keelboot fsck --repair` puts it back.",
        )
    number = esp.next_generation(sysroot.esp)
    counter = None if tries is None else Tries(left=tries)
    if earlier:
        named = Generation(number, record.digest)
        entry = replace(
            next((listed for listed in earlier if not listed.on_trial), earlier[0]).entry,
            id=named.id,
            version=named.version(record.image_version or record.created),
            sort_key=SORT_KEY,
            tries=counter,
        )
    else:
        wanted = arguments.effective(record.arguments, records.settings(sysroot))
        entry = entry_of(record, number, arguments=wanted, tries=counter, verified=verified(sysroot))
    esp.add_entry(sysroot.esp, entry)
    reached("entry")
    for listed in earlier:
        esp.remove_entry(sysroot.esp, listed.file_name)
    reached("earlier")
    return record


def verified(sysroot: Sysroot) -> bool:
    """Whether this machine lets only roots boot that verify: what its entries say. Raises OSError."""
    return all(listed.verified for listed in esp.entries(sysroot.esp))


def tell_journal(record: Record) -> None:
    """Note in the journal that RECORD's deployment boots next."""
    journal.send(
        f"Rolling back: {record.digest.hex[:12]} of {record.image} boots next.",
        MESSAGE_ID,
        priority=journal.NOTICE,
        BOOTC_MANIFEST_DIGEST=record.manifest_digest,
        KEELBOOT_COMPOSEFS=record.digest.hex,
        KEELBOOT_IMAGE=record.image,
    )
