"""The digest of a blob's bytes: how OCI names content (OCI image specification, descriptor.md, "Digests")."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Self

_HEX_DIGITS = {"sha256": 64, "sha512": 128}


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The digest of a blob's bytes, as OCI writes it: sha256:9f86d0..."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:  # the constructor is no way round the check
        if len(self.hex) != _HEX_DIGITS.get(self.algorithm) or set(self.hex) - set("0123456789abcdef"):
            raise ValueError(f"not a digest: {self.algorithm}:{self.hex}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `algorithm:hex`. Raises ValueError."""
        algorithm, _, digits = text.partition(":")
        return cls(algorithm, digits)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The SHA-256 digest of DATA."""
        return cls("sha256", sha256(data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
