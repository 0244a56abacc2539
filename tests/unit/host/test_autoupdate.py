from datetime import datetime, timedelta
from pathlib import Path

import pytest

from keelboot.failure import InvalidSettings
from keelboot.host import automatic, autoupdate
from keelboot.host.autoupdate import Decision, Mode, Settings, Window

# 2026-01-09 is a Friday.
FRIDAY, SATURDAY, SUNDAY, MONDAY = ("2026-01-09", "2026-01-10", "2026-01-11", "2026-01-12")


def at(date: str, time: str) -> datetime:
    return datetime.fromisoformat(f"{date}T{time}")


@pytest.mark.parametrize(
    ("window", "now", "is_open"),
    [
        ("Sat 02:00-05:00", at(SATURDAY, "01:59:59"), False),
        ("Sat 02:00-05:00", at(SATURDAY, "02:00"), True),
        ("Sat 02:00-05:00", at(SATURDAY, "04:59:59"), True),
        ("Sat 02:00-05:00", at(SATURDAY, "05:00"), False),
        ("Sat 02:00-05:00", at(FRIDAY, "03:00"), False),
        ("daily 03:00-04:00", at(MONDAY, "03:30"), True),
        ("daily 23:00-01:00", at(MONDAY, "00:30"), True),
        ("daily 23:00-01:00", at(MONDAY, "23:30"), True),
        ("daily 23:00-01:00", at(MONDAY, "01:00"), False),
        # The night that begins on Friday ends on Saturday, and the one that begins on Saturday is none.
        ("Fri 22:00-04:00", at(SATURDAY, "03:59"), True),
        ("Fri 22:00-04:00", at(SATURDAY, "22:30"), False),
        ("Fri 22:00-04:00", at(FRIDAY, "03:00"), False),
        # From Sunday into the next week.
        ("Sun 23:00-02:00", at(MONDAY, "01:00"), True),
        ("Sat,Sun 00:00-24:00", at(SUNDAY, "23:59:59"), True),
        ("Sat,Sun 00:00-24:00", at(MONDAY, "00:00"), False),
        ("Mon..Fri 12:00-13:00", at(FRIDAY, "12:30"), True),
        ("Mon..Fri 12:00-13:00", at(SATURDAY, "12:30"), False),
        ("Fri..Mon 12:00-13:00", at(SUNDAY, "12:30"), True),
        ("Fri..Mon 12:00-13:00", at("2026-01-13", "12:30"), False),
        # The hour that summer time skips or repeats in Europe: the clock's time decides.
        ("Sun 02:00-03:00", at("2026-03-29", "03:00"), False),
        ("Sun 02:00-03:00", at("2026-10-25", "02:30"), True),
    ],
)
def test_a_window_is_open(window: str, now: datetime, is_open: bool) -> None:
    assert Window.parse(window).is_open(now) is is_open


def test_a_window_is_open_exactly_as_long_as_it_says() -> None:
    """Each minute of a week, counted."""
    week = [at(MONDAY, "00:00") + timedelta(minutes=minute) for minute in range(7 * 24 * 60)]
    for text, minutes in (("Sat 02:00-05:00", 180), ("daily 23:30-00:15", 7 * 45), ("Mon,Wed 00:00-24:00", 2880)):
        window = Window.parse(text)
        assert sum(window.is_open(now) for now in week) == minutes, text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is not like"),
        ("Sat", "it is not like"),
        ("Sat 2:00-5:00", "it is not like"),
        ("02:00-05:00", "it is not like"),
        ("Caturday 02:00-05:00", "'Caturday' is no day"),
        ("Sat.. 02:00-05:00", None),
        ("..Sat 02:00-05:00", "'' is no day"),
        ("Sat 02:60-05:00", "02:60 is no time of day"),
        ("Sat 02:00-25:00", "25:00 is no time of day"),
        ("Sat 24:00-02:00", "it starts at 24:00"),
        ("Sat 02:00-02:00", "it ends when it starts"),
    ],
)
def test_a_bad_window_is_refused(text: str, why: str | None) -> None:
    if why is None:  # an open end is the day itself
        assert Window.parse(text).days == {5}
        return
    with pytest.raises(ValueError, match=why):
        Window.parse(text)


WINDOWS = (Window.parse("Sat 02:00-05:00"), Window.parse("Wed 23:00-01:00"))


