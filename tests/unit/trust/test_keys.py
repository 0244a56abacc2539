"""Public keys are read strictly, and verify what their owners signed and nothing else."""

import base64

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from keelboot.failure import Failure
from keelboot.image.refusal import Refused
from keelboot.trust.base64text import decode, encode
from keelboot.trust.keyfiles import PrivateKey
from keelboot.trust.keys import PublicKey, parse_keys, read_keys

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def private(key) -> PrivateKey:
    return PrivateKey(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def public_pem(key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("make", "kind", "digest"),
    [
        (lambda: ec.generate_private_key(ec.SECP256R1()), "ECDSA P-256", hashes.SHA256),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "ECDSA P-384", hashes.SHA384),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "ECDSA P-521", hashes.SHA512),
        (lambda: rsa.generate_private_key(65537, 2048), "RSA 2048", None),
        (ed25519.Ed25519PrivateKey.generate, "Ed25519", None),
    ],
)
def test_kinds_of_keys(make, kind, digest):
    raw = make()
    key = private(raw)
    for message in (b"", b"message"):
        signature = key.sign(message)
        assert key.public.verifies(signature, message)
        assert not key.public.verifies(signature, message + b"x")
        assert not key.public.verifies(signature[:-1], message)
        assert not key.public.verifies(signature + b"\0", message)
        assert not key.public.verifies(b"", message)
    assert key.public.kind == kind
    if digest:  # the hash is the curve's, no other
        for other in (hashes.SHA256, hashes.SHA384, hashes.SHA512):
            assert key.public.verifies(raw.sign(b"message", ec.ECDSA(other())), b"message") == (other is digest)
    assert parse_keys(key.public.pem.encode()) == (key.public,)
    assert parse_keys(public_pem(raw)) == (key.public,)


def test_another_key_does_not_verify(keys):
    signature = keys[0].sign(b"message")
    assert [key.public.verifies(signature, b"message") for key in keys] == [True, False, False]


def integer(data: bytes) -> bytes:
    return b"\x02" + bytes([len(data)]) + data


