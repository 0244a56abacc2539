"""Whether an image may run: attacks of the table in docs/trust.md, each refused with its reason."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from keelboot.failure import NetworkFailed, SignatureRefused
from keelboot.image.digest import Digest
from keelboot.image.documents import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from keelboot.registry.referrers import parse_artifact
from keelboot.trust.artifact import ENVELOPE, Stored, attestation_tag, described, signature_tag
from keelboot.trust.attesting import attested
from keelboot.trust.base64text import encode
from keelboot.trust.bundle import pae
from keelboot.trust.collecting import Collected, collect
from keelboot.trust.decision import decide, verify
from keelboot.trust.freshness import Standing
from keelboot.trust.identity import Asked, MatchExact, MatchRepository, parse_named
from keelboot.trust.policy import (
    AcceptAnything,
    Claims,
    Reject,
    Ruling,
    Signed,
    TrustedKey,
    Unsupported,
    key_policy,
)
from keelboot.trust.signing import ToStore, attest, sign_bundle, sign_simple
from keelboot.trust.statement import PAYLOAD_TYPE, write_attestation
from signed_images import IMAGE, MANIFEST, NOW, REPOSITORY, WEB, MemoryShelf, ask, rules, write_manifest

DAY = timedelta(days=1)


def simple(key, said=None, *, image=IMAGE, name=REPOSITORY, now=NOW, **more) -> ToStore:
    return sign_simple(image, name, key, said or {}, now=now, **more)


def bundled(key, said=None, *, image=IMAGE, name=REPOSITORY, now=NOW) -> ToStore:
    return sign_bundle(image, name, key, said or {}, now=now)


def stored(one):
    """As a registry gives it back."""
    return parse_artifact(one.manifest.data, one.manifest.descriptor)


def by(*keys, **more) -> Signed:
    bound = more.pop("bound", ("example.org/os/web",))
    return Signed(tuple(TrustedKey(key.public, bound) for key in keys), **{"identity": MatchRepository(), **more})


def refused(shelf, policy, **more) -> SignatureRefused:
    with pytest.raises(SignatureRefused) as refusal:
        verify(ask(**more), policy, shelf)
    assert refusal.value.exit_code == 20
    assert str(IMAGE.digest) in refusal.value.why
    return refusal.value


@pytest.mark.parametrize("make", [simple, bundled])
def test_what_keelboot_signs_it_verifies(make, key):
    shelf = MemoryShelf().push(make(key, {"version": "42", "stream": "stable"}))
    found = verify(ask(created=NOW), key_policy((key.public,), WEB), shelf)
    assert found.fingerprints == (key.public.fingerprint,)
    (one,) = found.signatures
    assert (one.identity, one.time, one.signer) == ("example.org/os/web", NOW, "ECDSA P-256")
    assert one.annotations["stream"] == "stable"
    assert found.standing == Standing(IMAGE.digest, "42", NOW)
    assert found.enforced
    assert found.policy_hash.startswith("sha256:")
    # What is kept is enough to verify it again.
    assert b"mediaType" in one.evidence or json.loads(one.evidence.removeprefix(b"\0sigstore-json\n"))["payload"]


def test_not_signed(key):
    failure = refused(MemoryShelf(), key_policy((key.public,), WEB))
    assert "it is not signed" in failure.why
    assert key.public.fingerprint in failure.fix


def test_policies_without_signatures(key):
    shelf = MemoryShelf()
    found = verify(ask(), rules(AcceptAnything()), shelf)
    assert (found.enforced, found.signatures, shelf.fetched) == (False, (), 0)
    assert "rejects it (rule)" in refused(shelf, rules(Reject())).why
    assert "rejects it" in refused(shelf, rules(AcceptAnything(), Reject())).why
    assert "GPG (rule)" in refused(shelf, rules(Unsupported("GPG"))).why
    assert "not signed" in refused(shelf, rules(AcceptAnything(), by(key))).why
    other = Asked("docker", parse_named("elsewhere.example/web:1"))
    assert "policy: default" in refused(shelf, rules(AcceptAnything()), image=other).why


def test_all_requirements_hold(keys):
    a, b = keys[:2]
    first = simple(a)
    shelf = MemoryShelf().push(first, simple(b, before=stored(first)))
    assert verify(ask(), rules(by(a), by(b)), shelf).fingerprints == (a.public.fingerprint, b.public.fingerprint)
    assert "none of the policy's keys" in refused(MemoryShelf().push(first), rules(by(a), by(b))).why


def test_threshold_counts_keys(keys):
    a, b, c = keys
    two_of_three = rules(by(a, b, c, threshold=2))
    once = simple(a)
    twice = simple(a, {"x": "y"}, before=stored(once))
    shelf = MemoryShelf().push(once, twice, bundled(a), bundled(a, {"x": "z"}))
    failure = refused(shelf, two_of_three)
    assert "1 of the 2 keys that are needed signed it" in failure.why
    found = verify(ask(), two_of_three, shelf.push(bundled(c)))
    assert set(found.fingerprints) == {a.public.fingerprint, c.public.fingerprint}


def test_keys_rotate_with_an_overlap(keys):
    old, new = keys[:2]
    shelf_old, shelf_new = MemoryShelf().push(simple(old)), MemoryShelf().push(simple(new))
    for shelf in (shelf_old, shelf_new):
        assert verify(ask(), rules(by(old, new)), shelf)
    refused(shelf_old, rules(by(new)))
    assert verify(ask(), rules(by(new)), shelf_new)


@pytest.mark.parametrize("make", [simple, bundled])
def test_another_images_signature(make, key):
    other = described(write_manifest("other"), OCI_MANIFEST)
    moved = make(key, image=other)
    if moved.tag:
        moved = replace(moved, tag=moved.tag.replace(other.digest.hex, IMAGE.digest.hex))
        assert "another image" in refused(MemoryShelf().push(moved), rules(by(key))).why
    else:
        assert "its subject is another image" in refused(MemoryShelf().push(moved), rules(by(key))).why
        manifest = json.loads(moved.manifest.data)
        manifest["subject"] = {"mediaType": OCI_MANIFEST, "digest": str(IMAGE.digest), "size": IMAGE.size}
        data = json.dumps(manifest).encode()
        moved = replace(moved, manifest=Stored(described(data, OCI_MANIFEST), data))
        assert "it is about another image" in refused(MemoryShelf().push(moved), rules(by(key))).why


@pytest.mark.parametrize("make", [simple, bundled])
def test_another_repositorys_signature(make, key):
    shelf = MemoryShelf().push(make(key, name=parse_named("example.org/os/other")))
    assert "matchRepository does not accept" in refused(shelf, rules(by(key))).why
    shelf = MemoryShelf().push(make(key, name=parse_named("example.org:5000/os/web")))
    assert "does not accept" in refused(shelf, rules(by(key))).why


@pytest.mark.parametrize("make", [simple, bundled])
def test_another_tags_signature(make, key):
    shelf = MemoryShelf().push(make(key, name=parse_named("example.org/os/web:2")))
    assert "matchExact does not accept" in refused(shelf, rules(by(key, identity=MatchExact()))).why
    shelf = MemoryShelf().push(make(key, name=parse_named("example.org/os/web:1")))
    assert verify(ask(), rules(by(key, identity=MatchExact())), shelf)


def test_a_bundle_that_names_no_repository(key):
    shelf = MemoryShelf().push(bundled(key, name=None))
    found = verify(ask(), rules(by(key)), shelf)
    assert found.signatures[0].identity is None
    assert "not bound to one" in refused(shelf, rules(by(key, bound=None))).why
    assert verify(ask(), rules(by(key, bound=None)), MemoryShelf().push(bundled(key)))


@pytest.mark.parametrize("make", [simple, bundled])
def test_a_bound_key_signs_for_its_repository_only(make, key):
    shelf = MemoryShelf().push(make(key))
    assert "signs for other repositories" in refused(shelf, rules(by(key, bound=("example.org/os/other",)))).why


@pytest.mark.parametrize("make", [simple, bundled])
@pytest.mark.parametrize(
    ("said", "claims", "why"),
    [
        ({"stream": "testing"}, Claims(stream="stable"), "its stream is 'testing'"),
        ({}, Claims(stream="stable"), "does not say its stream"),
        ({"version": "41"}, Claims(minimum_version="42"), "its version is '41'"),
        ({}, Claims(minimum_version="42"), "does not say its version"),
        ({"expires": str(int((NOW - DAY).timestamp()))}, Claims(), "it was good until"),
    ],
)
def test_what_was_signed_besides(make, said, claims, why, key):
    assert why in refused(MemoryShelf().push(make(key, said)), rules(by(key, claims=claims))).why


@pytest.mark.parametrize("make", [simple, bundled])
def test_freshness(make, key):
    policy = rules(by(key, claims=Claims(max_age=30 * DAY)))
    old = make(key, now=NOW - 31 * DAY)
    assert "more than 30 days ago" in refused(MemoryShelf().push(old), policy).why
    assert verify(ask(), policy, MemoryShelf().push(make(key, now=NOW - 29 * DAY)))
    assert "clock" in refused(MemoryShelf().push(make(key, now=NOW + 9 * DAY)), policy).why
    # Signed again, it is fresh again: nobody has to make a new image.
    again = MemoryShelf().push(old, bundled(key))
    assert verify(ask(), policy, again).signatures[0].time == NOW


def test_signed_again_without_a_version_the_version_stays(key):
    running = Standing(Digest("sha256", "0" * 64), "41")
    old = bundled(key, {"version": "42"}, now=NOW - DAY)
    for order in ((old, simple(key)), (simple(key, {"version": "42"}, now=NOW - DAY), bundled(key))):
        found = verify(ask(running=running), rules(by(key)), MemoryShelf().push(*order))
        assert found.standing.version == "42"


def test_rules_that_ask_for_nothing_cannot_be_made(keys):
    a, b = keys[:2]
    for wrong in (
        lambda: by(a, threshold=0),
        lambda: by(a, threshold=2),
        lambda: by(a, a, threshold=2),
        by,
        rules,
        lambda: Ruling("x", ()),
    ):
        with pytest.raises(ValueError):
            wrong()
    assert by(a, b, threshold=2)


def test_rollback_is_refused_and_can_be_allowed(key):
    shelf = MemoryShelf().push(simple(key, {"version": "41"}))
    running = Standing(Digest("sha256", "0" * 64), "42", NOW)
    failure = refused(shelf, rules(by(key)), running=running)
    assert "it is version 41, and 42 runs" in failure.why
    assert "--allow-downgrade" in failure.fix
    assert "41" in verify(ask(running=running, allow_downgrade=True), rules(by(key)), shelf).downgrade
    assert verify(ask(running=replace(running, version="40")), rules(by(key)), shelf).downgrade is None


def test_rollback_by_a_signature_without_version(key):
    shelf = MemoryShelf().push(simple(key))
    assert (
        "no version was signed"
        in refused(shelf, rules(by(key)), running=Standing(Digest("sha256", "0" * 64), "42")).why
    )
    running = Standing(Digest("sha256", "0" * 64), None, NOW)
    assert "it was made" in refused(shelf, rules(by(key)), running=running, created=NOW - DAY).why
    assert verify(ask(running=running, created=NOW + DAY), rules(by(key)), shelf)


def test_rollback_holds_for_unsigned_images_too():
    running = Standing(Digest("sha256", "0" * 64), None, NOW)
    assert "it was made" in refused(MemoryShelf(), rules(AcceptAnything()), running=running, created=NOW - DAY).why


def test_the_least_version_counts(keys):
    a, b = keys[:2]
    shelf = MemoryShelf().push(simple(a, {"version": "42"}), bundled(b, {"version": "9"}))
    assert verify(ask(), rules(by(a, b, threshold=2)), shelf).standing.version == "9"


def test_fast_forward(key):
    shelf = MemoryShelf().push(simple(key, {"version": "999999"}))
    running = Standing(Digest("sha256", "0" * 64), "42")
    assert "more than 10 ahead" in refused(shelf, rules(by(key), max_jump=10), running=running).why
    policy = rules(by(key), max_jump=10)
    assert verify(ask(running=running, allow_leap=True), policy, shelf).downgrade
    assert "clock" in refused(shelf, rules(by(key)), created=NOW + 9 * DAY).why


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"manifest": MANIFEST + b" "}, "bytes, its descriptor says"),
        ({"manifest": MANIFEST.replace(b"a", b"b", 1)}, "its digest is not"),
        ({"manifest": b" " * (5 << 20)}, "more than"),
        ({"descriptor": replace(IMAGE, media_type=OCI_INDEX)}, "its descriptor says"),
        ({"descriptor": replace(IMAGE, media_type="text/plain")}, "neither a manifest nor an index"),
        ({"descriptor": replace(IMAGE, size=1)}, "its descriptor says 1"),
    ],
)
def test_the_manifest_is_what_was_resolved(change, why, key):
    shelf = MemoryShelf().push(simple(key))
    with pytest.raises(SignatureRefused, match=why):
        verify(ask(**change), rules(by(key)), shelf)
    with pytest.raises(SignatureRefused, match=why):
        decide(ask(**change), rules(AcceptAnything()), Collected())
    assert shelf.fetched == 0


@pytest.mark.parametrize(
    "document",
    [
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": [], "manifests": []},
        {"schemaVersion": 1, "mediaType": OCI_MANIFEST, "fsLayers": []},
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "Layers": []},
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "layers": []},
        [],
    ],
)
def test_a_manifest_of_two_kinds(document, key):
    data = json.dumps(document).encode()
    kind = OCI_INDEX if "OCI_INDEX" in str(document) else OCI_MANIFEST
    descriptor = described(data, document["mediaType"] if isinstance(document, dict) else kind)
    shelf = MemoryShelf().push(simple(key, image=descriptor))
    with pytest.raises(SignatureRefused, match="its manifest"):
        verify(ask(descriptor=descriptor, manifest=data), rules(by(key)), shelf)


def test_unknown_and_bad_signatures_do_not_spoil_a_good_one(keys):
    a, b = keys[:2]
    bad = bundled(a)
    damaged = replace(bad, blobs=(replace(bad.blobs[0], data=bad.blobs[0].data + b" "), bad.blobs[1]))
    shelf = MemoryShelf().push(simple(b), damaged, bundled(a, {"x": "y"}))
    assert len(verify(ask(), rules(by(a)), shelf).notes) == 1


def test_the_limit_of_objects(keys):
    a, b = keys[:2]
    shelf = MemoryShelf().push(*(bundled(b, {"n": str(number)}) for number in range(60)), bundled(a))
    assert "no more than 50 objects" in refused(shelf, rules(by(a))).reasons[0]
    assert shelf.fetched == 50
    # Many attachments of other kinds do not hide a signature: what says it is one comes first.
    others = [attest(IMAGE, REPOSITORY, f"https://example.org/{number}", {}, key=b, now=NOW) for number in range(60)]
    assert verify(ask(), rules(by(a)), MemoryShelf().push(*others, bundled(a)))


def test_the_limit_of_signatures(keys):
    a, b = keys[:2]
    payload = simple(b)
    manifest = json.loads(payload.manifest.data)
    manifest["layers"] *= 60
    data = json.dumps(manifest).encode()
    shelf = MemoryShelf().push(replace(payload, manifest=Stored(described(data, OCI_MANIFEST), data)))
    assert "no more than 30 signatures" in refused(shelf, rules(by(a))).why
    assert shelf.fetched == 3  # the tag, what all of its layers name, the list of referrers
    assert verify(ask(), rules(by(a)), shelf.push(bundled(a)))


@pytest.mark.parametrize("make", [simple, bundled])
def test_what_was_signed_many_times_is_as_fresh_as_the_last_time(make, key):
    shelf, before, times = MemoryShelf(), None, [NOW - number * DAY for number in range(60, -1, -1)]
    for now in times:
        one = make(key, now=now) if make is bundled else make(key, now=now, before=before)
        before = stored(one)
        shelf.push(one)
    fresh = by(key, claims=Claims(max_age=DAY / 2))
    assert verify(ask(), rules(fresh), shelf)
    assert "ago" in refused(MemoryShelf().push(make(key, now=times[-2])), rules(fresh)).why


def test_the_limit_of_bytes(key):
    huge = simple(key, {"x": "y" * (1 << 20)})
    assert "more than 1048576" in refused(MemoryShelf().push(huge), rules(by(key))).why
    shelf = MemoryShelf().push(simple(key))
    shelf.tags[signature_tag(IMAGE.digest)] += b" " * (1 << 20)
    assert "more than 1048576" in refused(shelf, rules(by(key))).why


def test_the_deadline(key):
    shelf = MemoryShelf().push(simple(key))
    with pytest.raises(SignatureRefused, match="deadline"):
        verify(ask(), rules(by(key)), shelf, late=lambda: shelf.fetched > 0)
    assert shelf.fetched == 1


def test_what_is_missing_is_passed_over_and_what_is_out_of_reach_is_not(key):
    gone = bundled(key)
    shelf = MemoryShelf().push(gone, simple(key))
    del shelf.objects[gone.blobs[0].descriptor.digest]
    assert "no such object" in verify(ask(), rules(by(key)), shelf).notes[0]

    class Broken(MemoryShelf):
        def fetch(self, descriptor, limit):  # noqa: ARG002
            raise NetworkFailed("x", why="x", fix="x")

    with pytest.raises(NetworkFailed):  # nobody knows whether it is signed
        verify(ask(), rules(by(key)), Broken(tags=shelf.tags))


def test_attestations(keys):
    a, b = keys[:2]
    kind, predicate = "https://slsa.dev/provenance/v1", {"builder": "x"}
    shelf = MemoryShelf().push(
        attest(IMAGE, REPOSITORY, kind, predicate, key=a, now=NOW),
        attest(IMAGE, REPOSITORY, "https://spdx.dev/Document", {}, key=a, now=NOW),
        attest(IMAGE, parse_named("example.org/os/other"), kind, {"builder": "evil"}, key=a, now=NOW),
        attest(IMAGE, REPOSITORY, kind, {"builder": "evil"}, key=b, now=NOW),
        bundled(a),
    )
    collected = collect(shelf, IMAGE)
    (found,) = attested(WEB, IMAGE.digest, kind, collected, requirement=by(a), now=NOW)
    assert (found.predicate, found.fingerprint) == (predicate, a.public.fingerprint)
    assert (
        "attestation"
        in refused(MemoryShelf().push(attest(IMAGE, REPOSITORY, kind, {}, key=a, now=NOW)), rules(by(a))).why
    )
    with pytest.raises(SignatureRefused, match="is not attested") as refusal:
        attested(WEB, IMAGE.digest, "https://example.org/", collected, requirement=by(a), now=NOW)
    assert len(refusal.value.reasons) == 5
    with pytest.raises(SignatureRefused):
        attested(WEB, IMAGE.digest, kind, collected, requirement=by(a, keys[2], threshold=2), now=NOW)


def test_attestations_as_cosign_2_keeps_them(keys):
    a, b = keys[:2]
    kind = "https://slsa.dev/provenance/v1"

    def envelope(key, *, name="example.org/os/web", **changes):
        payload = write_attestation(IMAGE.digest, name, kind, {"by": key.public.kind})
        signature = encode(key.sign(pae(PAYLOAD_TYPE, payload)))
        document = {
            "payloadType": PAYLOAD_TYPE,
            "payload": encode(payload),
            "signatures": [{"keyid": "", "sig": signature}],
        }
        return json.dumps({**document, **changes}).encode()

    layers = [
        envelope(b),
        envelope(a, name="example.org/os/other"),
        envelope(a, more=1),
        envelope(a, payloadType="x"),
        envelope(a),
    ]
    described_layers = [described(data, ENVELOPE, {"predicateType": kind}) for data in layers]
    written = [
        {"mediaType": one.media_type, "digest": str(one.digest), "size": one.size, "annotations": dict(one.annotations)}
        for one in described_layers
    ]
    config = {"mediaType": OCI_CONFIG, "digest": str(IMAGE.digest), "size": 1}
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": written}
    shelf = MemoryShelf({attestation_tag(IMAGE.digest): json.dumps(manifest).encode()})
    shelf.objects.update(zip((one.digest for one in described_layers), layers, strict=True))
    collected = collect(shelf, IMAGE, attestations=True)
    assert len(collected.envelopes) == 5
    (found,) = attested(WEB, IMAGE.digest, kind, collected, requirement=by(a), now=NOW)
    assert (found.fingerprint, found.evidence) == (a.public.fingerprint, layers[-1])
    # They are not looked for as signatures, and would be none.
    assert "not signed" in refused(shelf, rules(by(a))).why
    shelf.tags[signature_tag(IMAGE.digest)] = shelf.tags.pop(attestation_tag(IMAGE.digest))
    assert (
        "no signature of it counts" in refused(shelf, rules(by(a))).why
        or "not signed" in refused(shelf, rules(by(a))).why
    )
