"""What is attached to an image in a registry is found there, and put there, whatever the registry can do."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from keelboot.failure import Failure, ImageNotFound, NetworkFailed, SignatureRefused
from keelboot.image.reference import Reference
from keelboot.registry.opening import Registries
from keelboot.registry.places import Places
from keelboot.trust.artifact import signature_tag
from keelboot.trust.keyfiles import generate
from keelboot.trust.policy import Signed, key_policy
from keelboot.trust.predicates import CUSTOM, TYPES, predicate_type, read_predicate
from keelboot.trust.publishing import plain_referrer, publish, publish_tagged, subject
from keelboot.trust.shelf import Circumstances, asked_for, attestations, deadline, verified
from keelboot.trust.signing import attest, sign_bundle, sign_simple
from simulated import registry as fault
from simulated.registry import Registry, serving
from small_images import BASE, CHANGE, write_layout

NOW = datetime.now(UTC)
GIVEN = Circumstances(now=NOW + timedelta(minutes=1))


@pytest.fixture(params=[False, True], ids=["fallback", "referrers"])
def registry(request, tmp_path):
    with serving(Registry(lists=request.param)) as started:
        write_layout(tmp_path / "layout", BASE)
        started.add(tmp_path / "layout", "1")
        yield started


@pytest.fixture
def registries(tmp_path):
    made = Registries(Places.usual({"HOME": str(tmp_path / "home")}, uid=1000, root=tmp_path))
    yield made
    made.close()


@pytest.fixture
def web(registry):
    return Reference.parse(f"{registry.address}/os/web:1")


def simple(to, key, **said):
    return publish_tagged(to, lambda before: sign_simple(to.descriptor, to.identity, key, said, now=NOW, before=before))


def bundle(to, key, **said):
    one = sign_bundle(to.descriptor, to.identity, key, said, now=NOW)
    publish(to, one)
    return one


def trusting(registries, web, *keys):
    return key_policy(tuple(key.public for key in keys), asked_for(registries, web))


@pytest.mark.parametrize("sign", [simple, bundle])
def test_what_is_signed_there_is_found_there(registries, web, key, sign):
    to = subject(registries, web)
    sign(to, key, version="42")
    image = verified(registries, web, trusting(registries, web, key), GIVEN)
    assert image.digest == to.descriptor.digest
    assert [one.identity for one in image.signatures] == [str(web).removeprefix("docker://")]
    assert image.signatures[0].annotations["version"] == "42"
    with pytest.raises(SignatureRefused, match="none of the policy's keys"):
        verified(registries, web, trusting(registries, web, generate()), GIVEN)


def test_signatures_add_up(registries, web, keys):
    to = subject(registries, web)
    for key in keys:
        simple(to, key)
        bundle(to, key)
    image = verified(registries, web, trusting(registries, web, *keys), GIVEN)
    assert set(image.fingerprints) == {key.public.fingerprint for key in keys}


def test_the_same_again_changes_nothing(registry, registries, web, key):
    to = subject(registries, web)
    one = sign_bundle(to.descriptor, to.identity, key, {}, now=NOW)
    publish(to, one)
    before = dict(registry.manifests)
    publish(to, one)
    assert registry.manifests == before


def test_a_tag_is_asked_for_once(registry, registries, web, key, tmp_path):
    """A tag that moves after it was resolved moves nothing: the image that was asked for first is decided on."""
    bundle(subject(registries, web), key)
    first = registries.resolve(web).document.descriptor.digest
    write_layout(tmp_path / "other", BASE, CHANGE)
    assert registry.add(tmp_path / "other", "1") != str(first)
    registry.seen.clear()
    assert verified(registries, web, trusting(registries, web, key), GIVEN).digest == first
    assert not [seen for seen in registry.seen if seen.path.endswith("/manifests/1")]


def test_an_unsigned_image(registries, web, key):
    with pytest.raises(SignatureRefused, match="it is not signed"):
        verified(registries, web, trusting(registries, web, key), GIVEN)


def test_a_missing_image(registries, web, key):
    gone = Reference.parse(str(web)[:-1] + "2")
    with pytest.raises(ImageNotFound, match="no such tag"):
        verified(registries, gone, trusting(registries, gone, key), GIVEN)


def test_by_digest_the_name_has_no_tag(registries, web, key):
    digest = subject(registries, web).descriptor.digest
    by_digest = Reference(web.transport, web.location, None, digest)
    simple(subject(registries, by_digest), key)
    (found,) = verified(registries, by_digest, trusting(registries, by_digest, key), GIVEN).signatures
    assert found.identity == web.location


def test_attestations(registries, web, keys):
    to = subject(registries, web)
    kind = TYPES["slsaprovenance1"]
    publish(to, attest(to.descriptor, to.identity, kind, {"a": 1}, key=keys[0], now=NOW))
    (wanted,) = trusting(registries, web, keys[0]).ruling(asked_for(registries, web)).requirements
    assert isinstance(wanted, Signed)
    digest, (found,) = attestations(registries, web, kind, wanted, GIVEN)
    assert (digest, found.predicate, found.fingerprint) == (
        to.descriptor.digest, {"a": 1}, keys[0].public.fingerprint,
    )  # fmt: skip
    with pytest.raises(SignatureRefused, match="not attested"):
        attestations(registries, web, TYPES["cyclonedx"], wanted, GIVEN)
    with pytest.raises(SignatureRefused, match="an attestation"):
        verified(registries, web, trusting(registries, web, keys[0]), GIVEN)


def test_a_plain_referrer(registry, registries, web):
    to = subject(registries, web)
    publish(to, plain_referrer(to.descriptor, b"{}\n", "application/spdx+json", created="2026-01-01T00:00:00Z"))
    (found,), wrong = to.publisher.client.attached(to.descriptor.digest)
    assert (found.artifact_type, found.layers[0].media_type, wrong) == (*["application/spdx+json"] * 2, [])
    assert registry.blobs[str(found.layers[0].digest)] == b"{}\n"


def test_what_is_no_list_of_signatures_is_not_written_over(registry, registries, web, key):
    to = subject(registries, web)
    tag = signature_tag(to.descriptor.digest)
    registry.put(b'{"schemaVersion":2,"manifests":[]}', "application/vnd.oci.image.index.v1+json", tag)
    with pytest.raises(NetworkFailed, match="where signatures are kept"):
        simple(to, key)
    assert registry.manifests[tag][1] == b'{"schemaVersion":2,"manifests":[]}'


def test_someone_elses_signature_at_the_same_moment(registry, registries, web, keys):
    """What took our signature's place is signed again on top of."""
    to = subject(registries, web)
    tag = signature_tag(to.descriptor.digest)
    simple(to, keys[0])
    theirs = registry.manifests[tag]

    def overwritten(_handler, reply):
        registry.manifests[tag] = theirs
        return reply

    registry.faults["publish"] = [overwritten]
    simple(to, keys[1])
    image = verified(registries, web, trusting(registries, web, *keys[:2]), GIVEN)
    assert len(image.signatures) == 2
    registry.faults["publish"] = [overwritten] * 3
    with pytest.raises(Failure, match="others keep changing"):
        simple(to, keys[2])


