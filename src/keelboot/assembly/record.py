"""The record of a deployment, origin.json: what it is, where it came from, and what became of it.

Format: docs/formats/deployment.md, "The record".
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from keelboot.assembly.verification import Verification
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import Members, parse
from keelboot.image.tree import ObjectId

VERSION: Final = 1
REFERENCES: Final = "deployment:"  # how references to deployments' images begin
_MEMBERS = (
    "version", "image", "manifest-digest", "config-digest", "composefs", "created", "image-version", "architecture",
    "kernel", "title", "boot-digest", "arguments", "parent", "staged", "state", "pinned", "rolled-back", "verification",
)  # fmt: skip


def reference_of(digest: ObjectId) -> str:
    """What a store calls the image of the deployment DIGEST: its own name, as tags move on to other images."""
    return f"{REFERENCES}{digest.hex}"


class State(StrEnum):
    """What is known of a deployment's health."""

    STAGED = "staged"
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the machine remembers of one deployment; `digest` names it."""

    digest: ObjectId
    image: str
    manifest_digest: str = ""
    config_digest: str = ""  # the same wherever the image is kept and however its layers are compressed there
    created: str = ""
    image_version: str = ""
    architecture: str = ""
    kernel: str = ""
    title: str = ""
    boot_digest: str = ""
    arguments: tuple[str, ...] = ()
    parent: ObjectId | None = None
    staged: str = ""  # RFC 3339
    state: State = State.GOOD
    pinned: bool = False
    rolled_back: bool = False
    verification: Verification | None = None  # None where it was made before there was any, or is not understood
    unknown: Mapping[str, Any] = field(default_factory=dict)  # members of a newer keelboot

    def encode(self) -> bytes:
        """The record, in its one form."""
        value = dict(self.unknown) | {
            "version": VERSION,
            "image": self.image,
            "manifest-digest": self.manifest_digest,
            "config-digest": self.config_digest,
            "composefs": self.digest.hex,
            "created": self.created,
            "image-version": self.image_version,
            "architecture": self.architecture,
            "kernel": self.kernel,
            "title": self.title,
            "boot-digest": self.boot_digest,
            "arguments": list(self.arguments),
            "parent": self.parent.hex if self.parent else None,
            "staged": self.staged,
            "state": str(self.state),
            "pinned": self.pinned,
            "rolled-back": self.rolled_back,
        }
        if self.verification:
            value["verification"] = self.verification.encoded()
        return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The value that DATA is. Raises Refused."""
        value = parse(data)
        members = Members(value, "", _MEMBERS)
        if members.integer("version") != VERSION:
            raise Refused(f"it is a deployment's record of version {members.integer('version')}")
        assert isinstance(value, dict)
        parent = members.text("parent")
        unknown = {name: item for name, item in value.items() if name not in _MEMBERS}
        verification = None
        if "verification" in members:
            try:
                verification = Verification.parse(members.value("verification"), "verification")
            except Refused:  # a newer keelboot's: it decides nothing about whether the deployment can boot
                unknown["verification"] = members.value("verification")
        try:
            return cls(
                digest=ObjectId(members.required_text("composefs")),
                image=members.required_text("image"),
                manifest_digest=members.text("manifest-digest") or "",
                config_digest=members.text("config-digest") or "",
                created=members.text("created") or "",
                image_version=members.text("image-version") or "",
                architecture=members.text("architecture") or "",
                kernel=members.text("kernel") or "",
                title=members.text("title") or "",
                boot_digest=members.text("boot-digest") or "",
                arguments=members.texts("arguments"),
                parent=ObjectId(parent) if parent else None,
                staged=members.text("staged") or "",
                state=State(members.text("state") or "good"),
                pinned=members.flag("pinned"),
                rolled_back=members.flag("rolled-back"),
                verification=verification,
                unknown=unknown,
            )
        except ValueError as error:
            raise Refused(str(error)) from error
