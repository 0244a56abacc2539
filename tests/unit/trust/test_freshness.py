"""What is older, staler or too far ahead: rules about values."""

from datetime import UTC, datetime, timedelta

import pytest

from keelboot.image.digest import Digest
from keelboot.image.refusal import Refused
from keelboot.trust.freshness import Standing, is_older, leap, rollback, seconds, stale, version_numbers

OLD, NEW = (Digest("sha256", letter * 64) for letter in "01")
NOW = datetime(2026, 11, 27, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("42", (42,)),
        ("0", (0,)),
        ("1.2.0", (1, 2)),
        ("2026-11-27", (2026, 11, 27)),
        ("20261127.1-3", (20261127, 1, 3)),
        ("007", (7,)),
        ("", None),
        ("v1", None),
        ("1.", None),
        ("1..2", None),
        ("1.2-rc1", None),
        ("-1", None),
        ("1\n", None),
        ("\u0661", None),
        ("1" * 19, None),
        (".".join("1" * 17), None),
    ],
)
def test_versions(text, numbers):
    assert version_numbers(text) == numbers


def test_comparison():
    assert is_older("9", "10")
    assert is_older("1.9", "1.10")
    assert not is_older("1.0", "1")
    assert not is_older("1", "1.0")
    for one, other in (("x", "1"), ("1", "x")):
        with pytest.raises(Refused, match="'x' is no version"):
            is_older(one, other)


@pytest.mark.parametrize(
    ("new", "running", "why"),
    [
        (Standing(NEW, "42"), Standing(OLD, "41"), None),
        (Standing(NEW, "42"), Standing(OLD), None),
        (Standing(NEW, "41"), Standing(OLD, "42"), "version 41, and 42 runs"),
        (Standing(OLD, "41"), Standing(OLD, "42"), None),
        (Standing(NEW), Standing(OLD, "42"), "no version was signed"),
        (Standing(NEW, "x"), Standing(OLD, "42"), "'x' is no version"),
        (Standing(NEW, "42"), Standing(OLD, "42"), None),
        (Standing(NEW, "42", NOW - DAY), Standing(OLD, "42", NOW), "it was made 2026-11-26 00:00:00 UTC"),
        (Standing(NEW, "43", NOW - DAY), Standing(OLD, "42", NOW), None),
        (Standing(NEW, "41", NOW), Standing(OLD, "42", NOW - DAY), "version 41"),
        (Standing(NEW, None, NOW - DAY), Standing(OLD, None, NOW), "it was made"),
        (Standing(NEW, None, NOW), Standing(OLD, None, NOW), None),
        (Standing(NEW, None, NOW), Standing(OLD, None, NOW - DAY), None),
        (Standing(NEW), Standing(OLD, None, NOW), "does not say when"),
        (Standing(NEW, "1"), Standing(OLD, None, NOW), "does not say when"),
        (Standing(NEW), Standing(OLD), None),
    ],
)
def test_rollback(new, running, why):
    found = rollback(new, running)
    assert found is None if why is None else found and why in found


@pytest.mark.parametrize(
    ("version", "jump", "why"),
    [
        ("43", 1, None),
        ("44", 1, "more than 1 ahead"),
        ("44", None, None),
        ("10000", 9, "more than 9 ahead"),
        ("43.9", 1, None),
        ("1", 1, None),
    ],
)
def test_leap(version, jump, why):
    found = leap(Standing(NEW, version), Standing(OLD, "42"), NOW, jump)
    assert found is None if why is None else found and why in found


def test_leap_of_time():
    assert leap(Standing(NEW, None, NOW + DAY), None, NOW, None) is None
    assert "clock" in leap(Standing(NEW, None, NOW + 2 * DAY), None, NOW, None)
    assert leap(Standing(NEW, "9"), Standing(OLD), NOW, 1) is None


@pytest.mark.parametrize(
    ("signed", "max_age", "expires", "why"),
    [
        (None, None, None, None),
        (None, DAY, None, "does not say when"),
        (NOW - DAY, DAY, None, None),
        (NOW - DAY - timedelta(seconds=1), DAY, None, "more than 1 days ago"),
        (NOW + DAY, DAY, None, None),
        (NOW + 2 * DAY, DAY, None, "clock"),
        (NOW + 2 * DAY, None, None, "clock"),
        (NOW - 900 * DAY, None, None, None),
        (NOW, DAY, NOW, None),
        (NOW, None, NOW - DAY, "good until 2026-11-26"),
        (None, None, NOW + DAY, None),
    ],
)
def test_stale(signed, max_age, expires, why):
    found = stale(signed, NOW, max_age, expires)
    assert found is None if why is None else found and why in found


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "1" * 13, "999999999999", "\u0661"])
def test_what_is_no_time(text):
    assert seconds("0", "timestamp") == datetime(1970, 1, 1, tzinfo=UTC)
    with pytest.raises(Refused, match="its timestamp is"):
        seconds(text, "timestamp")
