"""Times as records have them, and whether the machine's clock can be right."""

from datetime import UTC, datetime, timedelta
from typing import Final

_DIFFER: Final = timedelta(days=1)  # two clocks that are both right enough


def moment(text: str | None) -> datetime | None:
    """The time that TEXT, RFC 3339, is; None for what is none."""
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found and found.tzinfo is None else found


def rfc3339(time: datetime | None) -> str:
    """TIME as RFC 3339 writes it; empty for None."""
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if time else ""


def trouble(created: datetime | None, now: datetime) -> str:
    """What is wrong with a clock that says NOW, if what runs was CREATED later; empty where nothing is known to be."""
    if created is None or now >= created - _DIFFER:
        return ""
    return (
        f"this machine's clock says {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC, and what runs was made on "
        f"{created:%Y-%m-%d}: ages of signatures cannot be told"
    )
