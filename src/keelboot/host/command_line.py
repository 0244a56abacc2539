"""New kernel arguments for what boots next: a boot entry with a higher generation, on trial.

The entry with the arguments of before stays if it proved itself: should the machine not come up with the new ones, the
loader returns to the same version with the old ones. `keelboot gc` removes it once they have proved themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from keelboot.assembly.record import Record
from keelboot.assembly.settings import Settings
from keelboot.assembly.system import entry_of
from keelboot.boot import esp
from keelboot.boot.entries import Entry, Tries
from keelboot.boot.esp import Listed
from keelboot.failure import Failure
from keelboot.host import arguments, records
from keelboot.host.sysroot import Sysroot

STEPS: Final = ("settings", "entry", "earlier")
TRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What boots next, how its entry is now, and how it would be with other settings."""

    record: Record
    listed: Listed
    entry: Entry

    @property
    def changed(self) -> bool:
        """Whether its command line would be another one."""
        return self.entry.options != self.listed.entry.options


def plan(sysroot: Sysroot, settings: Settings, tries: int = TRIES) -> Next:
    """What boots next on SYSROOT's machine, with SETTINGS. Raises Failure where no entry is one of a deployment."""
    for listed in esp.entries(sysroot.esp):
        record = records.find(sysroot, listed.digest)
        if listed.usable and record:
            entry = entry_of(
                record,
                esp.next_generation(sysroot.esp),
                arguments=arguments.effective(record.arguments, settings),
                tries=Tries(left=tries),
                verified=listed.verified,
            )
            return Next(record=record, listed=listed, entry=entry)
    raise Failure(
        "cannot change the kernel arguments",
        why="no boot entry names a deployment of this machine",
        fix="`keelboot status` tells what there is; `keelboot upgrade` makes a new deployment.",
    )


def apply(sysroot: Sysroot, settings: Settings, *, reached: Callable[[str], None] = lambda _: None) -> Next:
    """Keep SETTINGS for this version and all that follow, and let the next boot try them.

    cut after   is left behind                                                   cleared by
    settings    settings that the next boot does not have yet                    applying them again; the next upgrade
    entry       a second entry of a version that never proved itself             gc
    earlier     nothing

    Raises OutOfSpace, NotWritable, Failure.
    """
    wanted = plan(sysroot, settings)
    if settings != records.settings(sysroot):
        records.write_settings(sysroot, settings)
    reached("settings")
    if wanted.changed:
        esp.add_entry(sysroot.esp, wanted.entry)
        reached("entry")
        for listed in esp.entries(sysroot.esp):
            if listed.digest == wanted.record.digest and listed.on_trial and listed.entry.id != wanted.entry.id:
                esp.remove_entry(sysroot.esp, listed.file_name)
    reached("earlier")
    return wanted
