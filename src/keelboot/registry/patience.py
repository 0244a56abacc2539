"""How long a registry is waited for, and how often it is asked again."""

import re
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Final, Self

# What a registry, or a proxy before it, answers when the same question may be answered later.
PASSING: Final = frozenset((408, 425, 429, 500, 502, 503, 504))


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """All times in seconds."""

    connect: float = 15.0  # for the connection, TLS included
    answer: float = 60.0  # until the answer's headers are complete
    silence: float = 30.0  # without a single byte
    slowest: int = 1024  # bytes in a second, over any `silence` seconds
    tries: int = 7  # in a row that bring nothing
    first_tries: int = 3  # of a host that never answered: a mistyped name should not take half a minute
    progress: int = 1 << 20  # bytes that count as something
    first_pause: float = 0.5  # doubled each time
    longest_pause: float = 60.0  # whatever the registry asks for

    @property
    def for_writing(self) -> Self:
        """The same, but for what a registry does at the end of an upload: it reads all of the blob again, at least."""
        return replace(self, answer=6 * self.answer, silence=6 * self.silence)

    def pause(self, failures: int, asked: float | None, jitter: float) -> float:
        """Seconds to wait after FAILURES (1 or more) in a row, if the registry ASKED for so many seconds or for none.

        JITTER, from 0 to 1, keeps many machines from coming back at the same moment.
        """
        own = self.first_pause * 2.0 ** (failures - 1) * (0.5 + jitter / 2)
        return min(self.longest_pause, max(own, asked or 0.0))


def retry_after(value: str | None, now: float) -> float | None:
    """The seconds that the header Retry-After (RFC 9110, 10.2.3) asks for at the time NOW; None where it says nothing.

    It holds a number of seconds or a date; a date in the past asks for nothing, and so does nonsense.
    """
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch("[0-9]{1,12}", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
