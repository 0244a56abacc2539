"""What policies demand, in outline, and what one is warned of; and which of the screen's lines that comes to."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bootc_schema import faults
from keelboot.assembly.verification import Basis, Signature, Verification
from keelboot.host import clock, enforced, shown, status
from keelboot.host.record import Record
from keelboot.host.status import Choice, Facts
from keelboot.image.refusal import Refused
from keelboot.image.tree import ObjectId

OWN, CONTAINERS = "/etc/keelboot/trust.json", "/etc/containers/policy.json"
IMAGE = "registry.example.org/os/web:1"
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "demand"),
    [
        ('{"images": {"registry.example.org/os/web": {"keys": ["a"]}}}', "wants it signed by a"),
        ('{"images": {"registry.example.org": {"keys": ["a", "b"]}}}', "wants 1 of the keys a, b"),
        ('{"images": {"*.example.org": {"keys": ["a", "b"], "threshold": 2}}}', "wants 2 of the keys a, b"),
        ('{"images": {"registry.example.org/os": {"unsigned": true}}}', "wants no signature"),
        ('{"images": {"registry.example.org/os": {"keyless": {"identity": "me@x"}}}}', "wants it signed by me@x"),
        ('{"images": {"elsewhere.example.org": {"unsigned": true}}}', "rejects it"),
        ('{"images": {}, "otherwise": "containers-policy"}', None),
    ],
)
def test_our_own_policy(text: str, demand: str | None) -> None:
    assert enforced.outline((OWN, text.encode()), None, IMAGE) == ({OWN: demand} if demand else {})


@pytest.mark.parametrize(
    ("text", "demand"),
    [
        ('{"default": [{"type": "insecureAcceptAnything"}]}', "accepts it"),
        ('{"default": [{"type": "reject"}]}', "rejects it"),
        (
            '{"default": [], "transports": {"docker": {"*.org": [{"type": "sigstoreSigned"}, {"type": "signedBy"}]}}}',
            "wants sigstoreSigned and wants signedBy",
        ),
    ],
)
def test_containers_policy(text: str, demand: str) -> None:
    assert enforced.outline(None, (CONTAINERS, text.encode()), IMAGE) == {CONTAINERS: demand}


def test_names_without_a_tag_and_without_a_host() -> None:
    own = (OWN, b'{"images": {"docker.io/library/web:latest": {"unsigned": true}}}')
    assert enforced.outline(own, None, "web") == {OWN: "wants no signature"}


@pytest.mark.parametrize("text", ["", "[]", '{"images": []}', '{"images": {"registry.example.org": 1}}'])
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(Refused):
        enforced.outline((OWN, text.encode()), None, IMAGE)


def record(basis: Basis, **more: Any) -> Record:
    signature = Signature(key="sha256:" + "c" * 64, name="release", time="2026-11-01T12:00:00Z", evidence="d" * 64)
    signatures = (signature,) if basis is Basis.SIGNED else ()
    kept = Verification(basis=basis, image=IMAGE, policy=f"{OWN}: images", signatures=signatures, **more)
    return Record(
        digest=ObjectId("1" * 64),
        image=f"docker://{IMAGE}",
        manifest_digest="sha256:" + "a" * 64,
        created="2026-11-01T00:00:00Z",
        architecture="amd64",
        verification=kept,
    )


@pytest.mark.parametrize(
    ("runs", "now", "said"),
    [
        (record(Basis.SIGNED), NOW, []),
        (record(Basis.UNCHECKED), NOW, []),
        (record(Basis.ALLOWED), NOW, ["taken with --allow-unsigned"]),
        (record(Basis.SIGNED, downgrade="it is older"), NOW, ["although it is older"]),
        (record(Basis.SIGNED, until="2027-11-01T12:00:00Z"), NOW, []),
        (record(Basis.SIGNED, until="2026-11-30T12:00:00Z"), NOW, ["will be too old for the policy on 2026-11-30"]),
        (record(Basis.SIGNED, until="2026-11-26T12:00:00Z"), NOW, ["too old for the policy since 2026-11-26"]),
        (record(Basis.SIGNED), NOW - timedelta(days=100), ["clock says 2026-08-19"]),
    ],
)
def test_cautions(runs: Record, now: datetime, said: list[str]) -> None:
    found = enforced.cautions(runs, None, now)
    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True))


def test_cautions_about_what_boots_next() -> None:
    assert enforced.cautions(None, record(Basis.ALLOWED), NOW) == [
        "what boots next is not signed: it was taken with --allow-unsigned"
    ]


def test_clocks() -> None:
    assert clock.moment("2026-11-27T12:00:00.123456789Z")
    assert clock.moment("2026-11-27T12:00:00") == NOW
    assert clock.moment("yesterday") is None
    assert clock.rfc3339(NOW) == "2026-11-27T12:00:00Z"
    assert clock.rfc3339(None) == ""
    assert clock.trouble(None, NOW) == ""


def facts(runs: Record, **more: Any) -> Facts:
    return Facts(booted=runs.digest, records=(runs,), choices=(Choice(digest=runs.digest, generation=1),), **more)


@pytest.mark.parametrize(
    ("runs", "line", "signature"),
    [
        (record(Basis.SIGNED), "by release (sha256:cccccccccccc), 2026-11-01 12:00   (/etc/keelb", "containerPolicy"),
        (record(Basis.POLICY), "not needed: /etc/keelboot/trust.json wants no signature", None),
        (record(Basis.LOCAL), "not looked for: it did not come from a registry", None),
        (record(Basis.UNCHECKED), "NOT CHECKED: no policy is about it", None),
        (record(Basis.ALLOWED), "NO: it was taken with --allow-unsigned", "insecure"),
    ],
)
def test_the_screen_and_bootcs_document(runs: Record, line: str, signature: str | None) -> None:
    document = status.document(facts(runs, demands={OWN: "wants it signed by release"}, cautions=("be careful",)))
    assert faults(document) == []
    assert document["spec"]["image"].get("signature") == signature
    assert document["status"]["booted"]["image"]["image"].get("signature") == signature
    assert document["status"]["keelboot"]["warnings"] == ["be careful"]
    drawn = shown.screen(document, now=NOW, zone=UTC)
    assert f"  signed    {line}" in drawn
    assert f"  policy    {OWN} wants it signed by release" in drawn
    assert "be careful" in drawn


def test_a_machine_that_has_to_enforce_a_policy() -> None:
    document = status.document(facts(record(Basis.POLICY), demands={}, strict=True))
    assert document["spec"]["image"]["signature"] == "containerPolicy"
    assert document["status"]["keelboot"]["policy"] == {"files": [], "demands": {}, "strict": True}
    drawn = shown.screen(document, now=NOW, zone=UTC)
    assert "none is about this image: unsigned images are refused; one has to be enforced" in drawn
    drawn = shown.screen(document, now=NOW, zone=UTC, command="bootc")
    assert "nothing that comes from a registry is verified" in drawn


def test_what_was_gone_back_from_is_told_briefly() -> None:
    older = replace(record(Basis.SIGNED), digest=ObjectId("2" * 64))
    runs = record(Basis.SIGNED, downgrade="it was made earlier")
    choices = (Choice(digest=runs.digest, generation=2), Choice(digest=older.digest, generation=1))
    document = status.document(Facts(booted=runs.digest, records=(runs, older), choices=choices))
    drawn = shown.screen(document, now=NOW, zone=UTC)
    assert "signed by release   (keelboot rollback)" in drawn
    assert "taken with --allow-downgrade: it was made earlier" in drawn
