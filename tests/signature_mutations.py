"""Changes to documents: of single bytes, and of their structure; and what differs between two documents.

A structural change is made on a tree of `Member` lists, as duplicate names and their order have no place in a dict.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

FLIPS = (1, 2, 4, 8, 16, 32, 64, 128)
OTHER_VALUES = (None, True, 0, -1, 1.5, "", "x", [], {}, ["x"], {"x": 1}, "\0", 2**64)


class Pairs(list[tuple[str, Any]]):
    """A JSON object: names and values in order, names may be there twice."""


def byte_changes(data: bytes, chance: random.Random, count: int | None) -> Iterator[bytes]:
    """DATA with one byte changed, removed or put in: COUNT of all places, or each place with each flip."""
    if count is None:
        places = [(place, flip) for place in range(len(data)) for flip in FLIPS]
    else:
        places = [(chance.randrange(len(data)), chance.choice(FLIPS)) for _ in range(count)]
    for place, flip in places:
        yield data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
    for place in range(len(data)) if count is None else (chance.randrange(len(data)) for _ in range(count // 4)):
        yield data[:place] + data[place + 1 :]
        yield data[:place] + bytes([chance.choice(b' "{}[]:,\\09aA\0\xff')]) + data[place:]
        yield data[:place]
    yield from (data + tail for tail in (b" ", b"\n", b"\0", b"x", b"{}", b"\xff"))
    yield from (head + data for head in (b" ", b"\xef\xbb\xbf", b"\0", b"x", b"[", b"{}"))


def structural_changes(data: bytes) -> Iterator[bytes]:
    """DATA, a JSON document, with its structure changed in one place."""
    for path in list(_paths(_tree(data))):
        yield from _changes(data, path)


def _tree(data: bytes) -> Any:
    return json.loads(data, object_pairs_hook=Pairs)


def _paths(value: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    yield path
    if isinstance(value, Pairs):
        for place, (_, item) in enumerate(value):
            yield from _paths(item, (*path, place))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _paths(item, (*path, place))


def _changes(data: bytes, path: tuple[int, ...]) -> Iterator[bytes]:
    """What can be done to the value at PATH and to the member that has it."""

    def changed(action) -> bytes | None:
        root = Pairs([("", _tree(data))])
        above: Any = root
        for place in (0, *path)[:-1]:
            above = above[place][1] if isinstance(above, Pairs) else above[place]
        action(above, (0, *path)[-1])
        return _text(root[0][1]).encode("utf-8", "surrogatepass") if root else b""

    def put(value):
        def action(above, place):
            above[place] = (above[place][0], value) if isinstance(above, Pairs) else value

        return action

    def remove(above, place):
        if path:
            del above[place]

    def twice(other, *, first):
        def action(above, place):
            if path and isinstance(above, Pairs):
                above.insert(place + (0 if first else 1), (above[place][0], other))
            elif path:
                above.insert(place + (0 if first else 1), other)

        return action

    def rename(name, *, keep=False):
        def action(above, place):
            if path and isinstance(above, Pairs):
                old, value = above[place]
                above[place] = (name(old), value)
                if keep:
                    above.append((old, value))

        return action

    def swap(above, place):
        if path and len(above) > 1:
            other = (place + 1) % len(above)
            if isinstance(above, Pairs):
                (one, left), (two, right) = above[place], above[other]
                above[place], above[other] = (one, right), (two, left)
            else:
                above[place], above[other] = above[other], above[place]

    def more(above, place):
        value = above[place][1] if isinstance(above, Pairs) else above[place]
        if isinstance(value, Pairs):
            value.append(("more", 1))
        elif isinstance(value, list):
            value.append(value[0] if value else 1)

    def text(edit):
        def action(above, place):
            value = above[place][1] if isinstance(above, Pairs) else above[place]
            if isinstance(value, str):
                put(edit(value))(above, place)

        return action

    def wrap(above, place):
        value = above[place][1] if isinstance(above, Pairs) else above[place]
        put([value])(above, place)

    actions = [remove, swap, more, wrap, *(put(value) for value in OTHER_VALUES)]
    actions += [twice(other, first=first) for other in (None, "x", {}) for first in (True, False)]
    actions += [
        rename(name, keep=keep)
        for name in (str.upper, str.title, str.swapcase, lambda old: old + " ", lambda old: "\ufeff" + old)
        for keep in (True, False)
    ]
    edits = (str.upper, str.swapcase, lambda old: old[:-1], lambda old: old + "\n", lambda old: " " + old)
    edits += (
        lambda old: old + old,
        lambda old: old[::-1],
        lambda old: old + "=",
        lambda old: old.replace("sha256", "sha512"),
    )
    actions += [text(edit) for edit in edits]
    for action in actions:
        found = changed(action)
        if found:
            yield found


def _text(value: Any) -> str:
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(name)}:{_text(item)}" for name, item in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def differing(one: Any, other: Any, path: str = "") -> set[str]:
    """The paths at which two parsed documents differ; places in lists are []."""
    if isinstance(one, dict) and isinstance(other, dict):
        found: set[str] = set()
        for name in one.keys() | other.keys():
            where = f"{path}.{name}" if path else name
            if name in one and name in other:
                found |= differing(one[name], other[name], where)
            else:
                found.add(where)
        return found
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return set().union(*(differing(left, right, f"{path}[]") for left, right in zip(one, other, strict=True)))
    return set() if one == other and type(one) is type(other) else {path}
