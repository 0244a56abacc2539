"""The screen for people, drawn from documents that are made from facts."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from keelboot.host import shown, status
from keelboot.host.failed import FailedVersion
from keelboot.host.record import Record, State
from keelboot.host.status import Cached, Choice, Facts
from keelboot.image.tree import ObjectId

NOW = datetime(2026, 1, 10, 12, 0, tzinfo=UTC)
DIGESTS = [ObjectId(f"{number:x}" * 64) for number in range(1, 10)]
A, B, C = DIGESTS[:3]


def record(digest: ObjectId, version: str, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "digest": digest,
        "image": "docker://registry.example.org/web:1",
        "manifest_digest": f"sha256:{digest.hex}",
        "created": f"2026-01-0{version}T00:00:00Z",
        "image_version": version,
        "architecture": "amd64",
        "kernel": "6.12.48",
        "title": "Debian GNU/Linux 13 (trixie)",
        "boot_digest": "e" * 64,
        "staged": f"2026-01-0{version}T06:00:00Z",
    }
    return Record(**values | changes)


def screen(facts: Facts, **how: Any) -> str:
    drawn = shown.screen(status.document(facts), now=NOW, zone=UTC, **how)
    lines = drawn.splitlines()
    if not how.get("verbose"):
        assert len(lines) <= shown.HEIGHT
    if not how.get("colour"):
        assert all(len(line) <= shown.WIDTH for line in lines), max(lines, key=len)
        assert drawn.isascii()
        assert "\x1b" not in drawn
    assert all(line == line.rstrip() for line in lines)
    return drawn


FAILURE = FailedVersion(
    digest=C,
    manifest_digest=f"sha256:{C.hex}",
    image="docker://registry.example.org/web:1",
    first="2026-01-09T11:00:00Z",
    last="2026-01-09T12:00:00Z",
    tries=3,
    stage="up",
    reason="the required check web failed",
    detail="GET /\nHTTP 503\n\n",
)
FULL = Facts(
    booted=B,
    since="2026-01-07T12:00:00Z",
    deployed="2026-01-02T12:00:00Z",
    records=[record(A, "1", pinned=True), record(B, "2"), record(C, "3", state=State.STAGED)],
    choices=[Choice(digest=A, generation=1), Choice(digest=B, generation=2), Choice(digest=C, generation=3, left=3)],
    failures=[FAILURE],
    drift=12,
)


def test_a_whole_screen() -> None:
    assert screen(FULL) == (
        """\
* running   version 2, Debian GNU/Linux 13 (trixie)
  image     registry.example.org/web:1
            sha256:222222222222  built 2026-01-02 00:00  amd64
  since     booted 2026-01-07 12:00 (3 days ago), first 2026-01-02 12:00 (8 days ago)
  health    good
  /etc      12 paths differ from the image's   (keelboot etc diff)

+ staged    version 3, 2026-01-03 06:00 (7 days ago)
  image     registry.example.org/web:1
            sha256:333333333333  built 2026-01-03 00:00  amd64
            the next boot runs it, with 3 tries   (systemctl reboot)

- back to   version 1, sha256:111111111111, from 2026-01-01 06:00, pinned   (keelboot rollback)

! failed    version 3, 2026-01-09 12:00 (1 day ago): fell back after 3 tries
  why       the required check web failed
            HTTP 503
  came to   up of the stages initramfs, root, init, up, good
            it is not staged again by itself; by hand: `keelboot upgrade --retry-failed`
