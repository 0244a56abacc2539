"""The trusted root of a Sigstore instance: whose certificates, logs and timestamps count, and when they did.

The document is that of sigstore/protobuf-specs, `TrustedRoot`, as trusted_root.json. It is configuration: it comes with
the policy, never with a signature.
"""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from keelboot.image.refusal import Refused
from keelboot.image.strictjson import Members, parse
from keelboot.trust.base64text import decode
from keelboot.trust.certificates import parse_certificate
from keelboot.trust.keys import PublicKey

_MEDIA_TYPE: Final = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
_PARTS: Final = ("tlogs", "certificateAuthorities", "ctlogs", "timestampAuthorities")


@dataclass(frozen=True, slots=True)
class Window:
    """When something counted; without an end it still does."""

    start: datetime
    end: datetime | None

    def covers(self, when: datetime) -> bool:
        """Whether it counted WHEN."""
        return self.start <= when and (self.end is None or when <= self.end)


@dataclass(frozen=True, slots=True)
class Log:
    """A log, by its id; of signatures, or of certificates."""

    id: bytes
    key: PublicKey
    window: Window


@dataclass(frozen=True, slots=True)
class Authority:
    """Who gives certificates; the last of them is the root, the others stand below it. DER."""

    certificates: tuple[bytes, ...]
    window: Window


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """What was read; `document` is where it was read from."""

    document: bytes = field(repr=False)
    authorities: tuple[Authority, ...]
    logs: tuple[Log, ...]
    certificate_logs: tuple[Log, ...]

    def log_keys(self, when: datetime) -> tuple[PublicKey, ...]:
        """The keys of the logs that counted WHEN."""
        return tuple(log.key for log in self.logs if log.window.covers(when))

    def narrowed(self, when: datetime) -> dict[str, Any]:
        """The document without the authorities and logs of signatures that did not count WHEN."""
        document: dict[str, Any] = json.loads(self.document)
        for part in ("certificateAuthorities", "tlogs"):
            kept = []
            for item in document[part]:
                window = (item if part == "certificateAuthorities" else item["publicKey"])["validFor"]
                if _window(window, part).covers(when):
                    kept.append(item)
            document[part] = kept
        return document


def parse_trusted_root(data: bytes) -> TrustedRoot:
    """The trusted root that DATA is. Keys of kinds that `keys` does not take are left out. Raises Refused."""
    members = Members(parse(data), "", ("mediaType", *_PARTS))
    if members.text("mediaType") != _MEDIA_TYPE:
        raise Refused(f"it is {members.text('mediaType')!a}, not a trusted root of version 0.1")
    authorities = tuple(_authority(item, path) for path, item in members.items("certificateAuthorities"))
    logs, certificate_logs = (
        tuple(log for path, item in members.items(part) if (log := _log(item, path)) is not None)
        for part in ("tlogs", "ctlogs")
    )
    if not authorities or not logs or not certificate_logs:
        raise Refused("it has no certificate authority, no log of signatures, or no log of certificates")
    return TrustedRoot(data, authorities, logs, certificate_logs)


def _authority(value: object, path: str) -> Authority:
    members = Members(value, path, ("subject", "uri", "certChain", "validFor"))
    chain = Members(members.value("certChain"), members.where("certChain"), ("certificates",))
    certificates = []
    for where, item in chain.items("certificates"):
        der = decode(Members(item, where, ("rawBytes",)).required_text("rawBytes"), where)
        parse_certificate(der)
        certificates.append(der)
    if not certificates:
        raise Refused(f"{chain.where('certificates')} is empty")
    return Authority(tuple(certificates), _window(members.value("validFor"), members.where("validFor")))


def _log(value: object, path: str) -> Log | None:
    members = Members(value, path, ("baseUrl", "hashAlgorithm", "publicKey", "logId", "checkpointKeyId", "operator"))
    key = Members(members.value("publicKey"), members.where("publicKey"), ("rawBytes", "keyDetails", "validFor"))
    log_id = Members(members.value("logId"), members.where("logId"), ("keyId",))
    window = _window(key.value("validFor"), key.where("validFor"))
    der = decode(key.required_text("rawBytes"), key.where("rawBytes"))
    name = decode(log_id.required_text("keyId"), log_id.where("keyId"))
    try:
        return Log(name, PublicKey(der), window)
    except Refused:
        return None


def _window(value: object, path: str) -> Window:
    members = Members(value, path, ("start", "end"))
    end = _time(members.required_text("end"), members.where("end")) if "end" in members else None
    return Window(_time(members.required_text("start"), members.where("start")), end)


def _time(text: str, path: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused(f"{path} is {text!a}, which is no time") from error
    if found.tzinfo is None:
        raise Refused(f"{path} is {text!a}, which has no time zone")
    return found.astimezone(UTC)
