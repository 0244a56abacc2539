"""A version that came up and is healthy is kept: it loses its counter, and its record says that it is good."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from keelboot.boot import esp
from keelboot.host import journal, records, trial
from keelboot.host.boots import Stage
from keelboot.host.record import State
from keelboot.host.sysroot import Sysroot
from keelboot.image.tree import ObjectId

STEPS: Final = ("entry", "record", "good")
BLESSED_ID: Final = "c3f0a0f7f1f44b6c8b9d0a6e2f5d7e18"  # MESSAGE_ID: a version passed its trial


def due(sysroot: Sysroot, booted: ObjectId) -> bool:
    """Whether BOOTED has yet to be blessed; the ESP need not be mounted."""
    record = records.find(sysroot, booted)
    unproved = record is not None and (record.state is not State.GOOD or record.rolled_back)
    return unproved or trial.on_trial(sysroot)


def bless(sysroot: Sysroot, booted: ObjectId, *, reached: Callable[[str], None] = lambda _: None) -> bool:
    """Keep BOOTED, which is healthy; whether it was on trial. Blessing again finishes what a cut left.

    cut after   is left behind
    entry       a version that boots uncounted; its record still says that it is staged
    record      the same, and its record says that it is good; this boot's record does not
    good        nothing

    Raises OSError where the ESP cannot be read, OutOfSpace, NotWritable, Failure where something cannot be written.
    """
    counted = [listed for listed in esp.entries(sysroot.esp) if listed.digest == booted and listed.on_trial]
    for listed in counted:
        esp.drop_counter(sysroot.esp, listed)
    reached("entry")
    record = records.find(sysroot, booted)
    if record and (record.state is not State.GOOD or record.rolled_back):
        records.write(sysroot, replace(record, state=State.GOOD, rolled_back=False))
    reached("record")
    good(sysroot, booted)
    reached("good")
    if counted:
        journal.send(
            f"The version {record.image if record else booted.hex} passed its trial and is kept.",
            BLESSED_ID,
            priority=journal.NOTICE,
            KEELBOOT_COMPOSEFS=booted.hex,
            KEELBOOT_IMAGE=record.image if record else "",
        )
    return bool(counted)


def good(sysroot: Sysroot, booted: ObjectId) -> None:
    """Note that this boot was healthy: nothing restarts it any more for not having proved itself.

    Raises OutOfSpace, NotWritable, Failure.
    """
    with records.explained(sysroot):
        trial.note(sysroot, booted, Stage.GOOD)
        trial.trial_over(sysroot)
