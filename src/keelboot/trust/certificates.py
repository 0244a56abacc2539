"""Signatures by certificate as containers-policy.json(5) has them: `fulcio` and `pki`.

A chain is followed to a configured root, every certificate of it valid at one time: for Fulcio when the log entered
the signature, for a company's own authority now. The signer's certificate must be for signing code. Of roots that come
with a signature none is used. Certificates' own transparency (SCT) is not checked here, as in podman; `keyless` does.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from keelboot.image.refusal import Refused
from keelboot.trust.keys import PublicKey, pem_blocks

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_DEPTH_MAX = 4
_CERTIFICATES_MAX = 16
_ISSUER_V1: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_UNDERSTOOD: Final = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}


@dataclass(frozen=True, slots=True)
class FulcioRule:
    """Certificates of a Fulcio, for one person by one issuer. `roots` are DER."""

    roots: tuple[bytes, ...]
    issuer: str
    email: str


@dataclass(frozen=True, slots=True)
class PkiRule:
    """Certificates of one's own authority, for a person, a host, or both. `roots` and `between` are DER."""

    roots: tuple[bytes, ...]
    between: tuple[bytes, ...]
    email: str | None
    hostname: str | None


@dataclass(frozen=True, slots=True)
class Leaf:
    """A signer's certificate that leads to a root, and the one that gave it."""

    certificate: x509.Certificate
    issuer: x509.Certificate
    emails: tuple[str, ...]
    hosts: tuple[str, ...]
    uris: tuple[str, ...]

    @property
    def key(self) -> PublicKey:
        """The signer's."""
        return PublicKey(self.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def parse_authorities(data: bytes) -> list[bytes]:
    """The certificates of a PEM file, as DER. Raises Refused."""
    found = []
    for label, der in pem_blocks(data):
        if label != "CERTIFICATE":
            raise Refused(f"it has a {label.lower()} where a certificate belongs")
        parse_certificate(der)
        found.append(der)
    if len(found) > _CERTIFICATES_MAX:
        raise Refused(f"it has {len(found)} certificates, more than {_CERTIFICATES_MAX}")
    return found


def signer(rule: FulcioRule | PkiRule, chain: Sequence[bytes], when: datetime) -> PublicKey:
    """The key that the first certificate of CHAIN gives to whom RULE means, valid WHEN it signed.

    The others of CHAIN may stand between it and a root. Raises Refused.
    """
    if isinstance(rule, PkiRule):
        leaf = follow(chain, rule.roots, rule.between, when, any_purpose=True)
    else:
        leaf = follow(chain, rule.roots, (), when)
    _check_names(rule, leaf)
    with _readable():
        return leaf.key


def follow(
    chain: Sequence[bytes],
    roots: Sequence[bytes],
    between: Sequence[bytes],
    when: datetime,
    *,
    any_purpose: bool = False,
) -> Leaf:
    """The first certificate of CHAIN, if it is for signing code and leads to one of ROOTS, all of it valid WHEN.

    With ANY_PURPOSE it may also leave open what it is for (RFC 5280, 4.2.1.12). Raises Refused.
    """
    if not chain or len(chain) > _CERTIFICATES_MAX:
        raise Refused(f"it comes with {len(chain)} certificates")
    leaf, *others = (parse_certificate(der) for der in chain)
    with _readable():
        _check_leaf(leaf, any_purpose=any_purpose)
        others += [parse_certificate(der) for der in between]
        issuer = _issuer(leaf, others, [parse_certificate(der) for der in roots], when, 0)
        if issuer is None:
            raise Refused(f"its certificate leads to no root of the policy that was valid {when:%Y-%m-%d %H:%M:%S} UTC")
        names = _extension(leaf, x509.SubjectAlternativeName)
        return Leaf(
            leaf,
            issuer,
            tuple(names.get_values_for_type(x509.RFC822Name)) if names else (),
            tuple(names.get_values_for_type(x509.DNSName)) if names else (),
            tuple(names.get_values_for_type(x509.UniformResourceIdentifier)) if names else (),
        )


def vouched_by(leaf: Leaf) -> str:
    """Who vouched for the signer, as Fulcio noted (fulcio, docs/oid-info.md, .1 and .8). Raises Refused."""
    found = set()
    with _readable():
        for extension in leaf.certificate.extensions:
            if not isinstance(extension.value, x509.UnrecognizedExtension):
                continue
            raw = extension.value.value
            if extension.oid == _ISSUER_V1:
                found.add(raw)
            elif extension.oid == _ISSUER_V2:
                if len(raw) < 2 or raw[0] != 0x0C or raw[1] > 0x7F or raw[1] != len(raw) - 2:
                    raise Refused("its certificate's issuer extension cannot be read")
                found.add(raw[2:])
    if len(found) != 1:
        raise Refused("its certificate does not say, or not with one voice, who vouched for the signer")
    return found.pop().decode("utf-8", "replace")


def parse_certificate(der: bytes) -> x509.Certificate:
    """The certificate DER. Raises Refused."""
    with _readable():
        return x509.load_der_x509_certificate(der)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (ValueError, UnsupportedAlgorithm, x509.UnsupportedGeneralNameType) as error:
        raise Refused("a certificate cannot be read") from error


def _check_leaf(leaf: x509.Certificate, *, any_purpose: bool) -> None:
    usage = _extension(leaf, x509.KeyUsage)
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    constraints = _extension(leaf, x509.BasicConstraints)
    if usage is None or not usage.digital_signature:
        raise Refused("its certificate is not for signatures")
    fitting = any_purpose if purposes is None else ExtendedKeyUsageOID.CODE_SIGNING in purposes
    if not fitting:
        raise Refused("its certificate is not for signing code")
    if constraints is not None and constraints.ca:
        raise Refused("its certificate is that of an authority")


def _issuer(
    one: x509.Certificate, between: list[x509.Certificate], roots: list[x509.Certificate], when: datetime, depth: int
) -> x509.Certificate | None:
    """Who gave ONE, which is DEPTH authorities above the signer, on a way to one of ROOTS."""
    if depth > _DEPTH_MAX or not _valid(one, when) or _surprises(one):
        return None
    for root in roots:
        if _issued(one, root, depth) and _valid(root, when):
            return root
    rest = [other for other in between if other != one]
    for other in rest:
        if _issued(one, other, depth) and _issuer(other, rest, roots, when, depth + 1) is not None:
            return other
    return None


def _valid(one: x509.Certificate, when: datetime) -> bool:
    if hasattr(one, "not_valid_before_utc"):
        return one.not_valid_before_utc <= when <= one.not_valid_after_utc
    first, last = one.not_valid_before, one.not_valid_after  # cryptography before 42, as in Debian 12
    return first.replace(tzinfo=UTC) <= when <= last.replace(tzinfo=UTC)


def _surprises(one: x509.Certificate) -> bool:
    """Whether it has a critical extension that is not understood here; name constraints are one."""
    return any(extension.critical and extension.oid not in _UNDERSTOOD for extension in one.extensions)


def _issued(one: x509.Certificate, authority: x509.Certificate, depth: int) -> bool:
    """Whether AUTHORITY may and did sign ONE, which has DEPTH authorities below it."""
    if one.issuer != authority.subject:
        return False
    constraints = _extension(authority, x509.BasicConstraints)
    usage = _extension(authority, x509.KeyUsage)
    purposes = _extension(authority, x509.ExtendedKeyUsage)
    if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
        return False
    if constraints.path_length is not None and constraints.path_length < depth:
        return False
    if purposes is not None and ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        return False
    if _surprises(authority):
        return False
    hashed, key, data = one.signature_hash_algorithm, authority.public_key(), one.tbs_certificate_bytes
    if not isinstance(hashed, SHA256 | SHA384 | SHA512 | None):
        return False
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and hashed is not None:
            key.verify(one.signature, data, ec.ECDSA(hashed))
        elif isinstance(key, rsa.RSAPublicKey) and hashed is not None:
            key.verify(one.signature, data, padding.PKCS1v15(), hashed)
        elif isinstance(key, ed25519.Ed25519PublicKey) and hashed is None:
            key.verify(one.signature, data)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _check_names(rule: FulcioRule | PkiRule, leaf: Leaf) -> None:
    if isinstance(rule, FulcioRule):
        issuer = vouched_by(leaf)
        if issuer != rule.issuer:
            raise Refused(f"its certificate was issued after {issuer[:200]!a} said who signs, not {rule.issuer!a}")
    if rule.email is not None and rule.email not in leaf.emails:
        raise Refused(f"its certificate is for {_list(leaf.emails)}, not for {rule.email!a}")
    hostname = rule.hostname if isinstance(rule, PkiRule) else None
    if hostname is not None and hostname.lower() not in {host.lower() for host in leaf.hosts}:
        raise Refused(f"its certificate is for {_list(leaf.hosts)}, not for {hostname!a}")


def _list(names: Iterable[str]) -> str:
    return ", ".join(ascii(name[:200]) for name in names) or "nobody"


def _extension(one: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return one.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
