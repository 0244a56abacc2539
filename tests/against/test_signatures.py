"""Every vector of ../shared/vectors/signatures is decided as stated there."""

import json

import pytest

from keelboot.failure import SignatureRefused
from keelboot.image.documents import Descriptor
from keelboot.trust.decision import decide, verify
from keelboot.trust.freshness import Standing
from keelboot.trust.identity import ExactReference, MatchExact, MatchRepository, parse_named
from keelboot.trust.keys import parse_keys
from keelboot.trust.policy import Signed, TrustedKey
from signature_vectors import VECTORS, Case, cases, dir_signature, name, needs_vectors, policy, question

pytestmark = needs_vectors
CASES = {stated["name"]: stated for stated in cases()}
EXPECT = {kind: [name for name, stated in CASES.items() if stated["expect"] == kind] for kind in ("accept", "refuse")}
CONTAINERS = VECTORS / "container-libs"


def load(case: str) -> Case:
    return Case.load(CASES[case])


def test_all_cases_are_here():
    assert (len(EXPECT["accept"]), len(EXPECT["refuse"])) == (14, 44)


@pytest.mark.parametrize("case", EXPECT["accept"])
def test_accepts(case):
    vector = load(case)
    image = verify(vector.question(), vector.policy(), vector.shelf())
    assert image.digest == name(vector.manifest)
    assert len(set(image.fingerprints)) == vector.stated.get("threshold", 1)
    assert all((one.identity is None) == (b"mediaType" in one.evidence[:20]) for one in image.signatures)


@pytest.mark.parametrize("case", EXPECT["refuse"])
def test_refuses(case):
    vector = load(case)
    shelf = vector.shelf()
    with pytest.raises(SignatureRefused) as refusal:
        verify(vector.question(), vector.policy(), shelf)
    assert refusal.value.reasons
    assert shelf.fetched <= 50


# What each is refused for: a case that is refused for another reason would hide a rule that is not kept.
@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("v2-300-layers", "no more than 30 signatures"),
        ("v2-blob-size-lie", "bytes, its descriptor says"),
        ("v2-case-variant", "misspelt name"),
        ("v2-deep-json", "nested"),
        ("v2-digest-of-config", "another image"),
        ("v2-digest-prefix-match", "no digest"),
        ("v2-digest-uppercase", "no digest"),
        ("v2-duplicate-key", "twice"),
        ("v2-extra-critical-key", "is not known here"),
        ("v2-identity-empty", "docker-reference is missing"),
        ("v2-identity-not-string", "not a string"),
        ("v2-json-array", "not an object"),
        ("v2-no-annotation", "no signature"),
        ("v2-nul-bytes", "not JSON"),
        ("v2-order-sig", "none of the policy's keys"),
        ("v2-other-image", "another image"),
        ("v2-other-repository", "does not accept"),
        ("v2-raw-rs", "none of the policy's keys"),
        ("v2-sig-bitflip", "none of the policy's keys"),
        ("v2-sig-not-base64", "not base64"),
        ("v2-trailing-json", "not JSON"),
        ("v2-type-missing", "critical.type is missing"),
        ("v2-wrong-key", "none of the policy's keys"),
        ("v2-zero-sig", "none of the policy's keys"),
        ("v3-attestation", "an attestation"),
        ("v3-both-contents", "exactly one of dsseEnvelope"),
        ("v3-bundle-digest-lie", "bytes, its descriptor says"),
        ("v3-duplicate-bundle-key", "twice"),
        ("v3-index-digest-lie", "its digest is not"),
        ("v3-no-material", "verificationMaterial is missing"),
        ("v3-other-image", "another image"),
        ("v3-payload-bitflip", "none of the policy's keys"),
        ("v3-payload-type-other", "not a statement"),
        ("v3-predicate-wrong", "an attestation"),
        ("v3-referrer-type-wrong", "no signature"),
        ("v3-sig-bitflip", "none of the policy's keys"),
        ("v3-statement-trailing", "not JSON"),
        ("v3-subject-empty", "0 subjects"),
        ("v3-subject-prefixed", "no digest"),
        ("v3-subject-two", "2 subjects"),
        ("v3-subject-uppercase", "no digest"),
        ("v3-unknown-field", "is not known here"),
        ("v3-version-missing", "mediaType is missing"),
        ("v3-wrong-key", "none of the policy's keys"),
    ],
)
def test_refuses_for_the_reason_it_was_made_for(case, reason):
    vector = load(case)
    with pytest.raises(SignatureRefused) as refusal:
        verify(vector.question(), vector.policy(), vector.shelf())
    assert any(reason in text for text in refusal.value.reasons), refusal.value.reasons


