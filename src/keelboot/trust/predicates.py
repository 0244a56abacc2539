"""Types of attestations: the short words that cosign has for them, and how a predicate is read from a file."""

import re
from datetime import datetime
from typing import Final

from keelboot.failure import Failure
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse
from keelboot.trust.statement import SIGNATURE

CUSTOM: Final = "https://cosign.sigstore.dev/attestation/v1"
TYPES: Final = {
    "slsaprovenance": "https://slsa.dev/provenance/v0.2",
    "slsaprovenance02": "https://slsa.dev/provenance/v0.2",
    "slsaprovenance1": "https://slsa.dev/provenance/v1",
    "spdxjson": "https://spdx.dev/Document",
    "cyclonedx": "https://cyclonedx.org/bom",
    "link": "https://in-toto.io/Link/v1",
    "vuln": "https://cosign.sigstore.dev/attestation/vuln/v1",
    "openvex": "https://openvex.dev/ns",
    "custom": CUSTOM,
}
_URI = re.compile(r"[a-z][a-z0-9+.-]{1,20}:[!-~]{1,500}")


def predicate_type(word: str) -> str:
    """The URI that WORD stands for, or is. Raises Failure."""
    if word in TYPES:
        return TYPES[word]
    if not _URI.fullmatch(word) or word == SIGNATURE:
        raise Failure(
            f"there is no type of attestation {word[:100]!a}",
            why="it is neither a word for one nor a URI" if word != SIGNATURE else "that is a signature's",
            fix=f"Write {', '.join(TYPES)}, or the URI of your own type.",
        )
    return word


def read_predicate(data: bytes, source: str, kind: str, now: datetime) -> object:
    """What the file SOURCE with DATA says, as the URI KIND has it. Raises Failure.

    Where the type is `custom`, cosign signs the text of the file and the time; for all others it is JSON.
    """
    try:
        value = parse(data)
        if kind != CUSTOM and not isinstance(value, dict):
            raise Refused("it is not a JSON object")  # noqa: TRY301 - one of several reasons
    except Refused as error:
        if kind != CUSTOM:
            raise Failure(
                f"cannot attest {source}", why=str(error), fix="Name a file that has the predicate alone, in JSON."
            ) from error
    if kind != CUSTOM:
        return value
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Failure(f"cannot attest {source}", why="it is not text (UTF-8)", fix="Name a text file.") from error
    return {"Data": text, "Timestamp": f"{now:%Y-%m-%dT%H:%M:%SZ}"}
