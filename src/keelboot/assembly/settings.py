"""What the machine itself wants of every version that it boots: docs/formats/deployment.md, "host.json"."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from keelboot.image.refusal import Refused
from keelboot.image.strictjson import Members, parse

VERSION: Final = 1
_MEMBERS = ("version", "kargs", "kargs-deleted", "enforce-container-sigpolicy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Kernel arguments that the machine adds to those of every image, and those of images that it does without.

    `strict` wants a policy that does not accept everything by default, for every image.
    """

    kargs: tuple[str, ...] = ()
    kargs_deleted: tuple[str, ...] = ()
    strict: bool = False
    unknown: Mapping[str, Any] = field(default_factory=dict)  # members of a newer keelboot

    def encode(self) -> bytes:
        """The settings, in their one form."""
        value = dict(self.unknown) | {
            "version": VERSION,
            "kargs": list(self.kargs),
            "kargs-deleted": list(self.kargs_deleted),
        }
        if self.strict:
            value["enforce-container-sigpolicy"] = True
        return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The value that DATA is. Raises Refused."""
        value = parse(data)
        members = Members(value, "", _MEMBERS)
        if members.integer("version") != VERSION:
            raise Refused(f"these are a machine's settings of version {members.integer('version')}")
        assert isinstance(value, dict)
        return cls(
            kargs=members.texts("kargs"),
            kargs_deleted=members.texts("kargs-deleted"),
            strict=members.flag("enforce-container-sigpolicy"),
            unknown={name: item for name, item in value.items() if name not in _MEMBERS},
        )