@pytest.mark.parametrize(
    ("settings", "now", "decision"),
    [
        (Settings(mode=Mode.CHECK), at(MONDAY, "12:00"), Decision(mode=Mode.CHECK, reboot=False)),
        (Settings(), at(MONDAY, "12:00"), Decision(mode=Mode.STAGE, reboot=False)),
        # A window is no reason to restart where nobody asked for restarts.
        (Settings(windows=WINDOWS), at(SATURDAY, "03:00"), Decision(mode=Mode.STAGE, reboot=False)),
        (Settings(mode=Mode.APPLY), at(MONDAY, "12:00"), Decision(mode=Mode.APPLY, reboot=True)),
        (Settings(mode=Mode.APPLY, windows=WINDOWS), at(SATURDAY, "03:00"), Decision(mode=Mode.APPLY, reboot=True)),
        (
            Settings(mode=Mode.APPLY, windows=WINDOWS),
            at(SATURDAY, "05:00"),
            Decision(mode=Mode.APPLY, reboot=False, opens=at("2026-01-14", "23:00")),
        ),
        (
            Settings(mode=Mode.APPLY, windows=WINDOWS[:1]),
            at(SATURDAY, "05:00"),
            Decision(mode=Mode.APPLY, reboot=False, opens=at("2026-01-17", "02:00")),
        ),
    ],
)
def test_decides(settings: Settings, now: datetime, decision: Decision) -> None:
    assert autoupdate.decide(now, settings) == decision


def test_the_next_opening_is_open_and_nothing_before_it_is() -> None:
    settings = Settings(mode=Mode.APPLY, windows=WINDOWS)
    for hour in range(7 * 24):
        now = at(MONDAY, "00:30") + timedelta(hours=hour)
        decision = autoupdate.decide(now, settings)
        if decision.reboot:
            continue
        assert decision.opens is not None
        assert autoupdate.decide(decision.opens, settings).reboot
        between = int((decision.opens - now).total_seconds()) // 60
        assert not any(
            autoupdate.decide(now + timedelta(minutes=minute), settings).reboot for minute in range(0, between, 7)
        )


@pytest.mark.parametrize(
    ("mode", "flags"),
    [(Mode.CHECK, ("--check",)), (Mode.DOWNLOAD, ("--download-only",)), (Mode.STAGE, ()), (Mode.APPLY, ())],
)
def test_flags(mode: Mode, flags: tuple[str, ...]) -> None:
    assert autoupdate.decide(at(MONDAY, "12:00"), Settings(mode=mode)).flags == flags


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in autoupdate.FILES:
        (tmp_path / name).parent.mkdir(parents=True)
    return tmp_path


def test_without_settings_it_stages(root: Path) -> None:
    assert automatic.settings(root) == Settings(mode=Mode.STAGE, windows=())


def test_the_machines_settings_replace_the_images_key_by_key(root: Path) -> None:
    (root / autoupdate.FILES[0]).write_text('mode = "apply"\nwindows = ["Sat 02:00-05:00"]\n')
    (root / autoupdate.FILES[1]).write_text('windows = ["daily 03:00-04:00"]\n')
    assert automatic.settings(root) == Settings(mode=Mode.APPLY, windows=(Window.parse("daily 03:00-04:00"),))
    assert automatic.describe(root, at(MONDAY, "12:00")) == {
        "mode": "apply",
        "windows": ["daily 03:00-04:00"],
        "opens": "2026-01-13T03:00:00",
    }


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('mode = "always"', "mode is 'always', not one of check, download, stage, apply"),
        ("mode = 1", "mode is 1"),
        ("windows = 'Sat 02:00-05:00'", "windows is not a list"),
        ("windows = ['Sat 02:00-05:00', 'Sun']", r"windows\[1\] is 'Sun': it is not like"),
        ("windows = [1]", r"windows\[0\] is 1"),
        ("window = []", "the key window is unknown"),
        ("mode = ", "/etc/keelboot/update.toml: Invalid value"),
    ],
)
def test_a_bad_file_is_refused_by_file_and_key(content: str, why: str, root: Path) -> None:
    (root / autoupdate.FILES[1]).write_text(content)
    with pytest.raises(InvalidSettings, match=why) as refused:
        automatic.settings(root)
    assert "/etc/keelboot/update.toml: " in refused.value.why


def test_what_is_no_text_is_refused(root: Path) -> None:
    (root / autoupdate.FILES[1]).write_bytes(b"\xff")
    with pytest.raises(InvalidSettings, match="utf-8"):
        automatic.settings(root)