def test_one_key_is_enough_only_where_one_is_wanted():
    for case in ("v2-plain", "v3-plain"):
        vector = load(case)
        keys = [*vector.policy().rules["docker", ""].requirements[0].keys]
        other = TrustedKey(parse_keys((VECTORS / "cosign/keys/b.pub").read_bytes())[0])
        with pytest.raises(SignatureRefused, match="1 of the 2 keys"):
            verify(vector.question(), policy(Signed((*keys, other), MatchRepository(), 2)), vector.shelf())


def test_container_identity_does_not_fit_the_repository():
    vector = load("v2-container-identity")
    with pytest.raises(SignatureRefused, match="does not accept"):
        verify(vector.question(), vector.policy(identity=MatchRepository()), vector.shelf())


def test_an_index_is_not_signed_by_a_signature_of_its_child():
    vector = load("v2-index-child-only")
    child = vector.files["child-manifest.json"]
    for served in (vector.shelf(), vector.shelf(name(child))):
        with pytest.raises(SignatureRefused):
            verify(vector.question(), vector.policy(), served)
    asked = question(vector.stated["reference"], child)
    assert verify(asked, vector.policy(), vector.shelf(name(child))).digest == name(child)


def test_an_older_version_is_refused_where_a_newer_runs():
    vector = load("v2-rollback")
    running = Standing(name(b"another"), "42")
    with pytest.raises(SignatureRefused, match="version 41, and 42 runs"):
        verify(vector.question(running=running), vector.policy(), vector.shelf())
    allowed = verify(vector.question(running=running, allow_downgrade=True), vector.policy(), vector.shelf())
    assert allowed.downgrade
    assert verify(vector.question(running=Standing(name(b"another"), "40")), vector.policy(), vector.shelf())


def test_a_bundle_from_another_repository_needs_a_bound_key():
    vector = load("v3-other-repository")
    (requirement,) = vector.policy().rules["docker", ""].requirements
    key = requirement.keys[0].key
    for repositories in (None, ("localhost:5077/os/other",)):
        with pytest.raises(SignatureRefused, match=r"bound to one|for other repositories"):
            verify(
                vector.question(),
                policy(Signed((TrustedKey(key, repositories),), MatchRepository())),
                vector.shelf(),
            )


def key(file: str) -> TrustedKey:
    return TrustedKey(parse_keys((CONTAINERS / file).read_bytes())[0])


def judge(case: str, image: str, requirement: Signed):
    manifest = (CONTAINERS / case / "manifest.json").read_bytes()
    return decide(question(image, manifest), policy(requirement), dir_signature(CONTAINERS / case / "signature-1"))


SAMPLE, TAGGED = "192.168.64.2:5000/cosign-signed-single-sample", "192.168.64.2:5000/skopeo-signed"
LOGGED = "192.168.64.2:5000/cosign-signed/key-1"


@pytest.mark.parametrize(
    ("case", "image", "requirement"),
    [
        ("valid", SAMPLE, Signed((key("cosign.pub"),), MatchRepository())),
        ("valid-with-tag", f"{TAGGED}:tag", Signed((key("cosign.pub"),), MatchExact())),
        ("key-rekor-valid", LOGGED, Signed((key("cosign2.pub"),), MatchRepository(), log_keys=(key("rekor.pub").key,))),
    ]
    if CONTAINERS.exists()
    else [],
)
def test_containers_accepts(case, image, requirement):
    verified = judge(f"dir-img-cosign-{case}", image, requirement)
    assert verified.signatures[0].identity == image
    assert (verified.signatures[0].time is None) == (case == "valid")


