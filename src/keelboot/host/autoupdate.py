"""When a machine updates by itself, and when it may restart for it: settings and a time -> a decision.

Settings are TOML, `/usr/lib/keelboot/update.toml` of the image and `/etc/keelboot/update.toml` of the machine; a key of
the latter replaces the former's.

    mode = "stage"                    # check, download, stage (the default) or apply
    windows = ["Sat 02:00-05:00"]     # when a restart is allowed; none given: always. Only `apply` restarts.

A window is days and hours: `daily 03:00-04:00`, `Mon..Fri 22:00-04:00` (it ends the next day), `Sat,Sun 00:00-24:00`.
All times are the machine's local ones, as its clock shows them: a window that lies in the hour which summer time skips
or repeats is skipped or repeated with it.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Self

from keelboot.failure import InvalidSettings

FILES: Final = ("usr/lib/keelboot/update.toml", "etc/keelboot/update.toml")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY_MINUTES = 24 * 60
_WINDOW = re.compile(r"(?P<days>\S+)\s+(?P<start>\d\d:\d\d)\s*-\s*(?P<end>\d\d:\d\d)", re.ASCII)


class Mode(StrEnum):
    """How far an automatic update goes."""

    CHECK = "check"  # tell what there is
    DOWNLOAD = "download"  # fetch it; nothing changes at the next boot
    STAGE = "stage"  # the next boot runs it, whenever that is
    APPLY = "apply"  # and restart for it, when a window allows


@dataclass(frozen=True, slots=True)
class Window:
    """Some hours of some days. `start` and `length` are minutes; `days` has 0 for Monday."""

    text: str
    days: frozenset[int]
    start: int
    length: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `Sat 02:00-05:00`. Raises ValueError with the reason."""
        match = _WINDOW.fullmatch(text.strip())
        if match is None:
            raise ValueError("it is not like 'Sat 02:00-05:00' or 'daily 03:00-04:00'")
        start, end = _minutes(match["start"]), _minutes(match["end"])
        if start == _DAY_MINUTES:
            raise ValueError("it starts at 24:00: name the next day and 00:00")
        if start == end:
            raise ValueError("it ends when it starts: write 00:00-24:00 for the whole day")
        return cls(text.strip(), _days(match["days"]), start, (end - start) % _DAY_MINUTES or _DAY_MINUTES)

    def openings(self, now: datetime) -> list[datetime]:
        """When it opens: from yesterday of NOW, as that one may still be open, to the same day of the next week."""
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        dates = (midnight + timedelta(days=ahead) for ahead in range(-1, 8))
        return [date + timedelta(minutes=self.start) for date in dates if date.weekday() in self.days]

    def is_open(self, now: datetime) -> bool:
        """Whether NOW, a local time, lies in it; its last minute's end does not."""
        return any(start <= now < start + timedelta(minutes=self.length) for start in self.openings(now))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a machine updates itself."""

    mode: Mode = Mode.STAGE
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do now. `reboot` allows a restart, it does not ask for one: that takes a staged deployment.

    `opens` is when a restart will be allowed, where it will be and is not now.
    """

    mode: Mode
    reboot: bool
    opens: datetime | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """The options of `keelboot upgrade` for this."""
        return {Mode.CHECK: ("--check",), Mode.DOWNLOAD: ("--download-only",)}.get(self.mode, ())


def decide(now: datetime, settings: Settings) -> Decision:
    """What to do at NOW, a local time without zone.

    Fetching takes its time: decide again before restarting.
    """
    if settings.mode is not Mode.APPLY:
        return Decision(mode=settings.mode, reboot=False)
    if not settings.windows or any(window.is_open(now) for window in settings.windows):
        return Decision(mode=settings.mode, reboot=True)
    return Decision(mode=settings.mode, reboot=False, opens=next_opening(now, settings))


def next_opening(now: datetime, settings: Settings) -> datetime | None:
    """When a window of SETTINGS opens after NOW; None without windows."""
    return min((start for window in settings.windows for start in window.openings(now) if start > now), default=None)


def parse(files: Sequence[tuple[str, bytes]]) -> Settings:
    """The settings in FILES, (name, content), of which a later one's keys replace an earlier one's.

    Raises InvalidSettings, which names file and key.
    """
    settings: dict[str, Any] = {}
    for name, content in files:
        settings |= _of_file(name, content)
    return Settings(**settings)


def _of_file(name: str, content: bytes) -> dict[str, Any]:
    try:
        table = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _refused(name, str(error)) from error
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key == "mode":
            if value not in list(Mode):
                raise _refused(name, f"mode is {value!r}, not one of {', '.join(Mode)}")
            found["mode"] = Mode(value)
        elif key == "windows":
            found["windows"] = _windows(name, value)
        else:
            raise _refused(name, f"the key {key} is unknown; there are mode and windows")
    return found


def _windows(name: str, value: object) -> tuple[Window, ...]:
    if not isinstance(value, list):
        raise _refused(name, 'windows is not a list, like ["Sat 02:00-05:00"]')
    windows = []
    for index, text in enumerate(value):
        try:
            windows.append(Window.parse(text if isinstance(text, str) else ""))
        except ValueError as error:
            raise _refused(name, f"windows[{index}] is {text!r}: {error}") from error
    return tuple(windows)


def _refused(name: str, why: str) -> InvalidSettings:
    return InvalidSettings(
        "cannot use the settings of automatic updates",
        why=f"{name}: {why}",
        fix="Correct the file; nothing is updated automatically until then.",
    )


def _minutes(text: str) -> int:
    hours, minutes = int(text[:2]), int(text[3:])
    if minutes > 59 or hours * 60 + minutes > _DAY_MINUTES:
        raise ValueError(f"{text} is no time of day")
    return hours * 60 + minutes


def _days(text: str) -> frozenset[int]:
    if text == "daily":
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("..")
        for day in (first, last or first):
            if day not in _DAYS:
                raise ValueError(f"{day!r} is no day: {', '.join(_DAYS)}, or daily")
        start, end = _DAYS.index(first), _DAYS.index(last or first)
        days.update(day % 7 for day in range(start, end + 1 if end >= start else end + 8))
    return frozenset(days)
