"""What a guest says of itself when its boot has ended: one line of JSON on a virtio-serial port of this name."""

import json
from dataclasses import dataclass
from typing import Self

PORT = "org.keelboot.boot"
_LONGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Announcement:
    """The end of a boot: systemd's state (running, degraded, ...), failed units, the booted deployment if known."""

    state: str
    failed: tuple[str, ...] = ()
    booted: str | None = None

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Read {"state": TEXT, "failed": [TEXT...], "booted": TEXT}; raises ValueError. Unknown members are ignored."""
        if len(line) > _LONGEST:
            raise ValueError("an announcement of unreasonable length")
        try:
            document = json.loads(line)
        except RecursionError as error:
            raise ValueError("not an announcement: nested too deeply") from error
        if not isinstance(document, dict) or not isinstance(document.get("state"), str):
            raise ValueError("not an announcement: no state")  # noqa: TRY004 - a document's fault, not a caller's
        failed, booted = document.get("failed", []), document.get("booted")
        if not isinstance(failed, list) or not all(isinstance(unit, str) for unit in failed):
            raise ValueError("not an announcement: failed is no list of names")
        if booted is not None and not isinstance(booted, str):
            raise ValueError("not an announcement: booted is no text")
        return cls(_printable(document["state"]), tuple(map(_printable, failed)), booted and _printable(booted))


def _printable(text: str) -> str:
    """TEXT without control characters: a guest's words end up on the user's terminal."""
    return "".join(char if char.isprintable() else "?" for char in text[:256])
