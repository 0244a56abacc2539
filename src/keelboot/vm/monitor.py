"""QEMU's monitor protocol (QMP): commands and events as lines of JSON. Pure; `lifetime` owns the socket."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_LONGEST = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the machine: SHUTDOWN, RESET, STOP, ..."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of the command of this number; ERROR is None for success."""

    number: int
    value: Any = None
    error: str | None = None


class Reader:
    """Bytes in, messages out; a message may come in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Sequence[Event | Answer]:
        """The messages that DATA completes. Raises ValueError for what no QEMU sends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST:
            raise ValueError("a monitor's message of unreasonable length")
        return [message for line in lines if line.strip() and (message := _message(json.loads(line))) is not None]


def command(name: str, number: int, **arguments: object) -> bytes:
    """The line that asks QEMU for NAME; its answer carries NUMBER."""
    asked: dict[str, object] = {"execute": name, "id": number}
    return json.dumps(asked | ({"arguments": arguments} if arguments else {})).encode() + b"\n"


def _message(document: dict[str, Any]) -> Event | Answer | None:
    if "event" in document:
        return Event(document["event"], document.get("data", {}))
    if "return" in document:
        return Answer(document["id"], document["return"])
    if "error" in document:
        return Answer(document.get("id", 0), error=str(document["error"].get("desc", "")))
    return None  # the greeting
