"""Private keys and their files: cosign's own, so that cosign and keelboot can use the same, and plain PKCS #8.

    -----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----
    base64 of {"kdf":{"name":"scrypt","params":{"N","r","p"},"salt"},
               "cipher":{"name":"nacl/secretbox","nonce"},"ciphertext"}

The ciphertext is PKCS #8 in DER. The cipher, XSalsa20 and Poly1305, is in PyNaCl only, which is optional.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from keelboot.failure import Failure, MissingTool
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse
from keelboot.trust.base64text import decode, encode
from keelboot.trust.exact import Exact
from keelboot.trust.keys import PublicKey, pem_blocks
from keelboot.trust.simplesigning import go_json

_LABEL: Final = "ENCRYPTED SIGSTORE PRIVATE KEY"
_ENCRYPTED: Final = (_LABEL, "ENCRYPTED COSIGN PRIVATE KEY")
_N, _R, _P = 65536, 8, 1  # what cosign writes; 64 MiB of memory
_N_MAX = 1 << 18
_SALT, _NONCE = 32, 24  # bytes

Entropy = Callable[[int], bytes]
_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key to sign with; `der` is PKCS #8, and never shown."""

    der: bytes = field(repr=False)
    public: PublicKey = field(init=False)
    _key: _Key = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            key = load_der_private_key(self.der, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise Refused("its key cannot be read") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
            raise Refused("its key is neither ECDSA, RSA nor Ed25519")
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        object.__setattr__(self, "_key", key)
        object.__setattr__(self, "public", PublicKey(public))

    def sign(self, message: bytes) -> bytes:
        """A signature that `public` verifies."""
        match self._key:
            case ec.EllipticCurvePrivateKey() as key:
                sizes: dict[int, hashes.HashAlgorithm] = {384: hashes.SHA384(), 521: hashes.SHA512()}
                return key.sign(message, ec.ECDSA(sizes.get(key.curve.key_size, hashes.SHA256())))
            case rsa.RSAPrivateKey() as key:
                return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
            case key:
                return key.sign(message)


def generate() -> PrivateKey:
    """A new key, ECDSA on P-256: what every tool verifies in every format."""
    key = ec.generate_private_key(ec.SECP256R1())
    return PrivateKey(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def read_private_key(data: bytes, source: str, password: Callable[[], bytes]) -> PrivateKey:
    """The key that DATA, from the file SOURCE, is; PASSWORD is asked for where it is encrypted. Raises Failure."""
    try:
        return _parse(data, password)
    except Refused as error:
        raise Failure(
            f"cannot sign with {source}",
            why=str(error),
            fix="Name a cosign.key, as `keelboot keygen` and `cosign generate-key-pair` write it, or a key in PKCS #8.",
        ) from error


def write_private_key(key: PrivateKey, password: bytes, entropy: Entropy = os.urandom) -> bytes:
    """The file cosign.key: KEY, encrypted with PASSWORD, which may be empty. Raises MissingTool."""
    salt, nonce = entropy(_SALT), entropy(_NONCE)
    sealed = _seal(_scrypt(password, salt, (_N, _R, _P)), nonce, key.der)
    document = go_json(
        {
            "kdf": {"name": "scrypt", "params": {"N": _N, "r": _R, "p": _P}, "salt": encode(salt)},
            "cipher": {"name": "nacl/secretbox", "nonce": encode(nonce)},
            "ciphertext": encode(sealed),
        }
    )
    lines = "\n".join(wrap(encode(document), 64))
    return f"-----BEGIN {_LABEL}-----\n{lines}\n-----END {_LABEL}-----\n".encode("ascii")


def _parse(data: bytes, password: Callable[[], bytes]) -> PrivateKey:
    blocks = pem_blocks(data)
    if len(blocks) != 1:
        raise Refused(f"it has {len(blocks)} keys")
    label, body = blocks[0]
    if label in _ENCRYPTED:
        return PrivateKey(_decrypted(body, password))
    if label == "PRIVATE KEY":
        return PrivateKey(body)
    if label == "PUBLIC KEY":
        raise Refused("it is a public key; signing needs the private one")
    raise Refused(f"it is a {label.lower()}; `openssl pkcs8 -topk8 -nocrypt` makes PKCS #8 of other keys")


def _decrypted(body: bytes, password: Callable[[], bytes]) -> bytes:
    whole = Exact(parse(body), "", ("kdf", "cipher", "ciphertext"))
    kdf = Exact(whole.value("kdf"), "kdf", ("name", "params", "salt"))
    cipher = Exact(whole.value("cipher"), "cipher", ("name", "nonce"))
    if (kdf.text("name"), cipher.text("name")) != ("scrypt", "nacl/secretbox"):
        raise Refused(f"it is encrypted with {kdf.text('name')!a} and {cipher.text('name')!a}, which are not supported")
    params = Exact(kdf.value("params"), "kdf.params", ("N", "r", "p"))
    numbers = (params.integer("N"), params.integer("r"), params.integer("p"))
    # A file can ask for any amount of memory and time; scrypt wants a power of two.
    if not 1 < numbers[0] <= _N_MAX or numbers[0] & (numbers[0] - 1) or numbers[1:] != (_R, _P):
        raise Refused("the parameters of its encryption are none that cosign writes")
    nonce = decode(cipher.required_text("nonce"), "cipher.nonce")
    salt = decode(kdf.required_text("salt"), "kdf.salt")
    if len(nonce) != _NONCE:
        raise Refused("cipher.nonce has the wrong length")
    ciphertext = decode(whole.required_text("ciphertext"), "ciphertext")
    return _open(_scrypt(password(), salt, numbers), nonce, ciphertext)


def _scrypt(password: bytes, salt: bytes, numbers: tuple[int, int, int]) -> bytes:
    n, r, p = numbers
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)


def _open(secret: bytes, nonce: bytes, sealed: bytes) -> bytes:
    with _library():
        from nacl.exceptions import CryptoError  # noqa: PLC0415 - optional, and only for encrypted keys
        from nacl.secret import SecretBox  # noqa: PLC0415
    try:
        return SecretBox(secret).decrypt(sealed, nonce)
    except (CryptoError, ValueError) as error:
        raise Refused("the password is wrong, or the file is damaged") from error


def _seal(secret: bytes, nonce: bytes, plain: bytes) -> bytes:
    with _library():
        from nacl.secret import SecretBox  # noqa: PLC0415 - optional, and only for encrypted keys
    return SecretBox(secret).encrypt(plain, nonce).ciphertext


@contextmanager
def _library() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingTool(
            "cannot use an encrypted key",
            why="the Python library PyNaCl is not installed",
            fix="Install it: `apt install python3-nacl`, or `pip install keelboot[signing]`.",
        ) from error
