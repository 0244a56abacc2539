"""What is kept of signatures that counted, decided about again."""

import pytest

from keelboot.failure import SignatureRefused
from keelboot.trust.decision import decide, verify
from keelboot.trust.evidence import collected
from keelboot.trust.identity import MatchRepository
from keelboot.trust.policy import Signed, TrustedKey
from keelboot.trust.signing import sign_bundle, sign_simple
from signed_images import IMAGE, NOW, REPOSITORY, MemoryShelf, ask, rules


@pytest.fixture
def policy(keys):
    trusted = tuple(TrustedKey(one.public, (REPOSITORY.repository,)) for one in keys[:2])
    return rules(Signed(trusted, MatchRepository(), 2))


@pytest.fixture
def kept(keys, policy):
    shelf = MemoryShelf().push(
        sign_simple(IMAGE, REPOSITORY, keys[0], {"version": "2"}, now=NOW),
        sign_bundle(IMAGE, REPOSITORY, keys[1], {"version": "3"}, now=NOW),
    )
    found = verify(ask(), policy, shelf)
    return found, {one.fingerprint: one.evidence for one in found.signatures}


def test_both_formats_lead_to_the_same_decision(kept, policy):
    found, evidence = kept
    again = decide(ask(), policy, collected(evidence))
    assert again.fingerprints == found.fingerprints
    assert again.standing == found.standing
    assert [one.evidence for one in again.signatures] == [one.evidence for one in found.signatures]


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data.replace(b"sim", b"sin"), lambda _: b""])
@pytest.mark.parametrize("which", [0, 1], ids=["cosign 2", "cosign 3"])
def test_what_is_damaged_does_not_count(kept, policy, which, change):
    _, evidence = kept
    name = list(evidence)[which]
    damaged = {**evidence, name: change(evidence[name])}
    if damaged[name] == evidence[name]:
        pytest.skip("it has no such word")
    with pytest.raises(SignatureRefused, match="1 of the 2 keys"):
        decide(ask(), policy, collected(damaged))
