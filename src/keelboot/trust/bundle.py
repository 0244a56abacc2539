"""Sigstore bundles, versions 0.1 to 0.3: a signature, what was signed, and what it can be verified with.

Strict: known members only, one content, one kind of material, one signature. Names are those of protobuf's JSON in
camel case, as everything writes them; protobuf would take snake case too, we do not.
"""

from dataclasses import dataclass
from typing import Final

from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse
from keelboot.trust.base64text import decode, encode
from keelboot.trust.exact import Exact
from keelboot.trust.keys import PublicKey
from keelboot.trust.logproof import Proof
from keelboot.trust.simplesigning import go_json

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_VERSIONS = {
    "application/vnd.dev.sigstore.bundle+json;version=0.1": 1,
    "application/vnd.dev.sigstore.bundle+json;version=0.2": 2,
    "application/vnd.dev.sigstore.bundle+json;version=0.3": 3,
    MEDIA_TYPE: 3,
}
_ENTRIES_MAX = 8
_CERTIFICATES_MAX = 8
_ENTRY_NAMES = ("logId", "kindVersion", "canonicalizedBody")
_ENTRY_MORE = ("logIndex", "integratedTime", "inclusionPromise", "inclusionProof")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A DSSE envelope with its one signature (github.com/secure-systems-lab/dsse, envelope.md)."""

    payload_type: str
    payload: bytes
    signature: bytes

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is over: the pre-authentication encoding."""
        return pae(self.payload_type, self.payload)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What a transparency log says about the signature, not verified yet. `time` is in seconds since 1970."""

    log_id: bytes
    index: int
    time: int | None
    body: bytes
    promise: bytes | None  # the signed entry timestamp
    proof: Proof | None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose form is right; nothing in it is verified.

    `envelope` is None for a signature over a file, which is `file_signature` then. `certificates` are empty where a
    plain key signed, first is the signer's.
    """

    version: int
    envelope: Envelope | None
    certificates: tuple[bytes, ...]
    hint: str | None
    entries: tuple[LogEntry, ...]
    timestamps: tuple[bytes, ...]
    file_signature: bytes | None = None


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding of DSSE (protocol.md)."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def parse_bundle(data: bytes) -> Bundle:
    """The bundle that DATA is. Raises Refused."""
    content = ("dsseEnvelope", "messageSignature")
    whole = Exact(parse(data), "", ("mediaType", "verificationMaterial"), content)
    version = _VERSIONS.get(whole.required_text("mediaType"))
    if version is None:
        raise Refused(f"it is {whole.text('mediaType')!a}, not a bundle of version 0.1 to 0.3")
    kind = whole.only(content)
    envelope = _envelope(whole.value(kind), kind) if kind == "dsseEnvelope" else None
    file_signature = _message_signature(whole.value(kind)) if kind == "messageSignature" else None
    path = "verificationMaterial"
    materials = ("publicKey", "certificate", "x509CertificateChain")
    material = Exact(whole.value(path), path, (), (*materials, "tlogEntries", "timestampVerificationData"))
    which = material.only(materials)
    if (which == "x509CertificateChain" and version == 3) or (which == "certificate" and version != 3):
        raise Refused(f"it has {which}, which its version does not know")
    hint, certificates = _material(which, material.value(which), f"{path}.{which}")
    entries = material.items("tlogEntries")
    if len(entries) > _ENTRIES_MAX:
        raise Refused(f"it has {len(entries)} log entries, more than {_ENTRIES_MAX}")
    return Bundle(
        version,
        envelope,
        certificates,
        hint,
        tuple(_entry(item, where) for where, item in entries),
        _timestamps(material.value("timestampVerificationData"), material.where("timestampVerificationData")),
        file_signature,
    )


def parse_envelope(data: bytes) -> Envelope:
    """The envelope that DATA, which is no bundle, is: what cosign 2 keeps for an attestation. Raises Refused."""
    return _envelope(parse(data), "")


def write_bundle(envelope: Envelope, key: PublicKey) -> bytes:
    """The bundle of ENVELOPE, which KEY signed, as cosign 3 writes it."""
    hint = encode(bytes.fromhex(key.fingerprint.removeprefix("sha256:")))
    return go_json(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": hint}},
            "dsseEnvelope": {
                "payload": encode(envelope.payload),
                "payloadType": envelope.payload_type,
                "signatures": [{"sig": encode(envelope.signature)}],
            },
        }
    )


