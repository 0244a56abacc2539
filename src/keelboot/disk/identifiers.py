"""Identifiers that derive from what the disk holds: the same image gives the same disk, bit for bit."""

import hashlib
from uuid import UUID

_VERSION_8 = 0x8 << 76  # "custom": RFC 9562, section 5.8
_VARIANT = 0b10 << 62


def uuid(seed: str, role: str) -> UUID:
    """The UUID (version 8) of what plays ROLE on the disk made from SEED, usually the deployment's digest."""
    bits = int.from_bytes(_hash(seed, role)[:16], "big")
    return UUID(int=bits & ~(0xF << 76) & ~(0b11 << 62) | _VERSION_8 | _VARIANT)


def volume_id(seed: str, role: str) -> int:
    """The 32-bit serial number of a FAT filesystem; never zero, which stands for none."""
    return int.from_bytes(_hash(seed, role)[:4], "big") or 1


def _hash(seed: str, role: str) -> bytes:
    # The zero byte keeps ("ab", "c") and ("a", "bc") apart.
    return hashlib.sha256(b"keelboot\0" + seed.encode() + b"\0" + role.encode()).digest()
