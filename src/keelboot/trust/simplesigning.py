"""Simple signing: what cosign 2 signs, and containers-signature(5) describes; the signature is over these bytes.

{"critical":{"identity":{"docker-reference":REPOSITORY},
             "image":{"docker-manifest-digest":DIGEST},
             "type":"cosign container image signature"},
 "optional":{NAME:VALUE,...} or null}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keelboot.image.digest import Digest
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse
from keelboot.trust.exact import Exact

MEDIA_TYPE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
_TYPE = "cosign container image signature"


@dataclass(frozen=True, slots=True)
class Claim:
    """What was signed about an image: its digest, whose it is said to be, and what else was said.

    `identity` is the name as it was signed; None where the format has no place for it. `annotations` are those that
    are strings or integers, as text.
    """

    digest: Digest
    identity: str | None
    annotations: Mapping[str, str]


def parse_payload(data: bytes) -> Claim:
    """The claim that DATA, whose signature was verified, makes. Raises Refused."""
    whole = Exact(parse(data), "", ("critical", "optional"))
    critical = Exact(whole.value("critical"), "critical", ("identity", "image", "type"))
    identity = Exact(critical.value("identity"), "critical.identity", ("docker-reference",))
    image = Exact(critical.value("image"), "critical.image", ("docker-manifest-digest",))
    if critical.text("type") != _TYPE:
        raise Refused(f"its type is {critical.text('type')!a}, not that of an image's signature")
    return Claim(
        signed_digest(image.required_text("docker-manifest-digest")),
        identity.required_text("docker-reference"),
        signed_annotations(whole.value("optional"), "optional"),
    )


def write_payload(digest: Digest, repository: str, annotations: Mapping[str, object]) -> bytes:
    """The bytes that cosign signs for the image DIGEST of REPOSITORY."""
    critical = {
        "identity": {"docker-reference": repository},
        "image": {"docker-manifest-digest": str(digest)},
        "type": _TYPE,
    }
    return go_json({"critical": critical, "optional": dict(sorted(annotations.items())) or None})


def signed_digest(text: str) -> Digest:
    """The digest that TEXT, which was signed, is. Raises Refused."""
    try:
        return Digest.parse(text)
    except ValueError as error:
        raise Refused(f"it is about {text[:100]!a}, which is no digest") from error


def signed_annotations(value: object, path: str) -> Mapping[str, str]:
    """Those members of the object VALUE, which may be null, that are texts or integers. Raises Refused."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused(f"{path} is not an object")
    taken = {name: item for name, item in value.items() if isinstance(item, str | int) and not isinstance(item, bool)}
    return {name: str(item) for name, item in taken.items()}


def go_json(value: object) -> bytes:
    """VALUE as Go's encoding/json writes it: no spaces, and what HTML gives a meaning to escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8")
