"""What is in an answer's body: a document within bounds, or an error's words."""

from typing import Final

from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse
from keelboot.registry.connections import Answer, Broken

_ERROR_MAX: Final = 16 << 10  # bytes of an error's text that are looked at


class Again(Exception):  # noqa: N818 - it is what may be done
    """A try failed, the next one may not; ASKED are the seconds after which the registry wants it."""

    def __init__(self, why: str, *, asked: float | None = None, reached: bool = True) -> None:
        super().__init__(why)
        self.why, self.asked, self.reached = why, asked, reached


def read_body(answer: Answer, limit: int) -> bytes:
    """All of ANSWER's body, and the connection given back. Raises Refused when it has more than LIMIT bytes, Again."""
    pieces, size = [], 0
    try:
        if (encoding := answer.header("Content-Encoding")) not in (None, "", "identity"):
            raise Refused(f"it came encoded as {encoding[:40]!a}, which was not asked for")
        while piece := answer.some(min(64 << 10, limit + 1 - size)):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise Refused(f"it has more than {limit} bytes")
        if not pieces and answer.length is None:
            # Where a connection ends among the headers, http.client takes those that came for all of them.
            raise Again("the answer is empty")
    except Broken as error:
        raise Again(str(error)) from error
    finally:
        answer.close()
    return b"".join(pieces)


def told(answer: Answer) -> str:
    """What an error's body says, in parentheses and safe for a terminal, if it is what OCI's specification asks for."""
    try:
        value = parse(read_body(answer, _ERROR_MAX))
    except (Refused, Again):
        return ""
    errors = value.get("errors") if isinstance(value, dict) else None
    first = errors[0] if isinstance(errors, list) and errors else None
    if not isinstance(first, dict):
        return ""
    words = [str(first[name])[:200] for name in ("code", "message") if isinstance(first.get(name), str)]
    return f" ({ascii(': '.join(words))[1:-1]})" if words else ""
