"""A transparency log's promise that it entered a signature: the signed entry timestamp of Rekor, version 1.

The log signs the entry's body, the time and its place, as canonical JSON (RFC 8785). The promise is worth something
only when the entry is about the very signature, bytes and key that are judged (CVE-2022-36056): that is checked too.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse
from keelboot.trust.base64text import decode, encode
from keelboot.trust.exact import Exact
from keelboot.trust.keys import PublicKey, pem_blocks
from keelboot.trust.simplesigning import go_json

_TIME_MAX = 253402300799  # the last second of the year 9999
_VERSION: Final = "0.0.1"


@dataclass(frozen=True, slots=True)
class Promise:
    """An entry of a log, and the log's signature over it; not verified."""

    body: bytes
    log_id: str  # hex: the SHA-256 of the log's key
    index: int
    time: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Entered:
    """What must be in the log: bytes that were signed, their signature, and by what (the DER of key or certificate).

    `payload` are the bytes inside a DSSE envelope, None outside of one.
    """

    signed: bytes
    signature: bytes
    by: bytes
    payload: bytes | None = None


def parse_promise(text: str) -> Promise:
    """The promise in the annotation `dev.sigstore.cosign/bundle` TEXT. Raises Refused."""
    try:
        whole = Exact(parse(text.encode("utf-8")), "", ("SignedEntryTimestamp", "Payload"))
    except UnicodeEncodeError as error:
        raise Refused("it is not UTF-8") from error
    payload = Exact(whole.value("Payload"), "Payload", ("body", "integratedTime", "logIndex", "logID"))
    return Promise(
        decode(payload.required_text("body"), "Payload.body"),
        payload.required_text("logID"),
        payload.integer("logIndex"),
        payload.integer("integratedTime"),
        decode(whole.required_text("SignedEntryTimestamp"), "SignedEntryTimestamp"),
    )


def check_promise(promise: Promise, entered: Entered, log_keys: Iterable[PublicKey]) -> datetime:
    """When the log entered ENTERED, by a PROMISE of one of LOG_KEYS. Raises Refused."""
    known = [key for key in log_keys if sha256(key.der).hexdigest() == promise.log_id]
    if not known:
        raise Refused("its log entry is of a log that the policy does not know")
    # Members in the order of their names, as RFC 8785 wants; base64, hex and small integers have one spelling there.
    signed = go_json(
        {
            "body": encode(promise.body),
            "integratedTime": promise.time,
            "logID": promise.log_id,
            "logIndex": promise.index,
        }
    )
    if not known[0].verifies(promise.signature, signed):
        raise Refused("its log entry is not signed by the log")
    _check_body(promise.body, entered)
    return promised_time(promise)


def promised_time(promise: Promise) -> datetime:
    """When the log of PROMISE says that it entered the signature. Raises Refused."""
    if promise.time > _TIME_MAX:
        raise Refused("its log entry is of no time")
    return datetime.fromtimestamp(promise.time, UTC)


def _check_body(body: bytes, entered: Entered) -> None:
    """Whether BODY, which the log signed, is about ENTERED."""
    members = Exact(parse(body), "the log entry", ("apiVersion", "kind", "spec"))
    kind = f"{members.text('kind')} {members.text('apiVersion')}"
    spec = members.value("spec")
    if kind == f"hashedrekord {_VERSION}":
        signature, by, digest = _hashedrekord(spec)
        expected = sha256(entered.signed).hexdigest()
    elif kind == f"dsse {_VERSION}" and entered.payload is not None:
        signature, by, digest = _dsse(spec)
        expected = sha256(entered.payload).hexdigest()
    elif kind == "intoto 0.0.2" and entered.payload is not None:
        signature, by, digest = _intoto(spec)
        expected = sha256(entered.payload).hexdigest()
    else:
        raise Refused(f"its log entry is a {kind[:100]!a}, which is not supported here")
    if digest != expected or signature != entered.signature:
        raise Refused("its log entry is about another signature")
    if [der for _, der in pem_blocks(by)] != [entered.by]:
        raise Refused("its log entry is about another key")


def _hashedrekord(value: object) -> tuple[bytes, bytes, str]:
    """Signature, PEM of key or certificate, and the SHA-256 of what was signed."""
    path = "the log entry's spec"
    spec = Exact(value, path, ("data", "signature"))
    data = Exact(spec.value("data"), spec.where("data"), ("hash",))
    signature = Exact(spec.value("signature"), spec.where("signature"), ("content", "publicKey"))
    key = Exact(signature.value("publicKey"), signature.where("publicKey"), ("content",))
    return (
        decode(signature.required_text("content"), signature.where("content")),
        decode(key.required_text("content"), key.where("content")),
        _sha256(data.value("hash"), data.where("hash")),
    )


def _dsse(value: object) -> tuple[bytes, bytes, str]:
    """The same of an envelope; the hash is that of its payload."""
    path = "the log entry's spec"
    spec = Exact(value, path, ("envelopeHash", "payloadHash", "signatures"))
    signatures = spec.items("signatures")
    if len(signatures) != 1:
        raise Refused(f"its log entry has {len(signatures)} signatures")
    where, item = signatures[0]
    signature = Exact(item, where, ("signature", "verifier"))
    return (
        decode(signature.required_text("signature"), where),
        decode(signature.required_text("verifier"), where),
        _sha256(spec.value("payloadHash"), spec.where("payloadHash")),
    )


def _intoto(value: object) -> tuple[bytes, bytes, str]:
    """The same of an older kind; its signature is in base64 twice."""
    spec = Exact(value, "the log entry's spec", ("content",))
    content = Exact(spec.value("content"), spec.where("content"), ("envelope", "hash", "payloadHash"))
    envelope = Exact(content.value("envelope"), content.where("envelope"), ("payloadType", "signatures"), ("payload",))
    signatures = envelope.items("signatures")
    if len(signatures) != 1:
        raise Refused(f"its log entry has {len(signatures)} signatures")
    where, item = signatures[0]
    signature = Exact(item, where, ("sig", "publicKey"), ("keyid",))
    once = decode(signature.required_text("sig"), where)
    return (
        decode(once.decode("ascii", "replace"), where),
        decode(signature.required_text("publicKey"), where),
        _sha256(content.value("payloadHash"), content.where("payloadHash")),
    )


def _sha256(value: object, path: str) -> str:
    members = Exact(value, path, ("algorithm", "value"))
    if members.text("algorithm") != "sha256":
        raise Refused(f"{members.where('algorithm')} is not sha256")
    return members.required_text("value")