@pytest.mark.parametrize(
    ("case", "image", "requirement", "reason"),
    [
        ("valid", SAMPLE, Signed((key("cosign2.pub"),), MatchRepository()), "none of the policy's keys"),
        ("valid", SAMPLE, Signed((key("cosign.pub"),), MatchExact()), "does not accept"),
        ("valid", f"{SAMPLE}2", Signed((key("cosign.pub"),), MatchRepository()), "does not accept"),
        ("valid", SAMPLE.replace(":5000", ""), Signed((key("cosign.pub"),), MatchRepository()), "does not accept"),
        (
            "valid",
            SAMPLE,
            Signed((key("cosign.pub"),), MatchRepository(), log_keys=(key("rekor.pub").key,)),
            "no entry of a log",
        ),
        ("valid-with-tag", f"{TAGGED}:othertag", Signed((key("cosign.pub"),), MatchExact()), "does not accept"),
        ("modified-manifest", SAMPLE, Signed((key("cosign.pub"),), MatchRepository()), "another image"),
        ("other-attachment", SAMPLE, Signed((key("cosign.pub"),), MatchRepository()), "text/plain"),
        (
            "key-rekor-valid",
            LOGGED,
            Signed((key("cosign2.pub"),), MatchRepository(), log_keys=(key("cosign.pub").key,)),
            "does not know",
        ),
        (
            "key-rekor-valid",
            LOGGED,
            Signed((key("cosign.pub"),), MatchRepository(), log_keys=(key("rekor.pub").key,)),
            "none of the policy's keys",
        ),
    ]
    if CONTAINERS.exists()
    else [],
)
def test_containers_refuses(case, image, requirement, reason):
    with pytest.raises(SignatureRefused, match=reason):
        judge(f"dir-img-cosign-{case}", image, requirement)


def test_containers_lone_signature_by_an_unknown_key():
    manifest = (CONTAINERS / "dir-img-cosign-valid/manifest.json").read_bytes()
    found = dir_signature(CONTAINERS / "unknown-cosign-key.signature")
    with pytest.raises(SignatureRefused, match="none of the policy's keys"):
        decide(question(SAMPLE, manifest), policy(Signed((key("cosign.pub"),), MatchRepository())), found)


def test_containers_image_without_a_manifest():
    asked = question(SAMPLE, (CONTAINERS / "dir-img-cosign-valid/manifest.json").read_bytes())
    nothing = type(asked)(
        asked.image, Descriptor(asked.descriptor.media_type, asked.descriptor.digest, 0), b"", asked.now
    )
    found = dir_signature(CONTAINERS / "dir-img-cosign-no-manifest/signature-1")
    with pytest.raises(SignatureRefused, match="its manifest"):
        decide(nothing, policy(Signed((key("cosign.pub"),), MatchRepository())), found)


@pytest.mark.parametrize("damage", ["missing", "time", "body", "signature", "json"])
def test_containers_log_entry_that_is_damaged(damage):
    case = CONTAINERS / "dir-img-cosign-key-rekor-valid"
    (found,) = dir_signature(case / "signature-1").simple
    annotations = dict(found.annotations)
    entry = json.loads(annotations.pop("dev.sigstore.cosign/bundle"))
    match damage:
        case "time":
            entry["Payload"]["integratedTime"] += 1
        case "body":
            body = entry["Payload"]["body"]
            entry["Payload"]["body"] = body[:100] + ("A" if body[100] != "A" else "B") + body[101:]
        case "signature":
            entry["SignedEntryTimestamp"] = annotations["dev.cosignproject.cosign/signature"]
    if damage != "missing":
        annotations["dev.sigstore.cosign/bundle"] = json.dumps(entry) + (" x" if damage == "json" else "")
    changed = type(found)(found.where, found.payload, annotations)
    manifest = (CONTAINERS / "dir-img-cosign-key-rekor-valid/manifest.json").read_bytes()
    requirement = Signed((key("cosign2.pub"),), MatchRepository(), log_keys=(key("rekor.pub").key,))
    with pytest.raises(SignatureRefused):
        decide(question(LOGGED, manifest), policy(requirement), type(dir_signature(case / "signature-1"))((changed,)))


def test_exact_reference_wants_that_one():
    vector = load("v2-container-identity")
    other = ExactReference(parse_named("os.example.test/base:testing"))
    with pytest.raises(SignatureRefused, match="does not accept"):
        verify(vector.question(), vector.policy(identity=other), vector.shelf())