"""
    )


def test_a_machine_that_is_none() -> None:
    assert "does not run a keelboot deployment" in screen(Facts(booted=None))


def test_a_new_machine() -> None:
    drawn = screen(Facts(booted=B, records=[record(B, "2")], choices=[Choice(digest=B, generation=1)], drift=0))
    assert "this is the only deployment" in drawn
    assert "0 paths differ from the image's\n" in drawn
    assert "staged" not in drawn
    assert "failed" not in drawn


@pytest.mark.parametrize(
    ("state", "left", "done", "words"),
    [
        (State.STAGED, 2, 1, "on trial: try 1 of 3"),
        (State.GOOD, None, 0, "health    good"),
        (State.BAD, 0, 3, "it failed its trial"),
    ],
)
def test_health(state: State, left: int | None, done: int, words: str) -> None:
    facts = Facts(
        booted=B,
        records=[record(B, "2", state=state)],
        choices=[Choice(digest=B, generation=2, left=left, done=done)],
    )
    assert words in screen(facts)


def test_a_proven_version_whose_checks_failed_at_this_boot() -> None:
    """Nothing restarts it for that, so somebody has to be told."""
    assert "health    failed at this boot: systemd, 10-nginx.sh   (keelboot health)\n" in screen(
        replace(FULL, unhealthy=("systemd", "10-nginx.sh"))
    )


def test_a_queued_rollback() -> None:
    facts = replace(FULL, choices=[Choice(digest=B, generation=2), Choice(digest=A, generation=4)], failures=())
    assert "- next boot version 1, sha256:111111111111, from 2026-01-01 06:00, pinned   (queued)" in screen(facts)


def test_only_downloaded() -> None:
    facts = replace(FULL, choices=FULL.choices[:2] if FULL.choices else None, downloaded=C)
    assert "only downloaded: `keelboot upgrade --from-downloaded` stages it" in screen(facts)


def test_the_name_that_was_typed() -> None:
    facts = replace(FULL, choices=FULL.choices[:2] if FULL.choices else None, downloaded=C)
    drawn = screen(facts, command="bootc")
    assert "(bootc rollback)" in drawn
    assert "`bootc upgrade --from-downloaded`" in drawn


def test_an_update_that_was_found() -> None:
    found = Cached(image=FULL.records[1].image, manifest_digest=f"sha256:{'9' * 64}", version="9")
    facts = replace(FULL, choices=FULL.choices[:2] if FULL.choices else None, cached=found)
    assert "  update    version 9, sha256:999999999999   (keelboot upgrade)" in screen(facts)
    same = replace(found, manifest_digest=f"sha256:{B.hex}")
    assert "update" not in screen(replace(facts, cached=same))


def test_automatic_updates() -> None:
    updates = {"mode": "apply", "windows": ["Sat 02:00-05:00"], "opens": "2026-01-17T02:00:00"}
    assert "  automatic apply; restarts from Sat 2026-01-17 02:00" in screen(replace(FULL, updates=updates))
    updates = {"mode": "stage", "windows": [], "opens": None}
    assert "  automatic stage\n" in screen(replace(FULL, updates=updates))


def test_an_overlay_and_a_read_only_disk() -> None:
    drawn = screen(replace(FULL, usr_overlay="readWrite", read_only=True))
    assert "a writable overlay lies over it" in drawn
    assert "disk      read-only" in drawn


def test_colours_are_only_colours() -> None:
    plain = screen(FULL)
    colourful = screen(FULL, colour=True)
    assert "\x1b[31m" in colourful
    assert re.sub(r"\x1b\[\d+m", "", colourful) == plain


def test_what_an_image_or_a_check_says_does_not_reach_the_terminal() -> None:
    """Escapes would move the cursor or set the title; line breaks would draw rows of their own."""
    bad = "\x1b]0;owned\x07\r\n* running  version 99\u202e\x9b2J"
    facts = replace(
        FULL,
        records=[record(B, "2", title=bad, image_version=bad, image=f"docker://{bad}")],
        failures=[replace(FAILURE, reason=bad, detail=bad)],
        warnings=[bad],
    )
    drawn = shown.screen(status.document(facts), now=NOW, zone=UTC)
    assert not {"\x1b", "\x07", "\r", "\u202e", "\x9b"} & set(drawn)
    assert [line for line in drawn.splitlines() if line.startswith("* running")] == [drawn.splitlines()[0]]


def test_too_much_for_a_screen() -> None:
    """Everything at once, each text as long as it may be, still fits; -v tells it all."""
    long = "x" * 300
    many = [record(digest, "1", image_version=long, title=long) for digest in DIGESTS]
    many[0] = replace(many[0], state=State.STAGED)
    facts = replace(
        FULL,
        records=many,
        choices=[Choice(digest=digest, generation=9 - number) for number, digest in enumerate(DIGESTS)],
        booted=DIGESTS[8],
        failures=[replace(FAILURE, reason=long, detail=f"{long}\n" * 50)] * 20,
        warnings=[long] * 20,
        usr_overlay="readOnly",
        read_only=True,
        updates={"mode": "apply", "windows": [], "opens": None},
        cached=Cached(image=many[0].image, manifest_digest="sha256:" + "0" * 64, version=long),
    )
    drawn = screen(facts)
    assert "... and more   (keelboot status -v)" in drawn
    assert screen(facts, verbose=True).count("warning") == 20


def test_verbose_tells_digests_whole() -> None:
    drawn = screen(FULL, verbose=True)
    for record in FULL.records:
        assert record.digest.hex in drawn
        assert record.manifest_digest in drawn
    assert "GET /" in drawn
    assert "fs-verity required; kernel 6.12.48" in drawn


def test_a_lost_record() -> None:
    drawn = screen(Facts(booted=B, choices=[Choice(digest=B, generation=1)], warnings=["a warning"]))
    assert f"composefs {B.hex[:12]}" in drawn
    assert "its record is gone" in drawn
    assert "warning   a warning" in drawn


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("2026-01-10T11:59:30Z", "just now"),
        ("2026-01-10T11:58:59Z", "1 minute ago"),
        ("2026-01-10T10:00:00Z", "2 hours ago"),
        ("2026-01-09T11:00:00Z", "1 day ago"),
        ("2026-01-10T13:00:00+02:00", "1 hour ago"),
        ("2026-01-11T12:00:00Z", "ahead of the clock"),
    ],
)
def test_how_long_ago(then: str, words: str) -> None:
    assert f"({words})" in screen(replace(FULL, since=then, deployed=""))
