"""Base64 (RFC 4648, section 4) of which every value has one spelling: standard alphabet, padded, no white space."""

import base64
import binascii

from keelboot.image.refusal import Refused


def decode(text: str, where: str) -> bytes:
    """The bytes that TEXT spells; WHERE names it, for messages. Raises Refused."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:  # characters that are not ASCII are the first
        raise Refused(f"{where} is not base64") from error
    if encode(data) != text:  # bits that the padding should leave zero, padding in excess
        raise Refused(f"{where} is not base64 as it is written")
    return data


def encode(data: bytes) -> str:
    """The one spelling of DATA."""
    return base64.b64encode(data).decode("ascii")
