"""Versions that failed their trial, as failures.json remembers them. Format: docs/formats/deployment.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from keelboot.image.refusal import Refused
from keelboot.image.strictjson import Members, parse
from keelboot.image.tree import ObjectId

VERSION: Final = 1
KEPT: Final = 20
_MEMBERS = (
    "composefs", "manifest-digest", "image", "first", "last", "tries", "stage", "reason", "detail", "entry",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedVersion:
    """A version whose tries ran out. `first` and `last` are RFC 3339; `entry` names the boot entry that was tried."""

    digest: ObjectId
    manifest_digest: str = ""
    image: str = ""
    first: str = ""
    last: str = ""
    tries: int = 0
    stage: str = ""
    reason: str = ""
    detail: str = ""
    entry: str = ""
    unknown: Mapping[str, Any] = field(default_factory=dict)  # members of a newer keelboot

    def value(self) -> dict[str, Any]:
        """The JSON object."""
        return dict(self.unknown) | {
            "composefs": self.digest.hex,
            "manifest-digest": self.manifest_digest,
            "image": self.image,
            "first": self.first,
            "last": self.last,
            "tries": self.tries,
            "stage": self.stage,
            "reason": self.reason,
            "detail": self.detail,
            "entry": self.entry,
        }

    @classmethod
    def of(cls, path: str, item: object) -> Self:
        """The value of one element. Raises Refused."""
        members = Members(item, path, _MEMBERS)
        assert isinstance(item, dict)
        try:
            digest = ObjectId(members.required_text("composefs"))
        except ValueError as error:
            raise Refused(f"{path}: {error}") from error
        return cls(
            digest=digest,
            manifest_digest=members.text("manifest-digest") or "",
            image=members.text("image") or "",
            first=members.text("first") or "",
            last=members.text("last") or "",
            tries=members.integer("tries"),
            stage=members.text("stage") or "",
            reason=members.text("reason") or "",
            detail=members.text("detail") or "",
            entry=members.text("entry") or "",
            unknown={name: value for name, value in item.items() if name not in _MEMBERS},
        )


def decode(data: bytes) -> list[FailedVersion]:
    """The failures in failures.json, oldest first. Raises Refused."""
    members = Members(parse(data), "", ("version", "failures"))
    if members.integer("version") != VERSION:
        raise Refused(f"it is a list of failures of version {members.integer('version')}")
    return [FailedVersion.of(path, item) for path, item in members.items("failures")]


def encode(failures: Sequence[FailedVersion]) -> bytes:
    """FAILURES as failures.json, in its one form."""
    value = {"version": VERSION, "failures": [failure.value() for failure in failures]}
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def added(failures: Sequence[FailedVersion], new: FailedVersion) -> list[FailedVersion]:
    """FAILURES and NEW: a version stands there once, with all its tries. What was counted is not counted again.

    A boot entry may come again under the same name: it is the same trial if its last try is.
    """
    others = [failure for failure in failures if failure.digest != new.digest]
    for old in failures:
        if old.digest == new.digest:
            before = 0 if (old.entry, old.last) == (new.entry, new.last) else old.tries
            new = replace(new, first=old.first or new.first, tries=before + new.tries, unknown=old.unknown)
    return [*others, new][-KEPT:]