def _envelope(value: object, path: str) -> Envelope:
    members = Exact(value, path, ("payload", "payloadType", "signatures"))
    signatures = members.items("signatures")
    if len(signatures) != 1:
        raise Refused(f"{path or 'the envelope'} has {len(signatures)} signatures, and not one")
    where, item = signatures[0]
    signature = Exact(item, where, ("sig",), ("keyid",))
    signature.text("keyid")
    return Envelope(
        members.required_text("payloadType"),
        decode(members.required_text("payload"), members.where("payload")),
        decode(signature.required_text("sig"), signature.where("sig")),
    )


def _message_signature(value: object) -> bytes:
    members = Exact(value, "messageSignature", ("signature",), ("messageDigest",))
    signature = decode(members.required_text("signature"), members.where("signature"))
    if members.given("messageDigest"):
        digest = Exact(members.value("messageDigest"), members.where("messageDigest"), ("algorithm", "digest"))
        digest.required_text("algorithm")
        decode(digest.required_text("digest"), digest.where("digest"))
    return signature


def _material(which: str, value: object, path: str) -> tuple[str | None, tuple[bytes, ...]]:
    """The hint and the certificates of the material WHICH."""
    if which == "publicKey":
        return Exact(value, path, (), ("hint",)).text("hint") or "", ()
    if which == "certificate":
        return None, (_raw(value, path),)
    items = Exact(value, path, ("certificates",)).items("certificates")
    if not 1 <= len(items) <= _CERTIFICATES_MAX:
        raise Refused(f"{path} has {len(items)} certificates")
    return None, tuple(_raw(item, where) for where, item in items)


def _raw(value: object, path: str) -> bytes:
    return decode(Exact(value, path, ("rawBytes",)).required_text("rawBytes"), path)


def _timestamps(value: object, path: str) -> tuple[bytes, ...]:
    if value is None:
        return ()
    items = Exact(value, path, (), ("rfc3161Timestamps",)).items("rfc3161Timestamps")
    if len(items) > _ENTRIES_MAX:
        raise Refused(f"{path} has {len(items)} timestamps, more than {_ENTRIES_MAX}")
    name = "signedTimestamp"
    return tuple(decode(Exact(item, where, (name,)).required_text(name), where) for where, item in items)


def _entry(value: object, path: str) -> LogEntry:
    members = Exact(value, path, _ENTRY_NAMES, _ENTRY_MORE)
    log_id = Exact(members.value("logId"), members.where("logId"), ("keyId",))
    kind = Exact(members.value("kindVersion"), members.where("kindVersion"), ("kind", "version"))
    for name in ("kind", "version"):  # the entry's body says the same, and is signed
        kind.required_text(name)
    promise = None
    if "inclusionPromise" in members:
        path, name = members.where("inclusionPromise"), "signedEntryTimestamp"
        promise = decode(Exact(members.value("inclusionPromise"), path, (name,)).required_text(name), path)
    proof = None
    if "inclusionProof" in members:
        proof = _proof(members.value("inclusionProof"), members.where("inclusionProof"))
    time = _whole_number(members, "integratedTime") if members.given("integratedTime") else None
    return LogEntry(
        decode(log_id.required_text("keyId"), log_id.where("keyId")),
        _whole_number(members, "logIndex"),
        time,
        decode(members.required_text("canonicalizedBody"), members.where("canonicalizedBody")),
        promise,
        proof,
    )


def _proof(value: object, path: str) -> Proof:
    members = Exact(value, path, ("rootHash", "treeSize", "checkpoint"), ("logIndex", "hashes"))
    checkpoint = Exact(members.value("checkpoint"), members.where("checkpoint"), ("envelope",))
    hashes = members.texts("hashes")
    return Proof(
        _whole_number(members, "logIndex"),
        _whole_number(members, "treeSize"),
        decode(members.required_text("rootHash"), members.where("rootHash")),
        tuple(decode(text, members.where("hashes")) for text in hashes),
        checkpoint.required_text("envelope"),
    )


def _whole_number(members: Exact, name: str) -> int:
    """Protobuf writes 64-bit integers as strings, and may leave out a zero."""
    if not members.given(name):
        return 0
    text = members.required_text(name)
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or str(int(text)) != text:
        raise Refused(f"{members.where(name)} is not a number")
    return int(text)
