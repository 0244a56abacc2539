"""Each document that is made here is held against bootc's schema."""

from dataclasses import replace
from typing import Any

import pytest

from bootc_schema import faults
from keelboot.host import status
from keelboot.host.failed import FailedVersion
from keelboot.host.record import Record, State
from keelboot.host.status import Cached, Choice, Facts
from keelboot.image.tree import ObjectId

A, B, C, D = (ObjectId(letter * 64) for letter in "abcd")
KERNEL = "e" * 64


def record(digest: ObjectId, version: str, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "digest": digest,
        "image": "docker://registry.example.org/web:1",
        "manifest_digest": f"sha256:{digest.hex}",
        "created": "2026-01-02T03:04:05Z",
        "image_version": version,
        "architecture": "amd64",
        "kernel": "6.12.48",
        "title": "Debian GNU/Linux 13 (trixie)",
        "boot_digest": KERNEL,
        "staged": f"2026-01-0{version}T00:00:00Z",
    }
    return Record(**values | changes)


def choice(digest: ObjectId, generation: int, left: int | None = None, done: int = 0, extra: str = "") -> Choice:
    return Choice(
        digest=digest, generation=generation, options=f"composefs={digest.hex} rw{extra}", left=left, done=done
    )


ONE, TWO, THREE, FOUR = record(A, "1"), record(B, "2"), record(C, "3"), record(D, "4")
TRIED = replace(THREE, state=State.STAGED)


def document(**facts: Any) -> dict[str, Any]:
    made = status.document(Facts(**{"booted": B} | facts))
    assert faults(made) == []
    assert faults(status.only_booted(made)) == []
    return made


def slots(made: dict[str, Any]) -> list[Any]:
    """Versions of staged, booted, rollback and the others; whether a rollback is queued."""
    found = made["status"]
    entries = [found["staged"], found["booted"], found["rollback"], *found.get("otherDeployments", [])]
    return [entry and entry["image"] and entry["image"]["version"] for entry in entries] + [found["rollbackQueued"]]


def test_no_host_of_keelboots() -> None:
    made = document(booted=None)
    assert made["status"]["booted"] is None
    assert made["status"]["type"] is None
    assert made["spec"] == {"image": None, "bootOrder": "default"}
    assert "keelboot" not in made["status"]


def test_a_first_deployment() -> None:
    made = document(records=[TWO], choices=[choice(B, 1)])
    assert slots(made) == [None, "2", None, False]
    assert made["spec"] == {
        "image": {"image": "registry.example.org/web:1", "transport": "registry"},
        "bootOrder": "default",
    }
    assert made["status"]["type"] == "bootcHost"
    assert made["status"]["booted"] == {
        "image": {
            "image": {"image": "registry.example.org/web:1", "transport": "registry"},
            "version": "2",
            "timestamp": "2026-01-02T03:04:05Z",
            "imageDigest": f"sha256:{B.hex}",
            "architecture": "amd64",
        },
        "cachedUpdate": None,
        "incompatible": False,
        "pinned": False,
        "softRebootCapable": False,
        "downloadOnly": False,
        "store": None,
        "ostree": None,
        "composefs": {
            "verity": B.hex,
            "bootType": "Bls",
            "bootloader": "systemd",
            "bootDigest": KERNEL,
            "missingVerityAllowed": False,
        },
    }


