"""Which deployments a machine keeps, and which may go: facts in, a decision with its reasons out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from keelboot.assembly.record import State
from keelboot.image.tree import ObjectId

GOOD_ONES: Final = 2  # that proved themselves, what runs among them


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A deployment as it is kept. `generation` is that of its newest boot entry, None where it has none.

    `recorded` says whether its record can be read; what has none may still boot, but is not gone back to.
    """

    digest: ObjectId
    state: State
    generation: int | None = None
    left: int | None = None  # tries that its entry has; None where they are not counted
    pinned: bool = False
    recorded: bool = True


@dataclass(frozen=True, slots=True)
class Kept:
    """A deployment that stays, and why."""

    digest: ObjectId
    why: str


def staged(held: Sequence[Held], booted: ObjectId | None) -> Held | None:
    """The deployment that waits for its first boot: the newest that is on trial above all that are not."""
    candidates = [
        one
        for one in held
        if one.generation is not None and one.state is State.STAGED and one.left != 0 and one.digest != booted
    ]
    newest = max(candidates, key=_generation, default=None)
    proved = [_generation(one) for one in held if one.state is State.GOOD or one.digest == booted]
    return newest if newest and _generation(newest) > max(proved, default=-1) else None


def rollback_target(held: Sequence[Held], booted: ObjectId | None) -> Held | None:
    """What the loader would boot if what runs were not there: the newest good one."""
    return max(
        (
            one
            for one in held
            if one.digest != booted and one.state is State.GOOD and one.generation is not None and one.recorded
        ),
        key=_generation,
        default=None,
    )


def keep(held: Sequence[Held], *, booted: ObjectId | None, downloaded: ObjectId | None = None) -> list[Kept]:
    """What of HELD stays; the rest may go.

    Good ones are counted without a version that is on trial: so nothing good goes before its successor is blessed. A
    version whose tries ran out stays until its failure was noted, which makes it bad.
    """
    reasons: dict[ObjectId, str] = {}

    def because(one: Held | None, why: str) -> None:
        if one:
            reasons.setdefault(one.digest, why)

    for one in held:
        if one.digest == booted:
            because(one, "it runs")
        if one.pinned:
            because(one, "it is pinned")
        if one.digest == downloaded:
            because(one, "it waits for `keelboot upgrade --from-downloaded`")
        if one.state is State.STAGED and one.left == 0:
            because(one, "its failure is not noted yet")
    because(staged(held, booted), "it is staged")
    because(rollback_target(held, booted), "it is what `keelboot rollback` boots")
    good = [one for one in held if one.state is State.GOOD and (one.generation is not None or one.digest == booted)]
    for one in sorted(good, key=lambda one: (one.digest == booted, _generation(one)), reverse=True)[:GOOD_ONES]:
        because(one, "it is one of the last that proved themselves")
    return [Kept(one.digest, reasons[one.digest]) for one in held if one.digest in reasons]


def _generation(one: Held) -> int:
    return -1 if one.generation is None else one.generation
