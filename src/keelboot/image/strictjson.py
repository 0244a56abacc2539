"""JSON (RFC 8259) from a stranger: one value, one meaning, bounded.

Refused are all texts that two parsers read differently: duplicate names, bytes that are not UTF-8, a byte order mark,
NUL and lone surrogates, NaN and infinity, text after the value. Typed access to what was parsed is here too, so that
every document is read with the same care.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Final

from keelboot.image.refusal import Refused

DOCUMENT_MAX: Final = 4 << 20  # bytes; the limit that OCI's distribution specification asks of registries
_DEPTH_MAX = 32
_ITEMS_MAX = 100_000
_INTEGER_MAX = 2**63 - 1


def parse(data: bytes) -> object:
    """The value that DATA is. Raises Refused."""
    if len(data) > DOCUMENT_MAX:
        raise Refused(f"it has {len(data)} bytes, more than {DOCUMENT_MAX}")
    _measure(data)
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise Refused("it is not UTF-8") from error
    except ValueError as error:  # json's own class is one of these
        raise Refused(f"it is not JSON ({error})") from error
    if b"\\" in data:
        _check_text(value)
    return value


def _measure(data: bytes) -> None:
    """Bound depth and number of items before anything is built from DATA."""
    # Linear in any input: what is between the quotes that no backslash escapes.
    bare = b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    depth = deepest = 0
    for bracket in re.findall(rb"[\[\]{}]", bare):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > _DEPTH_MAX:
        raise Refused(f"it is nested {deepest} deep")
    if bare.count(b",") > _ITEMS_MAX:
        raise Refused(f"it has more than {_ITEMS_MAX} items")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise Refused(f"it has the name {twice!a} twice")
    return value


def _constant(name: str) -> object:
    raise Refused(f"it has {name} where a number belongs")


def _check_text(value: object) -> None:
    """Refuse what only an escape can bring into a string: NUL and half a surrogate pair."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if "\0" in item or re.search("[\ud800-\udfff]", item):
                raise Refused("a string has a NUL or half a surrogate pair")
        elif isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


class Members:
    """The members of one JSON object, read by name and type; PATH says where it is, for messages.

    KNOWN are the names its specification gives; a name that equals one of these only after folding case or space is
    refused, because Go's parser takes it for the known one. All methods raise Refused.
    """

    def __init__(self, value: object, path: str, known: Collection[str]) -> None:
        if not isinstance(value, dict):
            raise Refused(f"{path or 'the document'} is not an object")
        self._value: Mapping[str, Any] = value
        self._path = path
        folded = {name.casefold() for name in known}
        for name in self._value:
            if name not in known and name.strip().casefold() in folded:
                raise Refused(f"{self.where(name)} is a misspelt name")

    def __contains__(self, name: str) -> bool:
        return self._value.get(name) is not None

    def where(self, name: str) -> str:
        """The path of member NAME, to be shown."""
        shown = ascii(name)[1:-1]
        return f"{self._path}.{shown}" if self._path else shown

    def value(self, name: str) -> object:
        """Member NAME as it was parsed; None where it is missing or null."""
        return self._value.get(name)

    def text(self, name: str) -> str | None:
        """Member NAME, a string; None where it is missing or null."""
        value = self._value.get(name)
        if value is not None and not isinstance(value, str):
            raise Refused(f"{self.where(name)} is not a string")
        return value

    def required_text(self, name: str) -> str:
        """Member NAME, a string that is not empty."""
        value = self.text(name)
        if not value:
            raise Refused(f"{self.where(name)} is missing")
        return value

    def integer(self, name: str) -> int:
        """Member NAME, an integer from 0 to 2**63 - 1."""
        value = self._value.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _INTEGER_MAX:
            raise Refused(f"{self.where(name)} is not a size")
        return value

    def flag(self, name: str) -> bool:
        """Member NAME, true or false; false where it is missing."""
        value = self._value.get(name)
        if value is not None and not isinstance(value, bool):
            raise Refused(f"{self.where(name)} is not true or false")
        return bool(value)

    def items(self, name: str) -> list[tuple[str, object]]:
        """The elements of the list NAME, each with its path; none where it is missing or null."""
        value = self._value.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise Refused(f"{self.where(name)} is not a list")
        return [(f"{self.where(name)}[{index}]", item) for index, item in enumerate(value)]

    def texts(self, name: str) -> tuple[str, ...]:
        """The list NAME, all strings; empty where it is missing or null."""
        found = []
        for path, item in self.items(name):
            if not isinstance(item, str):
                raise Refused(f"{path} is not a string")
            found.append(item)
        return tuple(found)

    def mapping(self, name: str) -> dict[str, str]:
        """The object NAME from strings to strings; empty where it is missing or null."""
        value = self._value.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise Refused(f"{self.where(name)} does not map strings to strings")
        return dict(value)
