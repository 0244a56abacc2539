"""Which deployments stay: a table of machines, and what of them may go."""

import pytest

from keelboot.assembly.record import State
from keelboot.host.retention import Held, keep, rollback_target, staged
from keelboot.image.tree import ObjectId


def one(letter: str, state: State, generation: int | None = None, left: int | None = None, **more: bool) -> Held:
    return Held(digest=name(letter), state=state, generation=generation, left=left, **more)


def name(letter: str) -> ObjectId:
    return ObjectId(letter * 64)


GOOD, STAGED, BAD = State.GOOD, State.STAGED, State.BAD


@pytest.mark.parametrize(
    ("held", "booted", "downloaded", "goes"),
    [
        pytest.param([one("a", GOOD, 1)], "a", "", "", id="one version"),
        pytest.param([one("a", GOOD, 1), one("b", GOOD, 2)], "b", "", "", id="two good ones stay"),
        pytest.param([one("a", GOOD, 1), one("b", GOOD, 2), one("c", GOOD, 3)], "c", "", "a", id="the third goes"),
        pytest.param(
            [one("a", GOOD, 1), one("b", GOOD, 2), one("c", STAGED, 3, 3)], "b", "", "", id="not yet blessed"
        ),
        pytest.param(
            [one("a", GOOD, 1), one("b", GOOD, 2), one("c", STAGED, 3, 2)], "c", "", "", id="a trial is not good"
        ),
        pytest.param(
            [one("a", GOOD, 1, pinned=True), one("b", GOOD, 2), one("c", GOOD, 3)], "c", "", "", id="pinned stays"
        ),
        pytest.param([one("a", GOOD, 1), one("b", BAD, 2, 0)], "a", "", "b", id="bad goes"),
        pytest.param([one("a", GOOD, 1), one("b", STAGED, 2, 0)], "a", "", "", id="evidence stays"),
        pytest.param([one("a", GOOD, 1), one("b", STAGED)], "a", "", "b", id="half staged goes"),
        pytest.param([one("a", GOOD, 1), one("b", STAGED)], "a", "b", "", id="downloaded stays"),
        pytest.param([one("a", GOOD, 1), one("b", STAGED, 2, 3), one("c", STAGED, 3, 3)], "a", "", "b", id="one"),
        pytest.param(
            [one("a", GOOD, 4), one("b", GOOD, 2), one("c", GOOD, 3)], "c", "", "b", id="what a rollback queued stays"
        ),
        pytest.param(
            [one("a", GOOD, 1), one("b", GOOD, 2, recorded=False), one("c", GOOD, 3)],
            "c", "", "", id="an entry without a record does not take the place of a good one",
        ),
        pytest.param([one("a", BAD, 1)], "a", "", "", id="what runs stays, whatever it is"),
        pytest.param([one("a", GOOD), one("b", GOOD, 2), one("c", GOOD, 3)], "c", "", "a", id="no entry"),
    ],
)  # fmt: skip
def test_keep(held: list[Held], booted: str, downloaded: str, goes: str) -> None:
    stay = keep(held, booted=name(booted), downloaded=name(downloaded) if downloaded else None)
    gone = {one.digest for one in held} - {one.digest for one in stay}
    assert gone == {name(letter) for letter in goes}
    assert all(one.why for one in stay)


def test_staged_is_what_boots_next_for_the_first_time() -> None:
    good, new = one("a", GOOD, 1), one("b", STAGED, 2, 3)
    assert staged([good, new], name("a")) == new
    assert staged([good, new], name("b")) is None, "it runs"
    assert staged([one("a", GOOD, 3), new], name("a")) is None, "the good one boots before it"
    assert staged([good, one("b", STAGED, 2, 0)], name("a")) is None, "its tries ran out"
    assert staged([good, one("b", STAGED)], name("a")) is None, "it has no entry"


def test_one_goes_back_to_the_newest_good_one() -> None:
    held = [one("a", GOOD, 1), one("b", GOOD, 2), one("c", BAD, 3), one("d", STAGED, 4, 3), one("e", GOOD, 5)]
    assert rollback_target(held, name("e")) == held[1]
    assert rollback_target(held[:1], name("a")) is None
