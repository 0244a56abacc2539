"""How far the boots of a deployment came: the lines of its boot record, and what they say about a version that failed.

Format: docs/formats/deployment.md, "Boot records".
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

TEXT_MAX: Final = 4000  # bytes of a line's text, unescaped: a line stays one write(2) that is not torn
_LINE = re.compile(r"(?P<boot>[0-9a-f-]{8,64}) (?P<time>[0-9]{1,12}) (?P<stage>[a-z]{1,16})(?: (?P<text>.*))?")
_ESCAPES = {"n": "\n", "\\": "\\"}


class Stage(StrEnum):
    """What a line tells: the stages in their order, then the ends of a boot that failed."""

    INITRAMFS = "initramfs"
    ROOT = "root"
    INIT = "init"
    UP = "up"
    GOOD = "good"
    REFUSED = "refused"
    UNHEALTHY = "unhealthy"
    TIMEOUT = "timeout"


STAGES: Final = (Stage.INITRAMFS, Stage.ROOT, Stage.INIT, Stage.UP, Stage.GOOD)
_KNOWN: Final[frozenset[str]] = frozenset(Stage)
ENDS: Final = (Stage.REFUSED, Stage.UNHEALTHY, Stage.TIMEOUT)
# What happened after the stage that was reached last, where no line says it.
_AFTER = {
    None: "it did not get as far as the disk with its root: firmware, boot loader, kernel or initramfs failed or hung",
    Stage.INITRAMFS: "its initramfs ended or hung before the root was mounted",
    Stage.ROOT: "its root was mounted, but its init did not start or did not get far: it crashed, hung or lost power",
    Stage.INIT: "its init started, but it went down before everything was up: it crashed, hung or lost power",
    Stage.UP: "everything was up, but it went down before its health checks had ended: it crashed, hung or lost power",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line: which boot, when (seconds since the epoch), how far, and what there is to say."""

    boot: str
    time: int
    stage: Stage
    text: str = ""

    def encode(self) -> bytes:
        """The line, with its end, and the end of one before that a cut may have torn."""
        kept = self.text.encode(errors="replace")[:TEXT_MAX].decode(errors="ignore")
        text = kept.replace("\\", "\\\\").replace("\n", "\\n").translate({0: " ", 13: " "})
        return b"\n" + f"{self.boot} {self.time} {self.stage} {text}".rstrip().encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot's lines, in the order they were written; there is at least one."""

    lines: Sequence[Line]

    @property
    def started(self) -> int:
        """Seconds since the epoch, as the machine's clock had it then."""
        return self.lines[0].time

    @property
    def stage(self) -> Stage | None:
        """The furthest stage, or None where only an end was noted."""
        reached = [STAGES.index(line.stage) for line in self.lines if line.stage in STAGES]
        return STAGES[max(reached)] if reached else None

    @property
    def end(self) -> Line | None:
        """The line that tells how it failed, if there is one; the first one is the cause."""
        return next((line for line in self.lines if line.stage in ENDS), None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a version failed: the furthest stage ("" where no try left a line), a line, and more lines where known."""

    stage: str
    reason: str
    detail: str = ""


def parse(data: bytes) -> list[Boot]:
    """The boots that the record DATA has lines of, oldest first. Lines that are none are passed over: a cut tears."""
    lines: dict[str, list[Line]] = {}
    for text in data.decode(errors="replace").split("\n"):
        found = _LINE.fullmatch(text)
        if found and found["stage"] in _KNOWN:
            line = Line(found["boot"], int(found["time"]), Stage(found["stage"]), _unescaped(found["text"] or ""))
            lines.setdefault(line.boot, []).append(line)
    return [Boot(tuple(of_one)) for of_one in lines.values()]


def verdict(boots: Sequence[Boot], panic: str = "") -> Verdict:
    """Why the version whose tries were BOOTS failed; PANIC is the end of the kernel's log, if a panic was kept.

    What the last try that says something says is the reason; tries that left no line are not among BOOTS.
    """
    reached = [STAGES.index(boot.stage) for boot in boots if boot.stage]
    stage = STAGES[max(reached)] if reached else None
    ends = [boot.end for boot in boots if boot.end]
    if ends:
        reason, _, detail = ends[-1].text.strip().partition("\n")
        return Verdict(stage or "", _told(ends[-1].stage, reason), detail)
    if panic:
        what = re.findall(r"Kernel panic - not syncing: (.*)", panic)
        return Verdict(
            stage or "", f"the kernel panicked: {what[-1].strip()}" if what else "the kernel panicked", panic
        )
    return Verdict(stage or "", _AFTER.get(stage, "it was healthy, but could not be blessed"))


def tail(data: bytes, keep: int) -> bytes:
    """The last whole lines of the record DATA, in at most KEEP bytes."""
    return data if len(data) <= keep else data[-keep:].partition(b"\n")[2]


def _told(stage: Stage, reason: str) -> str:
    if stage is Stage.REFUSED:
        return f"its initramfs refused to boot: {reason or 'it did not say why'}"
    if stage is Stage.TIMEOUT:
        return f"it was not up in time: {reason or 'nothing was waited for'}"
    return reason or "it was not healthy"


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[0]), text)
