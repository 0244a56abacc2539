"""A sample of the campaign that `make crash` runs in full: kills, refusals, power cuts at points chosen by number."""

from pathlib import Path

import pytest

from crash import campaign

pytestmark = pytest.mark.machine


STORE, MACHINE = (names for _, names in campaign.SCRIPTS.values())


@pytest.mark.parametrize(
    ("names", "sample"), [(STORE, 10), pytest.param(MACHINE, 4, marks=pytest.mark.long)], ids=["store", "machine"]
)
@pytest.mark.parametrize("kind", ["kill", "fail", "cut-ext4"])
def test_sample(kind: str, names: tuple[str, ...], sample: int, tmp_path: Path) -> None:
    if why := campaign.missing([kind]):
        pytest.skip(why)
    outcomes = list(campaign.campaign(tmp_path, [kind], names, sample=sample))
    assert [outcome.name for outcome in outcomes] == list(names)
    for outcome in outcomes:
        assert outcome.failed == 0, outcome.output
        assert outcome.unmounted <= 1, outcome.output
        assert outcome.points + outcome.unmounted == sample, outcome.output
