import json
from dataclasses import replace

import pytest

from keelboot.image.digest import Digest
from keelboot.image.refusal import Refused
from keelboot.image.tree import External, ObjectId
from keelboot.store.imagerecord import ImageRecord

RECORD = ImageRecord(
    manifest_digest=Digest("sha256", "1" * 64),
    config_digest=Digest("sha512", "2" * 128),
    media_type="application/vnd.oci.image.manifest.v1+json",
    manifest=External(ObjectId("3" * 64), 300),
    config=External(ObjectId("4" * 64), 400),
    diff_ids=(Digest("sha256", "5" * 64), Digest("sha256", "6" * 64)),
    composefs=External(ObjectId("7" * 64), 4096),
)


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, composefs=None, unsealed="/boot is missing")])
def test_what_is_written_is_read(record: ImageRecord) -> None:
    assert ImageRecord.parse(record.encode()) == record


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("version", 2),
        ("manifest-digest", "sha256:1"),
        ("manifest", None),
        ("config", {"object": "3", "size": 1}),
        ("config", {"object": "3" * 64, "size": -1}),
        ("layers", ["x"]),
        ("layers", "x"),
        ("Layers", []),
    ],
)
def test_refuses(member: str, value: object) -> None:
    with pytest.raises(Refused):
        ImageRecord.parse(json.dumps(json.loads(RECORD.encode()) | {member: value}).encode())
