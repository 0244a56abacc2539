"""meta.json: what a store is, so that a tool that does not know its format keeps its hands off it."""

import json
from dataclasses import dataclass
from typing import Final, Self

from keelboot.composefs.verity import Algorithm
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import Members, parse

VERSION: Final = 1
_ALGORITHMS: dict[str, Algorithm] = {"fsverity-sha256-12": "sha256", "fsverity-sha512-12": "sha512"}
_MEMBERS = ("version", "algorithm", "features")
_FEATURES = ("compatible", "read-only-compatible", "incompatible")


class Newer(Refused):
    """A version or a feature that this keelboot does not know: not damage, and not to be mended."""


@dataclass(frozen=True, slots=True)
class Meta:
    """How objects are named, and the names of features, none of which this version knows."""

    algorithm: Algorithm
    compatible: tuple[str, ...] = ()
    read_only_compatible: tuple[str, ...] = ()

    @property
    def writable(self) -> bool:
        """Whether a tool that knows no features may write here."""
        return not self.read_only_compatible

    def encode(self) -> bytes:
        """The file, in its one form."""
        algorithm = next(text for text, known in _ALGORITHMS.items() if known == self.algorithm)
        lists = (self.compatible, self.read_only_compatible, ())
        features = json.dumps(dict(zip(_FEATURES, lists, strict=True)), ensure_ascii=False)
        return (f'{{\n  "version": {VERSION},\n  "algorithm": "{algorithm}",\n  "features": {features}\n}}\n').encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The value that DATA is. Raises Refused, and Newer for what must not be touched."""
        members = Members(parse(data), "", _MEMBERS)
        if members.integer("version") != VERSION:
            raise Newer(f"its version is {members.integer('version')}, and this keelboot knows {VERSION}")
        algorithm = members.required_text("algorithm")
        if algorithm not in _ALGORITHMS:
            raise Newer(f"its objects are named by {algorithm!a}, and this keelboot knows {', '.join(_ALGORITHMS)}")
        features = Members(members.value("features"), "features", _FEATURES)
        if incompatible := features.texts("incompatible"):
            raise Newer(f"it needs features that this keelboot does not know: {', '.join(map(ascii, incompatible))}")
        found = cls(_ALGORITHMS[algorithm], features.texts("compatible"), features.texts("read-only-compatible"))
        if found.encode() != data:
            raise Refused("it is not written as a store's is: it was damaged, or edited")
        return found