@pytest.mark.parametrize("kind", ["manifest", "referrers"])
def test_a_registry_that_is_slow_decides_nothing(registry, registries, web, key, kind):
    bundle(subject(registries, web), key)
    trusted = trusting(registries, web, key)
    registries.resolve(web)
    registry.faults[kind] = [fault.slow_headers(0.1, 1000)] * 9
    started = time.monotonic()
    with pytest.raises(NetworkFailed, match=r"took more than 0\.5 s"):
        verified(registries, web, trusted, GIVEN, seconds=0.5)
    assert time.monotonic() - started < 50


def test_a_deadline_that_is_over_at_the_end_counts():
    cut = threading.Event()
    with pytest.raises(NetworkFailed), deadline(cut.set, 0.01):
        assert cut.wait(5)
    with pytest.raises(ZeroDivisionError), deadline(cut.set, 60):
        raise ZeroDivisionError


@pytest.mark.parametrize(("word", "uri"), [*TYPES.items(), ("https://example.org/x/v1", "https://example.org/x/v1")])
def test_types(word, uri):
    assert predicate_type(word) == uri


@pytest.mark.parametrize("word", ["", "slsa", "spdxjson2", "a b:c", "https://sigstore.dev/cosign/sign/v1"])
def test_types_that_are_none(word):
    with pytest.raises(Failure, match="there is no type"):
        predicate_type(word)


def test_predicates():
    assert read_predicate(b'{"a": 1}', "f", TYPES["spdxjson"], NOW) == {"a": 1}
    text = read_predicate("é".encode(), "f", CUSTOM, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert text == {"Data": "é", "Timestamp": "2026-01-02T03:04:05Z"}
    for data, kind in (
        (b"[]", TYPES["vuln"]),
        (b"{", TYPES["vuln"]),
        (b'{"a":1,"a":2}', TYPES["vuln"]),
        (b"\xff", CUSTOM),
    ):
        with pytest.raises(Failure, match="cannot attest f"):
            read_predicate(data, "f", kind, NOW)
    json.dumps(text)
