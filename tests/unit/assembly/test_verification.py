"""What a record keeps of the decision about an image: whole, also what a newer keelboot wrote."""

import json
from typing import Any

import pytest

from keelboot.assembly.record import Record
from keelboot.assembly.verification import Basis, Signature, Verification
from keelboot.image.refusal import Refused
from keelboot.image.tree import ObjectId

KEPT = Verification(
    basis=Basis.SIGNED,
    image="registry.example.org/web:1",
    digest="sha256:" + "a" * 64,
    media_type="application/vnd.oci.image.index.v1+json",
    policy='/etc/keelboot/trust.json: images["registry.example.org/web"]',
    policy_hash="sha256:" + "b" * 64,
    signatures=(
        Signature(
            key="sha256:" + "c" * 64,
            name="release",
            signer="ECDSA P-256",
            identity=None,
            annotations={"version": "2"},
            time="2026-11-27T12:00:00Z",
            evidence="d" * 64,
        ),
    ),
    version="2",
    downgrade="older",
    until="2026-12-27T12:00:00Z",
)
RECORD = Record(digest=ObjectId("1" * 64), image="docker://registry.example.org/web:1", verification=KEPT)


def test_there_and_back() -> None:
    assert Record.parse(RECORD.encode()) == RECORD
    assert KEPT.evidence == {"a" * 64, "d" * 64}
    assert Verification(basis=Basis.LOCAL, digest=KEPT.digest).evidence == frozenset()


def changed(**members: Any) -> bytes:
    value = json.loads(RECORD.encode())
    value["verification"] |= members
    return json.dumps(value).encode()


def test_members_of_a_newer_keelboot_are_kept() -> None:
    found = Record.parse(changed(witness="x"))
    assert found.verification
    assert found.verification.unknown == {"witness": "x"}
    assert json.loads(found.encode())["verification"]["witness"] == "x"


@pytest.mark.parametrize(
    "members",
    [{"basis": "witnessed"}, {"signatures": [{"key": "k", "evidence": "../x"}]}, {"until": 3}, {"Image": "x"}],
)
def test_what_is_not_understood_is_kept_whole_and_hides_no_deployment(members: dict[str, Any]) -> None:
    data = changed(**members)
    found = Record.parse(data)
    assert found.verification is None
    assert json.loads(found.encode())["verification"] == json.loads(data)["verification"]


def test_a_record_without_one() -> None:
    value = json.loads(RECORD.encode())
    del value["verification"]
    assert Record.parse(json.dumps(value).encode()).verification is None
    with pytest.raises(Refused):
        Verification.parse(None, "verification")
