"""Signatures that were kept when an image was accepted (`verified.Counted.evidence`), to be judged once more."""

from collections.abc import Mapping
from typing import Final

from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse
from keelboot.trust.base64text import decode
from keelboot.trust.collecting import Bundled, Collected, Simple
from keelboot.trust.exact import Exact
from keelboot.trust.simplesigning import MEDIA_TYPE

# How containers' `dir:` transport begins a file that has a signature of sigstore's in it.
_SIMPLE: Final = b"\0sigstore-json\n"


def collected(kept: Mapping[str, bytes]) -> Collected:
    """What KEPT, bytes by what they are to be called in messages, are; what is damaged is noted and passed over."""
    simple, bundles, notes = [], [], []
    for where, data in kept.items():
        if not data.startswith(_SIMPLE):
            bundles.append(Bundled(where, data))
            continue
        try:
            simple.append(_simple(data.removeprefix(_SIMPLE), where))
        except Refused as error:
            notes.append(f"{where}: {error}")
    return Collected(tuple(simple), tuple(bundles), tuple(notes))


def _simple(data: bytes, where: str) -> Simple:
    members = Exact(parse(data), "", ("mimeType", "payload", "annotations"))
    if members.text("mimeType") != MEDIA_TYPE:
        raise Refused(f"it is {members.text('mimeType')!a}")
    return Simple(where, decode(members.required_text("payload"), "payload"), members.mapping("annotations"))
