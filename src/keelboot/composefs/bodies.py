"""The attributes of a table's inodes as they are stored: what follows each inode, and what several have in common.

A file in the store has two attributes that hardly another has: its digest, and where its content is. Inodes that are
alike but for these have one body in common, with gaps; so there is no body in memory for each.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from keelboot.composefs.overlay import METACOPY, REDIRECT, metacopy, path_of, redirect
from keelboot.composefs.table import CHUNKED, Table
from keelboot.composefs.xattrs import BODY, ID, Pair, Shared


@dataclass(slots=True)
class Body:
    """A body of SIZE bytes: `before`, or with two gaps `before`, `between` and `after`.

    The gaps are for a digest and an object's path; with `by_id`, for the ids of the two attributes.
    """

    size: int
    before: bytes
    between: bytes | None = None
    after: bytes = b""
    by_id: bool = False


class Bodies:
    """`column` has the body of each inode, `area` what is shared."""

    def __init__(self, table: Table) -> None:
        self._pairs = table.pairs
        # Where objects lie where their digests say, a digest stands for the path too.
        self._by_digest = table.payloads is None
        paths = table.values if table.payloads is None else table.payloads
        forms = table.forms()
        digests = [digest for digest, form in zip(table.values, forms, strict=True) if form & CHUNKED]
        if self._by_digest:  # beside a tree, and there is no room for a set of all
            digests.sort()
            several = {one for one, following in pairwise(digests) if one == following}
            pointers = {METACOPY: several, REDIRECT: several}
        else:
            pointers = {METACOPY: _repeated(digests), REDIRECT: _repeated(filter(None, paths))}
        del digests
        self._shared = Shared(
            {**_repeated_pairs(table), **pointers},
            {METACOPY: metacopy, REDIRECT: _redirect_of if self._by_digest else redirect},
        )
        self.area = self._shared.area
        self._made: list[tuple[Body, Sequence[Pair]]] = []  # and the attributes that it was made of
        self._alike: dict[tuple[int, int, int, bool, bool], Body] = {}
        plain = [self._kept(pairs) for pairs in table.pairs]
        self.column = [
            self._pointing(number, digest, path) if form & CHUNKED else plain[number]
            for number, digest, path, form in zip(table.sets, table.values, paths, forms, strict=True)
        ]

    def settle(self, first: int) -> None:
        """Have ids count from FIRST, the id of what is first in the shared area; the sizes do not depend on it."""
        self._shared.first = first
        for body, attributes in self._made:
            settled = self._body(attributes)
            body.before, body.between, body.after = settled.before, settled.between, settled.after

    def ids(self, digest: bytes, path: bytes) -> tuple[bytes, bytes]:
        """What fills the gaps of a body that has gaps for ids."""
        offsets = self._shared.offsets
        first = self._shared.first
        return ID.pack(first + offsets[METACOPY][digest]), ID.pack(first + offsets[REDIRECT][path])

    def _pointing(self, number: int, digest: bytes, path: bytes) -> Body:
        """The body of a file in the store, which also has the pairs NUMBER."""
        offsets = self._shared.offsets
        alike = number, len(digest), len(path), digest in offsets[METACOPY], path in offsets[REDIRECT]
        known = self._alike.get(alike)
        if known is None:
            pointers = [(METACOPY, digest), (REDIRECT, path)] if path else [(METACOPY, digest)]
            known = self._kept(sorted([*self._pairs[number], *pointers]))
            if known.between is not None:
                self._alike[alike] = known
        return known

    def _kept(self, attributes: Sequence[Pair]) -> Body:
        body = self._body(attributes)
        self._made.append((body, attributes))
        return body

    def _body(self, attributes: Sequence[Pair]) -> Body:
        body, ends = self._shared.body(attributes) if attributes else (b"", {})
        if REDIRECT in ends:
            keys = dict(attributes)
            digest, path = len(keys[METACOPY]), len(keys[REDIRECT])
            end_of_ids = BODY.size + ID.size * body[4]
            first, second = ends[METACOPY], ends[REDIRECT]
            if max(first, second) <= end_of_ids:
                return Body(
                    len(body), body[: first - ID.size], body[first : second - ID.size], body[second:], by_id=True
                )
            if min(first, second) > end_of_ids:
                path = len(path_of(keys[METACOPY])) if self._by_digest else path
                return Body(len(body), body[: first - digest], body[first : second - path], body[second:])
        return Body(len(body), body)


def _repeated_pairs(table: Table) -> dict[bytes, list[bytes]]:
    """The values of attributes that two or more inodes have, by name; without those that point into the store."""
    counts: Counter[Pair] = Counter()
    for number, inodes in Counter(table.sets).items():
        for pair in table.pairs[number]:
            counts[pair] += inodes
    found: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for (name, value), inodes in counts.items():
        if inodes > 1:
            found[name].append(value)
    return found


def _repeated(values: Iterable[bytes]) -> set[bytes]:
    """Those VALUES that come more than once."""
    seen: set[bytes] = set()
    again: set[bytes] = set()
    for value in values:
        if value in seen:
            again.add(value)
        else:
            seen.add(value)
    return again


def _redirect_of(digest: bytes) -> bytes:
    return redirect(path_of(digest))
