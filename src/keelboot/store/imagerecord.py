"""The image record: what a reference leads to. It depends on the image alone, whatever it was called and when it came.

Format: docs/formats/store.md, "Image records".
"""

import json
from dataclasses import dataclass
from typing import Final, Self

from keelboot.image.digest import Digest
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import Members, parse
from keelboot.image.tree import External, ObjectId

VERSION: Final = 1
_MEMBERS = (
    "version", "manifest-digest", "config-digest", "media-type", "manifest", "config", "layers", "composefs",
    "unsealed",
)  # fmt: skip
_CONTENT = ("object", "size")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image in the store. `composefs` is what boots; None where the tree cannot be sealed: `unsealed` says why."""

    manifest_digest: Digest
    config_digest: Digest
    media_type: str  # of the manifest
    manifest: External
    config: External
    diff_ids: tuple[Digest, ...]  # lowest first
    composefs: External | None
    unsealed: str = ""

    def encode(self) -> bytes:
        """The record, in its one form."""
        value = {
            "version": VERSION,
            "manifest-digest": str(self.manifest_digest),
            "config-digest": str(self.config_digest),
            "media-type": self.media_type,
            "manifest": _encoded(self.manifest),
            "config": _encoded(self.config),
            "layers": [str(diff_id) for diff_id in self.diff_ids],
        }
        if self.composefs:
            value["composefs"] = _encoded(self.composefs)
        else:
            value["unsealed"] = self.unsealed
        return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The value that DATA is. Raises Refused."""
        members = Members(parse(data), "", _MEMBERS)
        if members.integer("version") != VERSION:
            raise Refused(f"it is an image record of version {members.integer('version')}")
        try:
            return cls(
                manifest_digest=Digest.parse(members.required_text("manifest-digest")),
                config_digest=Digest.parse(members.required_text("config-digest")),
                media_type=members.required_text("media-type"),
                manifest=_content(members, "manifest"),
                config=_content(members, "config"),
                diff_ids=tuple(Digest.parse(text) for text in members.texts("layers")),
                composefs=_content(members, "composefs") if "composefs" in members else None,
                unsealed=members.text("unsealed") or "",
            )
        except ValueError as error:
            raise Refused(str(error)) from error


def _encoded(content: External) -> dict[str, object]:
    return {"object": content.object.hex, "size": content.size}


def _content(members: Members, name: str) -> External:
    inner = Members(members.value(name), name, _CONTENT)
    return External(ObjectId(inner.required_text("object")), inner.integer("size"))
