import pytest

from keelboot.vm.announcement import Announcement


def test_reads_all_members_and_ignores_others() -> None:
    line = b'{"state": "degraded", "failed": ["a.service"], "booted": "ab12", "later": 1}'
    assert Announcement.parse(line) == Announcement("degraded", ("a.service",), "ab12")


def test_only_the_state_is_needed() -> None:
    assert Announcement.parse(b'{"state":"running"}') == Announcement("running")


def test_nothing_that_moves_the_users_cursor_gets_through() -> None:
    assert Announcement.parse(rb'{"state":"\u001b[2J","failed":["\u0007x"]}') == Announcement("?[2J", ("?x",))


@pytest.mark.parametrize(
    "line",
    [b"", b"running", b"[]", b"{}", b'{"state":1}', b'{"state":"x","failed":"y"}', b'{"state":"x","failed":[1]}',
     b'{"state":"x","booted":[]}', b"\xff", b"[" * 20000, b'{"state":"' + b"x" * 70000 + b'"}'],
)  # fmt: skip
def test_refuses(line: bytes) -> None:
    with pytest.raises(ValueError):
        Announcement.parse(line)
