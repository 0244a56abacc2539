"""That an entry is in a transparency log: the proof of inclusion (RFC 9162, 2.1.3.2), and what the log signed.

What the log signed is a checkpoint: a note (golang.org/x/mod/sumdb/note) of its name, size and root, with signatures
below an empty line, of which the log's own counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from keelboot.image.refusal import Refused
from keelboot.trust.base64text import decode, encode
from keelboot.trust.keys import PublicKey

_HASHES_MAX: Final = 64
_SIGNATURES_MAX: Final = 16
_HINT = 4  # bytes of the log's id before each signature


@dataclass(frozen=True, slots=True)
class Proof:
    """Where an entry is in a tree of which size, and what lies beside its way to the root; `checkpoint` is the note."""

    index: int
    size: int
    root: bytes
    hashes: tuple[bytes, ...]
    checkpoint: str


def check_proof(proof: Proof, body: bytes, log_id: bytes, key: PublicKey) -> None:
    """That BODY is in the log LOG_ID, by its KEY. Raises Refused."""
    if len(proof.hashes) > _HASHES_MAX:
        raise Refused(f"its proof of inclusion has {len(proof.hashes)} hashes")
    if _root(proof.index, proof.size, sha256(b"\0" + body).digest(), proof.hashes) != proof.root:
        raise Refused("its proof of inclusion does not lead to the log's root")
    _check_checkpoint(proof, log_id, key)


def _root(index: int, size: int, leaf: bytes, hashes: Sequence[bytes]) -> bytes | None:
    """The root of a tree of SIZE that has LEAF at INDEX, given what lies beside the way; None for no such way."""
    if index >= size:
        return None
    node, last, found = index, size - 1, leaf
    for beside in hashes:
        if last == 0:
            return None
        if node & 1 or node == last:
            found = sha256(b"\1" + beside + found).digest()
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            found = sha256(b"\1" + found + beside).digest()
        node, last = node >> 1, last >> 1
    return found if last == 0 else None


def _check_checkpoint(proof: Proof, log_id: bytes, key: PublicKey) -> None:
    text, _, below = proof.checkpoint.partition("\n\n")
    lines = text.split("\n")
    if len(lines) < 3 or not lines[0] or not below.endswith("\n"):
        raise Refused("its log's checkpoint is not complete")
    if lines[1] != str(proof.size) or lines[2] != encode(proof.root):
        raise Refused("its log's checkpoint is of another tree")
    signatures = below.removesuffix("\n").split("\n")
    if len(signatures) > _SIGNATURES_MAX:
        raise Refused(f"its log's checkpoint has {len(signatures)} signatures")
    signed = f"{text}\n".encode()
    for line in signatures:
        dash, *words = line.split(" ")
        if dash != "\u2014" or len(words) != 2 or not words[0]:
            raise Refused("its log's checkpoint has a line that is no signature")
        signature = decode(words[1], "a signature of its log's checkpoint")
        if signature[:_HINT] == log_id[:_HINT] and key.verifies(signature[_HINT:], signed):
            return
    raise Refused("its log's checkpoint is not signed by the log")