def sequence(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return b"\x30" + bytes([len(body)]) + body


def padded(r, s):
    """A zero byte too many before r."""
    return sequence(integer(b"\0" + r.to_bytes(33, "big")), integer(s.to_bytes(33, "big")))


def negative(r, s):
    """Integers that DER has as negative."""
    return sequence(integer((r | 1 << 255).to_bytes(32, "big")), integer((s | 1 << 255).to_bytes(32, "big")))


def long_form(data):
    return data[:1] + b"\x81" + data[1:]


def indefinite(data):
    return data[:1] + b"\x80" + data[2:] + b"\0\0"


@pytest.mark.parametrize(
    "change",
    [
        lambda _r, s: encode_dss_signature(0, s),
        lambda r, _s: encode_dss_signature(r, 0),
        lambda _r, _s: encode_dss_signature(0, 0),
        lambda _r, s: encode_dss_signature(ORDER, s),
        lambda r, _s: encode_dss_signature(r, ORDER),
        lambda r, s: encode_dss_signature(r + ORDER, s),
        lambda r, s: encode_dss_signature(r, s + ORDER),
        lambda r, s: encode_dss_signature(s, r),
        lambda r, s: r.to_bytes(32, "big") + s.to_bytes(32, "big"),
        padded,
        lambda r, s: encode_dss_signature(r, s)[:-1],
        lambda r, s: encode_dss_signature(r, s) + b"\0",
        lambda r, s: long_form(encode_dss_signature(r, s)),
        lambda r, s: indefinite(encode_dss_signature(r, s)),
        lambda r, s: b"\x31" + encode_dss_signature(r, s)[1:],
        negative,
    ],
)
def test_ecdsa_signatures_have_one_spelling(key, change):
    assert key.public.verifies(encode_dss_signature(*decode_dss_signature(key.sign(b"message"))), b"message")
    for _ in range(4):
        assert not key.public.verifies(change(*decode_dss_signature(key.sign(b"message"))), b"message")


def test_several_keys_in_one_file(keys):
    data = "\n".join(key.public.pem for key in [*keys, keys[0]]).encode()
    assert parse_keys(data) == tuple(key.public for key in keys)
    assert len({key.public.fingerprint for key in keys}) == 3
    with pytest.raises(Refused, match="more than 32"):
        parse_keys(keys[0].public.pem.encode() * 33)


BODY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEU1tyUAt7VQYMDsnmZyXJGR6QlMmFWYeiXhT6HPvzui8dfXKGRLthxZYst4cZugpvEtCmlt7/"
    "m/PIl7U4G0ET0g=="
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("not a key", "PEM"),
        ("\ufeff", "PEM"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me@example.org", "PEM"),
        ("-----BEGIN PUBLIC KEY-----\n", "complete"),
        (f"-----BEGIN PUBLIC KEY-----\n{BODY}\n", "complete"),
        (f"-----BEGIN PUBLIC KEY-----\n{BODY}\n-----END CERTIFICATE-----\n", "complete"),
        (f"note\n-----BEGIN PUBLIC KEY-----\n{BODY}\n-----END PUBLIC KEY-----\n", "outside"),
        (f"-----BEGIN PUBLIC KEY-----\n{BODY}\n-----END PUBLIC KEY-----\nnote", "complete"),
        (f"-----BEGIN PUBLIC KEY-----\n{BODY[:-4]}\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (f"-----BEGIN PUBLIC KEY-----\n{BODY[:-2]}\n-----END PUBLIC KEY-----\n", "base64"),
        (f"-----BEGIN PUBLIC KEY-----\n{BODY[:-3]}h==\n-----END PUBLIC KEY-----\n", "base64"),
        (f"-----BEGIN PUBLIC KEY-----\n!{BODY}\n-----END PUBLIC KEY-----\n", "base64"),
        ("-----BEGIN PUBLIC KEY-----\n\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (f"-----BEGIN PRIVATE KEY-----\n{BODY}\n-----END PRIVATE KEY-----\n", "private key"),
        (f"-----BEGIN CERTIFICATE-----\n{BODY}\n-----END CERTIFICATE-----\n", "certificate, not a public key"),
        ("x" * 70000, "more than"),
    ],
)
def test_a_file_that_is_no_key(text, why):
    with pytest.raises(Refused, match=why):
        parse_keys(text.encode())
    with pytest.raises(Failure, match=r"cosign\.pub is not a file of public keys") as failure:
        read_keys(text.encode(), "cosign.pub")
    assert failure.value.exit_code == 1


def test_weak_and_strange_keys():
    for make, why in (
        (lambda: rsa.generate_private_key(65537, 1024), "1024 bits"),
        (lambda: ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (lambda: dsa.generate_private_key(1024), "neither"),
    ):
        with pytest.raises(Refused, match=why):
            parse_keys(public_pem(make()))


def test_one_key_has_one_spelling(key):
    """Else one key could count twice toward a threshold."""
    compressed = bytearray(key.public.der)
    point = compressed[-65:]
    compressed[-65:] = bytes([2 + (point[-1] & 1)]) + point[1:33]
    compressed[1] -= 32
    compressed[24] -= 32
    for other in (bytes(compressed), key.public.der + b"\0", long_form(key.public.der)):
        with pytest.raises(Refused):
            PublicKey(other)


@pytest.mark.parametrize(
    "text", ["YQ", "YQ=", "YR==", "YQ==\n", " YQ==", "Y Q==", "YQ==YQ==", "-_8=", "ä", "YQ===", "="]
)
def test_base64_has_one_spelling(text):
    assert decode(encode(b"a"), "it") == b"a"
    assert encode(b"\xfb\xff") == "+/8="
    with pytest.raises(Refused, match="it is not base64"):
        decode(text, "it")


def test_keys_are_not_shown(key):
    assert base64.b64encode(key.der).decode()[:20] not in repr(key)
    assert "der" not in repr(key)
