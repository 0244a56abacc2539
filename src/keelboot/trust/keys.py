"""Public keys, and whether a signature is one of theirs.

Taken are ECDSA on P-256, P-384 and P-521, RSA of 2048 bits or more (PKCS #1 v1.5), and Ed25519. The hash belongs to the
kind of the key, never to the document: SHA-256 for P-256 and RSA, SHA-384 and SHA-512 for the larger curves.
"""

import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from keelboot.failure import Failure
from keelboot.image.refusal import Refused
from keelboot.trust.base64text import decode

FILE_MAX: Final = 64 << 10  # bytes of a file of keys
_KEYS_MAX = 32
_RSA_BITS = range(2048, 16385)
# The order of each curve's group, FIPS 186-4 and SEC 2; the names are the library's.
_ORDERS: Final = {
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": int("f" * 48 + "c7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16),
    "secp521r1": int("1ff" + "f" * 62 + "fa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409", 16),
}
_CURVE_HASHES: Final = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----[ \t]*\r?\n(.*?)-----END \1-----[ \t]*(?:\r?\n|\Z)", re.DOTALL)

_Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True, repr=False)
class PublicKey:
    """One key that may sign; `der` is its SubjectPublicKeyInfo, in the one form that DER allows."""

    der: bytes
    _key: _Key = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_key", _load(self.der))

    def __repr__(self) -> str:
        return f"PublicKey({self.kind}, {self.fingerprint})"

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of `der`, as OCI writes digests."""
        return f"sha256:{sha256(self.der).hexdigest()}"

    @property
    def kind(self) -> str:
        """For people: ECDSA P-256, RSA 3072, Ed25519."""
        match self._key:
            case ec.EllipticCurvePublicKey() as key:
                return f"ECDSA P-{key.curve.key_size}"
            case rsa.RSAPublicKey() as key:
                return f"RSA {key.key_size}"
            case _:
                return "Ed25519"

    @property
    def pem(self) -> str:
        """The key as cosign writes it to a file."""
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether SIGNATURE is this key's over MESSAGE. ECDSA signatures are strict DER."""
        try:
            match self._key:
                case ec.EllipticCurvePublicKey() as key:
                    if not _is_ecdsa_signature(signature, _ORDERS[key.curve.name]):
                        return False
                    key.verify(signature, message, ec.ECDSA(_CURVE_HASHES[key.curve.name]))
                case rsa.RSAPublicKey() as key:
                    key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
                case ed25519.Ed25519PublicKey() as key:
                    key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def parse_keys(data: bytes) -> tuple[PublicKey, ...]:
    """The keys of a PEM file, one or several; each counts once. Raises Refused."""
    blocks = [block for label, block in pem_blocks(data) if label == "PUBLIC KEY" or _wrong_label(label)]
    if len(blocks) > _KEYS_MAX:
        raise Refused(f"it has {len(blocks)} keys, more than {_KEYS_MAX}")
    return tuple(dict.fromkeys(PublicKey(block) for block in blocks))


def read_keys(data: bytes, source: str) -> tuple[PublicKey, ...]:
    """As `parse_keys`, for DATA that the user named SOURCE. Raises Failure."""
    try:
        return parse_keys(data)
    except Refused as error:
        raise Failure(
            f"{source} is not a file of public keys",
            why=str(error),
            fix="Name a file that starts with -----BEGIN PUBLIC KEY-----, like the cosign.pub that `keelboot keygen` "
            "and `cosign generate-key-pair` write.",
        ) from error


def pem_blocks(data: bytes) -> list[tuple[str, bytes]]:
    """The label and the bytes of each block of a PEM file (RFC 7468, strict); between blocks is nothing else.

    Raises Refused.
    """
    if len(data) > FILE_MAX:
        raise Refused(f"it has {len(data)} bytes, more than {FILE_MAX}")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise Refused("it is not in PEM format") from error
    if "-----BEGIN " not in text:
        raise Refused("it is empty" if not text.strip() else "it is not in PEM format")
    blocks, position = [], 0
    for found in _BLOCK.finditer(text):
        if text[position : found.start()].strip():
            raise Refused("it has text outside its PEM blocks")
        body = "".join(line.strip() for line in found[2].splitlines())
        blocks.append((found[1], decode(body, "a PEM block")))
        position = found.end()
    if text[position:].strip() or not blocks:
        raise Refused("a PEM block of it is not complete")
    return blocks


def _wrong_label(label: str) -> bool:
    if "PRIVATE KEY" in label:
        raise Refused("it has a private key, which belongs to who signs; to verify needs the public key")
    raise Refused(f"it has a {label.lower()}, not a public key")


def _load(der: bytes) -> _Key:
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refused("a key of it cannot be read") from error
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _ORDERS:
            raise Refused(f"a key of it is on the curve {key.curve.name}; P-256, P-384 and P-521 are taken")
        key = key.public_numbers().public_key()  # old OpenSSL keeps the form of a point: compressed, or not
    elif isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in _RSA_BITS:
            raise Refused(f"a key of it is RSA with {key.key_size} bits; 2048 are the least")
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        raise Refused("a key of it is neither ECDSA, RSA nor Ed25519")
    # Two spellings of one key would count twice toward a threshold.
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != der:
        raise Refused("a key of it is not in DER as it is written")
    return key


def _is_ecdsa_signature(signature: bytes, order: int) -> bool:
    """Whether SIGNATURE is SEQUENCE { INTEGER r, INTEGER s } in DER, with 0 < r, s < ORDER."""
    body = _der_value(signature, 0x30, 0)
    if body is None or body[1] != len(signature):
        return False
    position = body[0]
    for _ in "rs":
        integer = _der_value(signature, 0x02, position)
        if integer is None:
            return False
        start, position = integer
        digits = signature[start:position]
        if not digits or digits[0] & 0x80 or (len(digits) > 1 and digits[0] == 0 and not digits[1] & 0x80):
            return False
        if not 0 < int.from_bytes(digits, "big") < order:
            return False
    return position == len(signature)


def _der_value(data: bytes, tag: int, position: int) -> tuple[int, int] | None:
    """Where the value of the DER element at POSITION starts and ends; None if it is none with this TAG."""
    if position + 2 > len(data) or data[position] != tag:
        return None
    length, start = data[position + 1], position + 2
    if length == 0x81:  # P-521 needs the long form, for one byte of length
        if start >= len(data) or data[start] < 0x80:
            return None
        length, start = data[start], start + 1
    elif length > 0x7F:
        return None
    return (start, start + length) if start + length <= len(data) else None
