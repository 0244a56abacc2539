"""Authorities and certificates for signing code, made for tests."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keelboot.trust.keyfiles import PrivateKey

START = datetime(2026, 11, 1, tzinfo=UTC)
CODE = ExtendedKeyUsageOID.CODE_SIGNING
USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def usage(*allowed: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in allowed for name in USAGES})


class Authority:
    """A root, or an authority below ABOVE."""

    def __init__(self, name: str = "root", above: "Authority | None" = None, *, ca: bool = True, length=None) -> None:
        self.name, self.key = name, ec.generate_private_key(ec.SECP256R1())
        extensions = [(x509.BasicConstraints(ca, length if ca else None), True), (usage("key_cert_sign"), True)]
        self.certificate = (above or self).sign(name, self.key.public_key(), extensions)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def sign(
        self, subject, key, extensions, *, start=START, days=300, minutes=0, digest=None, number=None
    ) -> x509.Certificate:
        end = start + timedelta(days=days, minutes=minutes)
        builder = x509.CertificateBuilder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else []),
            key, number or x509.random_serial_number(), start, end,
        )  # fmt: skip
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, digest or hashes.SHA256())

    def issue(
        self,
        *,
        emails=(),
        hosts=(),
        uris=(),
        purposes=(CODE,),
        uses=("digital_signature",),
        more=(),
        key=None,
        **options,
    ) -> tuple[PrivateKey, bytes]:
        """A signer's key and certificate; MORE are extensions, the last ones."""
        key = load_der_private_key(key, None) if key else ec.generate_private_key(ec.SECP256R1())
        names = [*(x509.RFC822Name(one) for one in emails), *(x509.DNSName(one) for one in hosts)]
        names += [x509.UniformResourceIdentifier(one) for one in uris]
        extensions = [(usage(*uses), True)]
        if purposes:
            extensions.append((x509.ExtendedKeyUsage(purposes), False))
        if names:
            extensions.append((x509.SubjectAlternativeName(names), True))
        extensions += [(x509.UnrecognizedExtension(oid, raw), critical) for oid, raw, critical in more]
        certificate = self.sign("", key.public_key(), extensions, **options)
        private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return PrivateKey(private), certificate.public_bytes(Encoding.DER)
