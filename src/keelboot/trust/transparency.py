"""That a certificate was entered in a public log: the signed certificate timestamp in it (RFC 6962, section 3.2)."""

from collections.abc import Iterable
from datetime import UTC
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keelboot.image.refusal import Refused
from keelboot.trust.trustedroot import Log

_VERSION_1, _CERTIFICATE_TIMESTAMP, _PRECERTIFICATE = b"\0", b"\0", b"\0\1"
_TIMESTAMPS_MAX: Final = 8


def check_timestamps(leaf: x509.Certificate, issuer: x509.Certificate, logs: Iterable[Log]) -> None:
    """That one of LOGS entered LEAF, which ISSUER gave, when it counted. Raises Refused."""
    try:
        listed = list(leaf.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value)
    except x509.ExtensionNotFound as error:
        raise Refused("its certificate was entered in no public log") from error
    if len(listed) > _TIMESTAMPS_MAX:
        raise Refused(f"its certificate has {len(listed)} timestamps by logs")
    key = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    body = leaf.tbs_precertificate_bytes
    known = {log.id: log for log in logs}
    for one in listed:
        log = known.get(one.log_id)
        when = one.timestamp.replace(tzinfo=UTC)  # the library gives it without a zone
        if log is None or not log.window.covers(when):
            continue
        signed = b"".join(
            (
                _VERSION_1,
                _CERTIFICATE_TIMESTAMP,
                _milliseconds(one).to_bytes(8, "big"),
                _PRECERTIFICATE,
                sha256(key).digest(),
                len(body).to_bytes(3, "big"),
                body,
                len(one.extension_bytes).to_bytes(2, "big"),
                one.extension_bytes,
            )
        )
        if log.key.verifies(one.signature, signed):
            return
    raise Refused("its certificate has no timestamp by a log of the trusted root")


def _milliseconds(one: x509.certificate_transparency.SignedCertificateTimestamp) -> int:
    when = one.timestamp.replace(tzinfo=UTC)
    return int(when.timestamp()) * 1000 + when.microsecond // 1000
