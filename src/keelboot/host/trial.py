"""What a machine notes while it boots, and what becomes of versions whose tries ran out.

Boot records and failures.json are those of docs/formats/deployment.md.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from keelboot.boot import esp
from keelboot.boot.esp import Listed
from keelboot.durable import replacing, sync_directory
from keelboot.host import boots, failed, journal, records
from keelboot.host.boots import Boot, Line, Stage
from keelboot.host.failed import FailedVersion
from keelboot.host.record import State
from keelboot.host.sysroot import Sysroot
from keelboot.image.refusal import Refused
from keelboot.image.tree import ObjectId

STEPS: Final = ("failure", "record", "entry", "boots")
FAILED_ID: Final = "7b05dac7a24f4b0f9a1d5d1a4b2e6c43"  # MESSAGE_ID: a version failed its trial
PSTORE: Final = (Path("/sys/fs/pstore"), Path("/var/lib/systemd/pstore"))
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_RECORD_MAX = 128 * 1024  # bytes; beyond that a record keeps the newest half
_PANIC = "Kernel panic - not syncing"
_AROUND = 10  # lines before a panic; as many follow, the call trace


def on_trial(sysroot: Sysroot) -> bool:
    """Whether the loader counts this boot and it was not blessed yet; the initramfs finds that out."""
    return (sysroot.run / "trial").exists()


def trial_over(sysroot: Sysroot) -> None:
    """Let nothing restart this boot any more because it has not proved itself."""
    (sysroot.run / "trial").unlink(missing_ok=True)


def note(sysroot: Sysroot, digest: ObjectId, stage: Stage | str, text: str = "") -> None:
    """Add a line to the boot record of DIGEST; durable when this returns. Raises OSError."""
    line = Line(_BOOT_ID.read_text().strip(), int(time.time()), Stage(stage), text)
    path = sysroot.boots / digest.hex
    sysroot.boots.mkdir(exist_ok=True)
    known = path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, line.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    if not known:
        for directory in (sysroot.boots, sysroot.state):
            sync_directory(directory)


def history(sysroot: Sysroot, digest: ObjectId) -> list[Boot]:
    """The boots of DIGEST that left a line, oldest first. Raises OSError."""
    try:
        return boots.parse((sysroot.boots / digest.hex).read_bytes())
    except FileNotFoundError:
        return []


def trim(sysroot: Sysroot, digest: ObjectId) -> None:
    """Keep the boot record of DIGEST from growing for ever. Raises OSError."""
    path = sysroot.boots / digest.hex
    with suppress(FileNotFoundError):
        if path.stat().st_size > _RECORD_MAX:
            kept = boots.tail(path.read_bytes(), _RECORD_MAX // 2)
            with replacing(path) as file:
                file.write(kept)


def failures(sysroot: Sysroot) -> list[FailedVersion]:
    """The versions that failed their trial, the newest last; none where the list is damaged. Raises OSError."""
    with suppress(FileNotFoundError, Refused):
        return failed.decode(sysroot.failures.read_bytes())
    return []


def exhausted(sysroot: Sysroot, booted: ObjectId) -> list[Listed]:
    """Entries with no tries left, but for those of BOOTED: its last try may be this boot. Raises OSError."""
    return [listed for listed in esp.entries(sysroot.esp) if not listed.usable and listed.digest != booted]


def settle(
    sysroot: Sysroot,
    booted: ObjectId,
    now: float,
    *,
    pstore: Sequence[Path] = PSTORE,
    reached: Callable[[str], None] = lambda _: None,
) -> list[FailedVersion]:
    """Remember every version whose tries ran out, with the reason, and take its entry away. NOW is since the epoch.

    A cut leaves, and the next boot settles again what still has its entry:
    failure   the failure is known; its record does not say so yet
    record    the deployment is bad; the entry is still there, which nothing boots
    entry     only the boot record is left over
    boots     nothing

    Raises OSError where something cannot be read, OutOfSpace, NotWritable, Failure where it cannot be written.
    """
    settled = []
    found = exhausted(sysroot, booted)
    for listed in found:
        # The loader goes down the generations: the last of these was the last to run, and a kept panic is its own.
        failure = _failure(sysroot, listed, now, panic_in(pstore) if listed is found[-1] else "")
        with records.explained(sysroot):
            known = failed.added(failures(sysroot), failure)
            with replacing(sysroot.failures) as file:
                file.write(failed.encode(known))
        reached("failure")
        record = records.find(sysroot, listed.digest)
        if record and record.state is not State.BAD:
            records.write(sysroot, replace(record, state=State.BAD))
        reached("record")
        esp.remove_entry(sysroot.esp, listed.file_name)
        reached("entry")
        with records.explained(sysroot):
            (sysroot.boots / listed.digest.hex).unlink(missing_ok=True)
        reached("boots")
        settled.append(known[-1])
        journal.send(
            f"The version {known[-1].image or listed.digest.hex} failed: {failure.reason}. "
            f"It was tried {failure.tries} times; the version before it runs again.",
            FAILED_ID,
            priority=journal.WARNING,
            KEELBOOT_COMPOSEFS=listed.digest.hex,
            KEELBOOT_IMAGE=failure.image,
            KEELBOOT_STAGE=failure.stage,
            KEELBOOT_REASON=failure.reason,
            KEELBOOT_DETAIL=failure.detail,
        )
    return settled


def panic_in(directories: Sequence[Path]) -> str:
    """The kernel's log around a panic that was kept over the last restart; empty where none was.

    In systemd-pstore(8)'s archive that is what was put there during this boot.
    """
    began = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for directory in directories:
        with suppress(OSError):
            for path in sorted(directory.rglob("*dmesg*"), reverse=True):
                if path.is_file() and (path.stat().st_mtime >= began or path.is_relative_to("/sys")):
                    text = path.read_text(errors="replace")
                    # <6>[    0.612164] is the priority and the time.
                    lines = [re.sub(r"^<\d+>", "", line) for line in text.splitlines()]
                    at = next((number for number, line in enumerate(lines) if _PANIC in line), None)
                    if at is not None:
                        return "\n".join(lines[max(0, at - _AROUND) : at + _AROUND])
    return ""


def _failure(sysroot: Sysroot, listed: Listed, now: float, panic: str) -> FailedVersion:
    """What is to be remembered of the version whose entry LISTED has no tries left."""
    tries = listed.entry.tries.done if listed.entry.tries else 0
    tried = history(sysroot, listed.digest)[-max(tries, 1) :]
    judged = boots.verdict(tried, panic)
    record = records.find(sysroot, listed.digest)
    return FailedVersion(
        digest=listed.digest,
        manifest_digest=record.manifest_digest if record else "",
        image=record.image if record else "",
        first=_rfc3339(tried[0].started if tried else now),
        last=_rfc3339(tried[-1].started if tried else now),
        tries=tries,
        stage=judged.stage,
        reason=judged.reason,
        detail=judged.detail,
        entry=listed.entry.id,
    )


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
