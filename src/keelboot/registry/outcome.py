"""What becomes of a blob that is to be at another place."""

from enum import StrEnum


class How(StrEnum):
    """How it came to be there."""

    THERE = "there"  # before, and nothing was sent
    MOUNTED = "mounted"  # from another repository of the same registry
    SENT = "sent"