@pytest.mark.parametrize(
    ("name", "facts", "expected"),
    [
        (
            "staged",
            {"records": [ONE, TWO, TRIED], "choices": [choice(A, 1), choice(B, 2), choice(C, 3, 3)]},
            ["3", "2", "1", False],
        ),
        (
            "on its first try",
            {"booted": C, "records": [ONE, TWO, TRIED], "choices": [choice(A, 1), choice(B, 2), choice(C, 3, 2, 1)]},
            [None, "3", "2", "1", False],
        ),
        (
            "on its last try: what runs may still become good",
            {"booted": C, "records": [TWO, TRIED], "choices": [choice(B, 2), choice(C, 3, 0, 3)]},
            [None, "3", "2", False],
        ),
        (
            "fell back, not noted yet",
            {"records": [ONE, TWO, TRIED], "choices": [choice(A, 1), choice(B, 2), choice(C, 3, 0, 3)]},
            [None, "2", "1", False],
        ),
        (
            "fell back and noted",
            {
                "records": [TWO, replace(THREE, state=State.BAD)],
                "choices": [choice(B, 2), choice(C, 3, 0, 3)],
            },
            [None, "2", None, False],
        ),
        (
            "a rollback is queued",
            {"records": [ONE, TWO], "choices": [choice(B, 2), choice(A, 3)]},
            [None, "2", "1", True],
        ),
        (
            "a rollback is queued, and the older entry is not removed yet",
            {"records": [ONE, TWO], "choices": [choice(A, 1), choice(B, 2), choice(A, 3)]},
            [None, "2", "1", True],
        ),
        (
            "rolled back",
            {"booted": A, "records": [ONE, TWO], "choices": [choice(B, 2), choice(A, 3)]},
            [None, "1", "2", False],
        ),
        (
            "many kept",
            {
                "booted": D,
                "records": [ONE, TWO, THREE, FOUR],
                "choices": [choice(A, 1), choice(B, 2), choice(C, 3), choice(D, 4)],
            },
            [None, "4", "3", "2", "1", False],
        ),
        (
            "entries in no order",
            {"booted": D, "records": [THREE, FOUR, ONE], "choices": [choice(C, 3), choice(A, 1), choice(D, 4)]},
            [None, "4", "3", "1", False],
        ),
        (
            "an entry without a record",
            {"records": [ONE, TWO], "choices": [choice(A, 1), choice(B, 2), choice(C, 3, 3)]},
            [None, "2", "1", False],
        ),
        (
            "a record without an entry",
            {"records": [ONE, TWO, TRIED], "choices": [choice(A, 1), choice(B, 2)]},
            [None, "2", "1", False],
        ),
        (
            "the record of what runs is gone",
            {"records": [ONE], "choices": [choice(A, 1), choice(B, 2)]},
            [None, None, "1", False],
        ),
        ("the entry of what runs is gone", {"records": [ONE, TWO], "choices": [choice(A, 1)]}, [None, "2", "1", True]),
        ("nothing but the digest is known", {"records": [], "choices": []}, [None, None, None, False]),
        (
            "no boot entries could be read",
            {"records": [TRIED, ONE, TWO, replace(FOUR, state=State.BAD)], "choices": None},
            ["3", "2", "1", False],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_who_is_what(name: str, facts: dict[str, Any], expected: list[Any]) -> None:
    made = document(**facts)
    assert slots(made) == expected, name
    assert made["spec"]["bootOrder"] == ("rollback" if expected[-1] else "default")


def test_the_image_that_is_followed_is_the_staged_one() -> None:
    other = replace(TRIED, image="docker://registry.example.org/other:9")
    made = document(records=[TWO, other], choices=[choice(B, 2), choice(C, 3, 3)])
    assert made["spec"]["image"]["image"] == "registry.example.org/other:9"


def test_only_downloaded() -> None:
    made = document(records=[ONE, TWO, TRIED], choices=[choice(A, 1), choice(B, 2)], downloaded=C)
    assert slots(made) == ["3", "2", "1", False]
    assert made["status"]["staged"]["downloadOnly"] is True
    assert made["status"]["booted"]["downloadOnly"] is False


@pytest.mark.parametrize("downloaded", [D, B, None])
def test_a_download_that_is_gone_or_runs_is_none(downloaded: ObjectId | None) -> None:
    made = document(records=[ONE, TWO], choices=[choice(A, 1), choice(B, 2)], downloaded=downloaded)
    assert made["status"]["staged"] is None


@pytest.mark.parametrize(
    ("reference", "image", "transport"),
    [
        ("docker://registry.example.org:5000/a/web:1", "registry.example.org:5000/a/web:1", "registry"),
        ("containers-storage:localhost/web:1", "localhost/web:1", "containers-storage"),
        ("oci:/srv/web:1", "/srv/web:1", "oci"),
        ("oci-archive:/srv/web.tar", "/srv/web.tar", "oci-archive"),
        ("docker-archive:/srv/web.tar:web:1", "/srv/web.tar:web:1", "docker-archive"),
    ],
)
def test_references_as_bootc_splits_them(reference: str, image: str, transport: str) -> None:
    made = document(records=[replace(TWO, image=reference)], choices=[choice(B, 2)])
    assert made["status"]["booted"]["image"]["image"] == {"image": image, "transport": transport}


@pytest.mark.parametrize(
    ("own", "options", "capable"),
    [
        ({}, "", True),
        ({"boot_digest": "f" * 64}, "", False),
        ({"boot_digest": ""}, "", False),
        ({}, " mitigations=off", False),
        ({}, None, False),
    ],
)
def test_soft_reboot_needs_the_same_kernel_and_arguments(
    own: dict[str, Any], options: str | None, capable: bool
) -> None:
    """The arguments that count are those that the kernel runs with, and it tells what the loader added."""
    choices = [choice(B, 2), choice(C, 3, 3, extra=options or "")] if options is not None else [choice(B, 2)]
    made = document(
        records=[TWO, replace(TRIED, **own)],
        choices=choices,
        downloaded=None if options is not None else C,
        command_line=f"initrd=\\x composefs={B.hex} rw\n",
    )
    assert made["status"]["staged"]["softRebootCapable"] is capable
    assert made["status"]["booted"]["softRebootCapable"] is False


def test_verity_that_may_be_missing() -> None:
    lax = Choice(digest=B, generation=2, options=f"rw composefs=?{B.hex}")
    made = document(records=[TWO], choices=[lax])
    assert made["status"]["booted"]["composefs"]["missingVerityAllowed"] is True


@pytest.mark.parametrize("created", ["", "yesterday", "2026-01-02", "0001-01-01T00:00:00Z\n"])
def test_a_timestamp_is_rfc_3339_or_null(created: str) -> None:
    made = document(records=[replace(TWO, created=created)], choices=[choice(B, 2)])
    assert made["status"]["booted"]["image"]["timestamp"] is None


def test_the_update_that_was_found_belongs_to_its_image() -> None:
    cached = Cached(
        image=TWO.image,
        manifest_digest="sha256:" + "9" * 64,
        version="9",
        timestamp="2026-02-03T04:05:06.789Z",
        checked="2026-02-04T00:00:00Z",
    )
    made = document(records=[TWO], choices=[choice(B, 2)], cached=cached)
    assert made["status"]["booted"]["cachedUpdate"] == {
        "image": {"image": "registry.example.org/web:1", "transport": "registry"},
        "version": "9",
        "timestamp": "2026-02-03T04:05:06.789Z",
        "imageDigest": "sha256:" + "9" * 64,
        "architecture": "amd64",
    }
    assert made["status"]["keelboot"]["checked"] == "2026-02-04T00:00:00Z"
    other = replace(cached, image="docker://registry.example.org/other:1")
    made = document(records=[TWO], choices=[choice(B, 2)], cached=other)
    assert made["status"]["booted"]["cachedUpdate"] is None


@pytest.mark.parametrize("mode", ["readOnly", "readWrite"])
def test_an_overlay_over_usr(mode: str) -> None:
    made = document(records=[TWO], choices=[choice(B, 2)], usr_overlay=mode)
    assert made["status"]["usrOverlay"] == {"accessMode": mode, "persistence": "transient"}


def test_only_what_runs() -> None:
    whole = document(
        records=[ONE, TWO, TRIED, FOUR], choices=[choice(A, 1), choice(D, 2), choice(B, 3), choice(C, 4, 3)]
    )
    found = status.only_booted(whole)["status"]
    assert (found["staged"], found["rollback"], "otherDeployments" in found) == (None, None, False)
    assert found["booted"] == whole["status"]["booted"]
    assert whole["status"]["otherDeployments"], "the whole document is left alone"


def test_what_keelboot_adds() -> None:
    failure = FailedVersion(
        digest=C,
        manifest_digest=f"sha256:{C.hex}",
        image=TWO.image,
        first="2026-01-03T00:00:00Z",
        last="2026-01-03T00:05:00Z",
        tries=3,
        stage="up",
        reason="the check web failed",
        detail="HTTP 503",
    )
    found = document(
        records=[ONE, TWO, replace(TRIED, parent=B)],
        choices=[choice(A, 1), choice(B, 2), choice(C, 3, 2, 1)],
        since="2026-01-05T00:00:00Z",
        deployed="2026-01-04T00:00:00Z",
        drift=12,
        failures=[FailedVersion(digest=D), failure],
        updates={"mode": "apply", "windows": [], "opens": None},
        warnings=["a warning"],
    )["status"]["keelboot"]
    assert found["since"] == "2026-01-05T00:00:00Z"
    assert found["deployed"] == "2026-01-04T00:00:00Z"
    assert found["etcChanged"] == 12
    assert found["deployments"][C.hex] == {
        "title": "Debian GNU/Linux 13 (trixie)",
        "kernel": "6.12.48",
        "staged": "2026-01-03T00:00:00Z",
        "state": "staged",
        "verification": None,
        "parent": B.hex,
        "rolledBack": False,
        "triesLeft": 2,
        "triesDone": 1,
    }
    assert found["failures"][1] == {
        "composefs": C.hex,
        "image": TWO.image,
        "imageDigest": f"sha256:{C.hex}",
        "version": "3",
        "first": "2026-01-03T00:00:00Z",
        "last": "2026-01-03T00:05:00Z",
        "tries": 3,
        "stage": "up",
        "reason": "the check web failed",
        "detail": "HTTP 503",
    }
    assert found["failures"][0]["reason"] is None
    assert found["updates"] == {"mode": "apply", "windows": [], "opens": None}
    assert found["warnings"] == ["a warning"]


def test_the_schema_finds_faults() -> None:
    """The judge of this file can say no."""
    made = document(records=[TWO], choices=[choice(B, 2)])
    for path, bad in {
        "kind": "Pod",
        "spec.bootOrder": "reverse",
        "status.rollbackQueued": None,
        "status.surprise": 1,
        "status.otherDeployments": [],
        "status.booted.composefs.bootType": "bls",
        "status.booted.image.timestamp": "now",
        "status.booted.pinned": "no",
    }.items():
        *way, last = path.split(".")
        part = made
        for name in way:
            part = part[name]
        before = part.get(last, "absent")
        part[last] = bad
        assert len(faults(made)) == 1, path
        if before == "absent":
            del part[last]
        else:
            part[last] = before
    del made["status"]["booted"]["pinned"]
    assert faults(made) == ["status.booted.pinned is missing"]
