"""Whether an image is older than what runs, or its signature older than it may be: rules about values.

What is compared was signed: the annotations `version` (digits, with dots or dashes between) and `timestamp` (when it
was signed, in seconds since 1970), and the time an image was made, which its digest covers.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from keelboot.image.digest import Digest
from keelboot.image.refusal import Refused

VERSION: Final = "version"
TIMESTAMP: Final = "timestamp"
STREAM: Final = "stream"
EXPIRES: Final = "expires"
# How far in the future a time may be: clocks differ.
_AHEAD: Final = timedelta(days=1)
_VERSION = re.compile(r"[0-9]{1,18}(?:[.-][0-9]{1,18}){0,15}")
_SECONDS = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class Standing:
    """How old an image is: what was signed about its version, and when it was made."""

    digest: Digest
    version: str | None = None
    created: datetime | None = None


def version_numbers(text: str) -> tuple[int, ...] | None:
    """The numbers of the version TEXT, without zeros at the end: 1.2.0 is 1.2. None for what is no version."""
    if not _VERSION.fullmatch(text):
        return None
    numbers = [int(part) for part in re.split("[.-]", text)]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def is_older(version: str, than: str) -> bool:
    """Whether VERSION is before THAN. Raises Refused where one of them is no version."""
    ours, theirs = version_numbers(version), version_numbers(than)
    if ours is None or theirs is None:
        odd = version if ours is None else than
        raise Refused(f"{odd[:100]!a} is no version: digits, with dots or dashes between them")
    return ours < theirs


def seconds(text: str, what: str) -> datetime:
    """The time that the annotation WHAT, TEXT, is. Raises Refused."""
    if not _SECONDS.fullmatch(text):
        raise Refused(f"its {what} is {text[:100]!a}, not seconds since 1970")
    try:
        return datetime.fromtimestamp(int(text), UTC)
    except (OverflowError, ValueError) as error:
        raise Refused(f"its {what} is {text!a}, which is beyond all time") from error


def rollback(new: Standing, running: Standing) -> str | None:
    """Why NEW must not take the place of RUNNING; None if it may.

    By version where RUNNING has a signed one: then NEW needs one that is not less, and where they are equal the time
    decides. By the time they were made else.
    """
    if new.digest == running.digest:
        return None
    if running.version is not None:
        if new.version is None:
            return f"version {running.version} runs, and of this image no version was signed"
        try:
            if is_older(new.version, running.version):
                return f"it is version {new.version}, and {running.version} runs"
            if is_older(running.version, new.version):
                return None
        except Refused as error:
            return str(error)
    if running.created is not None:
        if new.created is None:
            return f"what runs was made {_shown(running.created)}, and this image does not say when it was made"
        if new.created < running.created:
            return f"it was made {_shown(new.created)}, and what runs {_shown(running.created)}"
    return None


def leap(new: Standing, running: Standing | None, now: datetime, max_jump: int | None) -> str | None:
    """Why NEW is too far ahead; None if it is not.

    Whoever may sign once could else lock all later versions out (the fast-forward attack). MAX_JUMP bounds by how much
    the first number of a version may grow.
    """
    if new.created is not None and new.created > now + _AHEAD:
        return f"it was made {_shown(new.created)}, which is to come; is this machine's clock right?"
    if max_jump is None or running is None or new.version is None or running.version is None:
        return None
    ours, theirs = version_numbers(new.version), version_numbers(running.version)
    if ours is None or theirs is None or ours[0] - theirs[0] > max_jump:
        return f"it is version {new.version[:100]}, more than {max_jump} ahead of {running.version[:100]}"
    return None


def stale(signed: datetime | None, now: datetime, max_age: timedelta | None, expires: datetime | None) -> str | None:
    """Why a signature made at the time SIGNED does not count NOW; None if it does. EXPIRES is what was signed."""
    if expires is not None and now > expires:
        return f"it was good until {_shown(expires)}"
    if signed is not None and signed > now + _AHEAD:
        return f"it was made {_shown(signed)}, which is to come; is this machine's clock right?"
    if max_age is None:
        return None
    if signed is None:
        return "it does not say when it was made, and the policy wants it to be recent"
    if now - signed > max_age:
        return f"it was made {_shown(signed)}, more than {max_age.total_seconds() / 86400:g} days ago"
    return None


def _shown(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
