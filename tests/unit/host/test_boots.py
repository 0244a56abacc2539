"""Boot records: what a line is, what a torn one costs, and what is concluded from the lines of failed tries."""

import pytest

from keelboot.host import boots
from keelboot.host.boots import TEXT_MAX, Line, Stage

ONE, TWO = "013f383a-2ec0-4609-8d85-195c7eb21772", "113f383a-2ec0-4609-8d85-195c7eb21772"


def record(*lines: tuple[str, str, str]) -> bytes:
    return b"".join(Line(boot, 100 + n, Stage(stage), text).encode() for n, (boot, stage, text) in enumerate(lines))


def test_a_line_is_as_the_format_says() -> None:
    assert Line(ONE, 5, Stage.INIT).encode() == f"\n{ONE} 5 init\n".encode()
    assert Line(ONE, 5, Stage.UNHEALTHY, "a\nb\\n").encode() == f"\n{ONE} 5 unhealthy a\\nb\\\\n\n".encode()


@pytest.mark.parametrize("text", ["", "word", "two\nlines", "back\\slash", "\\n", "\\\\n\n\n\\", "é 漢字", "a  b"])
def test_what_was_written_is_read(text: str) -> None:
    [boot] = boots.parse(Line(ONE, 1, Stage.REFUSED, text).encode())
    assert boot.lines[0].text == text


def test_a_text_stays_one_bounded_line() -> None:
    line = Line(ONE, 1, Stage.UNHEALTHY, "é\r\0" * TEXT_MAX).encode()
    assert len(line) < 2 * TEXT_MAX
    assert line.strip().count(b"\n") == 0
    line.decode()


def test_boots_are_told_apart_and_keep_their_order() -> None:
    found = boots.parse(record((ONE, "initramfs", ""), (ONE, "root", ""), (TWO, "initramfs", ""), (ONE, "init", "")))
    assert [[str(line.stage) for line in boot.lines] for boot in found] == [
        ["initramfs", "root", "init"],
        ["initramfs"],
    ]
    assert [boot.started for boot in found] == [100, 102]
    assert [boot.stage for boot in found] == [Stage.INIT, Stage.INITRAMFS]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\n\n",
        b"\0\0\0\0",
        b"013f383a-2ec0",
        b"\xff\xfe 1 init\n",
        f"{ONE} x init\n".encode(),
        f"{ONE} 1 soon\n".encode(),
    ],
)
def test_what_a_cut_leaves_is_passed_over(damage: bytes) -> None:
    [boot] = boots.parse(damage + record((ONE, "root", "")) + damage)
    assert [line.stage for line in boot.lines] == [Stage.ROOT]


@pytest.mark.parametrize(
    ("lines", "stage", "reason", "detail"),
    [
        ([], "", "did not get as far as the disk", ""),
        ([(ONE, "initramfs", "")], "initramfs", "before the root was mounted", ""),
        ([(ONE, "initramfs", ""), (ONE, "refused", "no image")], "initramfs", "refused to boot: no image", ""),
        ([(ONE, "root", ""), (TWO, "initramfs", "")], "root", "its init did not start", ""),
        ([(ONE, "init", "")], "init", "before everything was up", ""),
        (
            [(ONE, "up", ""), (ONE, "unhealthy", "check x failed\nouch\nit hurts")],
            "up",
            "check x failed",
            "ouch\nit hurts",
        ),
        ([(ONE, "init", ""), (ONE, "timeout", "a.service")], "init", "not up in time: a.service", ""),
        # A try that was cut off says less than one that failed by itself.
        ([(ONE, "up", ""), (ONE, "unhealthy", "x failed"), (TWO, "root", "")], "up", "x failed", ""),
        # What comes after the first end is only its consequence.
        ([(ONE, "refused", "cause"), (ONE, "refused", "consequence")], "", "refused to boot: cause", ""),
        ([(ONE, "good", "")], "good", "could not be blessed", ""),
    ],
)
def test_verdict(lines: list[tuple[str, str, str]], stage: str, reason: str, detail: str) -> None:
    told = boots.verdict(boots.parse(record(*lines)))
    assert (told.stage, told.detail) == (stage, detail)
    assert reason in told.reason
    assert "\n" not in told.reason


def test_a_kept_panic_is_the_reason_where_no_try_gave_one() -> None:
    log = "[    1.2] something\n[    1.3] Kernel panic - not syncing: No working init found.\n[    1.4] CPU: 0"
    told = boots.verdict(boots.parse(record((ONE, "root", ""))), log)
    assert told == boots.Verdict("root", "the kernel panicked: No working init found.", log)
    assert "x failed" in boots.verdict(boots.parse(record((ONE, "unhealthy", "x failed"))), log).reason


def test_a_record_is_cut_at_a_line() -> None:
    data = record(*[(ONE, "init", str(number)) for number in range(100)])
    kept = boots.tail(data, 500)
    assert len(kept) <= 500
    assert data.endswith(kept)
    assert kept.startswith(ONE.encode())
    assert boots.tail(data, len(data)) == data
