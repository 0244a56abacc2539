"""Nothing is staged that was not verified: on a machine in a directory, with real signatures in a registry."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keelboot.assembly.record import State
from keelboot.assembly.verification import Basis
from keelboot.failure import InvalidSettings, NetworkFailed, SignatureRefused, Unhealthy
from keelboot.host import admission, failed, policies, records, signatures, soundness, stage, upgrade
from keelboot.host.failed import FailedVersion
from keelboot.host.install import given
from keelboot.host.upgrade import Result
from keelboot.image import remote
from keelboot.image.documents import OCI_INDEX, Descriptor
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.trust.artifact import described
from signed_machines import DAY, NOW, RELEASE, REVIEW, STRANGER, World, following
from simulated.registry import dropped
from small_machines import boots, faults, version

ACCEPT = [{"type": "insecureAcceptAnything"}]
REJECT = [{"type": "reject"}]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with following(tmp_path) as world:
        yield world


def no_policy(world: World) -> None:
    policies.within(world.root, policies.OWN).unlink()


def refused(world: World, match: str, source: Reference | None = None, **said: bool) -> str:
    """The upgrade is refused for a reason that has MATCH in it, no layer was fetched, and nothing is staged."""
    before = boots(world.sysroot)
    with pytest.raises(SignatureRefused, match=match) as found:
        world.update(source, said=said, switching=source is not None)
    assert world.layers_fetched() == 0
    assert boots(world.sysroot) == before
    return str(found.value)


def test_a_signed_version_is_staged_and_its_evidence_kept(world: World) -> None:
    pushed = world.push(2, by=[RELEASE], version="2.0")
    outcome = world.update()
    assert outcome.result is Result.STAGED
    assert outcome.record
    kept = world.record(outcome.record.digest).verification
    assert kept
    assert (kept.basis, kept.digest, kept.version) == (Basis.SIGNED, str(pushed.digest), "2.0")
    assert outcome.record.manifest_digest == str(pushed.digest)
    [one] = kept.signatures
    assert (one.name, one.key, one.identity) == ("key-0", RELEASE.public.fingerprint, world.repository)
    assert one.time == "2026-11-27T12:00:00Z"
    assert kept.policy.startswith(policies.OWN)
    evidence = records.evidence(world.sysroot, outcome.record)
    assert evidence.keys() == kept.evidence == {pushed.digest.hex, one.evidence}
    assert faults(world.sysroot) == []


@pytest.mark.parametrize("bundle", [False, True], ids=["cosign 2", "cosign 3"])
def test_both_formats(bundle: bool, world: World) -> None:
    world.sign(world.push(2), RELEASE, bundle=bundle)
    assert world.update().result is Result.STAGED


def test_the_first_version_has_its_evidence_too(world: World) -> None:
    kept = world.record().verification
    assert kept
    assert kept.basis is Basis.SIGNED
    assert len(records.evidence(world.sysroot, world.record())) == 2


def test_unsigned(world: World) -> None:
    world.push(2)
    refused(world, "it is not signed")


@pytest.mark.parametrize("said", [{"allow_unsigned": True}, {"lenient": True}], ids=["--allow-unsigned", "bootc"])
def test_nothing_switches_a_policy_off(said: dict[str, bool], world: World) -> None:
    world.push(2)
    told = refused(world, "it is not signed", **said)
    assert ("--allow-unsigned does not switch a policy off" in told) == ("allow_unsigned" in said)


def test_wrongly_signed(world: World) -> None:
    world.push(2, by=[STRANGER])
    refused(world, "it is by none of the policy's keys")


def test_the_signature_of_another_image(world: World) -> None:
    other = world.push(9, "other", by=[RELEASE])
    pushed = world.push(2)
    media_type, data = world.registry.manifests[f"sha256-{other.digest.hex}.sig"]
    world.registry.put(data, media_type, f"sha256-{pushed.digest.hex}.sig")
    refused(world, "it is about another image")


def test_signed_for_another_repository(world: World) -> None:
    world.sign(world.push(2), RELEASE, repository=f"{world.registry.address}/os/mail")
    refused(world, "it is for ")


def test_another_repository_than_the_policy_knows(world: World) -> None:
    world.push(2, "2", by=[RELEASE])
    refused(world, "the policy rejects it", world.at("2", "os/mail"), allow_unsigned=True)


def test_nobody_is_asked_for_what_the_policy_rejects_anyway(world: World) -> None:
    refused(world, "the policy rejects it", world.at("2", "foreign/app"))
    assert world.registry.seen == []


def test_a_tag_that_moves_after_it_was_resolved(world: World) -> None:
    """What is verified, what is fetched and what is staged are one image."""
    signed = world.push(2, by=[RELEASE])
    unsigned = world.push(3, "elsewhere")

    def move(_handler: object, reply: object) -> object:
        world.registry.put(world.registry.manifests[str(unsigned.digest)][1], unsigned.media_type, "stable")
        return reply

    world.registry.faults["referrers"].append(move)  # type: ignore[arg-type]
    outcome = world.update()
    assert outcome.record
    assert outcome.record.manifest_digest == str(signed.digest)
    assert outcome.record.verification
    assert outcome.record.verification.digest == str(signed.digest)
    world.registry.seen.clear()
    world.boot(outcome)
    refused(world, "it is not signed")


def test_what_is_staged_has_to_be_what_was_admitted(world: World) -> None:
    world.push(2, by=[RELEASE])
    outcome = world.update()
    assert outcome.record
    world.push(3, by=[RELEASE])
    admitted = signatures.admit_downloaded(world.sysroot, world.booted, world.record(), world.terms())
    with (
        stage.stored(world.sysroot, outcome.record) as candidate,
        pytest.raises(SignatureRefused, match="was accepted, and what is in the store is"),
    ):
        stage.commit(world.sysroot, candidate, admitted, parent=world.booted)


def index_of(world: World, *images: Descriptor) -> Descriptor:
    platform = {"os": "linux", "architecture": "amd64"}
    listed = [
        {"mediaType": one.media_type, "digest": str(one.digest), "size": one.size, "platform": platform}
        for one in images
    ]
    data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()
    world.registry.put(data, OCI_INDEX, "stable")
    return described(data, OCI_INDEX)


def test_a_signed_index(world: World) -> None:
    child = world.push(2, "child")
    index = index_of(world, child)
    world.sign(index, RELEASE)
    outcome = world.update()
    assert outcome.record
    assert outcome.record.manifest_digest == str(child.digest)
    assert outcome.record.verification
    assert outcome.record.verification.digest == str(index.digest)


def test_the_signature_of_an_image_is_none_of_its_index(world: World) -> None:
    index_of(world, world.push(2, "child", by=[RELEASE]))
    refused(world, "it is not signed")


# Nobody decided.


def test_an_image_that_no_policy_is_about(world: World) -> None:
    no_policy(world)
    world.push(2, by=[RELEASE])
    told = refused(world, f"no policy of this machine says who signs {world.repository}")
    example = json.loads(told.partition("Say it in /etc/keelboot/trust.json: ")[2].partition(". Or add")[0])
    assert example["images"] == {world.repository: {"keys": ["release"]}}
    assert example["keys"]["release"]["repositories"] == [world.repository]


@pytest.mark.parametrize(
    ("said", "basis"),
    [({"allow_unsigned": True}, Basis.ALLOWED), ({"lenient": True}, Basis.UNCHECKED)],
    ids=["--allow-unsigned", "bootc"],
)
def test_what_is_taken_without_a_policy_is_recorded(said: dict[str, bool], basis: Basis, world: World) -> None:
    no_policy(world)
    pushed = world.push(2)
    outcome = world.update(said=said)
    kept = outcome.record and world.record(outcome.record.digest).verification
    assert kept
    assert (kept.basis, kept.digest, kept.policy) == (basis, str(pushed.digest), "")
    world.boot(outcome)
    world.registry.seen.clear()
    world.push(3)
    if basis is Basis.ALLOWED:
        refused(world, "no policy of this machine")  # once allowed is not for ever


def test_a_policy_may_say_that_no_signature_is_needed(world: World) -> None:
    world.trust(unsigned=True)
    world.push(2)
    kept = world.update().record
    assert kept
    assert kept.verification
    assert kept.verification.basis is Basis.POLICY
    assert kept.verification.policy.startswith(policies.OWN)


def test_the_policy_that_the_image_brings(world: World) -> None:
    written = policies.within(world.root, policies.OWN).read_text()
    no_policy(world)
    world.write(policies.CARRIED, written)
    world.push(2)
    refused(world, "it is not signed")
    world.trust(unsigned=True)  # the machine's own takes its place
    assert world.update().result is Result.STAGED


@pytest.mark.parametrize(
    ("document", "covered"),
    [
        ({"default": ACCEPT}, False),  # as distributions ship it
        ({"default": ACCEPT, "transports": {"docker": {"": ACCEPT}}}, False),
        ({"default": ACCEPT, "transports": {"docker": {"127.0.0.1:PORT/os": ACCEPT}}}, True),
        ({"default": REJECT, "transports": {"docker": {"127.0.0.1:PORT": ACCEPT}}}, True),
    ],
)
def test_containers_policy_that_accepts(document: object, covered: bool, world: World) -> None:
    no_policy(world)
    world.write(policies.CONTAINERS, json.dumps(document).replace("PORT", str(world.registry.port)))
    world.push(2)
    if not covered:
        refused(world, "no policy of this machine")
    outcome = world.update(said={} if covered else {"lenient": True})
    assert outcome.record
    assert outcome.record.verification
    assert outcome.record.verification.basis is (Basis.POLICY if covered else Basis.UNCHECKED)


def test_containers_policy_that_wants_signatures(world: World) -> None:
    no_policy(world)
    wanted = {"type": "sigstoreSigned", "keyPath": "/etc/keys/a.pub", "signedIdentity": {"type": "matchRepository"}}
    world.write("/etc/keys/a.pub", RELEASE.public.pem)
    world.write(policies.CONTAINERS, {"default": ACCEPT, "transports": {"docker": {world.repository: [wanted]}}})
    world.push(2)
    refused(world, "it is not signed", lenient=True)
    world.sign(world.push(2), RELEASE)
    assert world.update(said={"lenient": True}).result is Result.STAGED


def test_both_policies_hold(world: World) -> None:
    world.write(policies.CONTAINERS, {"default": REJECT})
    world.push(2, by=[RELEASE])
    refused(world, "the policy rejects it")


@pytest.mark.parametrize("local", [False, True], ids=["registry", "layout"])
@pytest.mark.parametrize(
    ("path", "content", "why"),
    [
        (policies.OWN, "{", "it is not JSON"),
        (policies.OWN, '{"version": 1, "keys": {}, "images": {}, "extra": 1}', "extra is not known here"),
        (
            policies.OWN,
            '{"version": 1, "keys": {"a": {"path": "/etc/none.pub"}}, "images": {}}',
            r'keys\["a"\].path: /etc/none.pub: No such file',
        ),
        (policies.CONTAINERS, '{"default": []}', "default is empty"),
    ],
)
def test_a_broken_policy_refuses_everything(path: str, content: str, why: str, local: bool, world: World) -> None:
    world.push(2, by=[RELEASE])
    world.write(path, content)
    source = version(world.directory, 5) if local else None
    with pytest.raises(InvalidSettings, match=why) as found:
        world.update(source, switching=local, said={"allow_unsigned": True})
    assert path in found.value.what
    assert found.value.exit_code == 27


# Places on the machine.


def test_an_image_from_the_machine_itself(world: World) -> None:
    kept = world.update(version(world.directory, 5), switching=True).record
    assert kept
    assert kept.verification
    assert kept.verification.basis is Basis.LOCAL


@pytest.mark.parametrize(
    ("document", "accepted"),
    [
        ({"default": REJECT}, False),
        ({"default": REJECT, "transports": {"oci": {"": ACCEPT}}}, True),
        ({"default": ACCEPT, "transports": {"oci": {"": REJECT}}}, False),
        ({"default": ACCEPT}, True),
    ],
)
def test_containers_policy_holds_for_places_on_the_machine(document: object, accepted: bool, world: World) -> None:
    world.write(policies.CONTAINERS, document)
    source = version(world.directory, 5)
    if not accepted:
        refused(world, "the policy does not let every image of oci: in", source)
        return
    assert world.update(source, switching=True).result is Result.STAGED


# bootc's --enforce-container-sigpolicy.


@pytest.mark.parametrize("lenient", [False, True], ids=["keelboot", "bootc"])
def test_a_policy_that_has_to_be_there(lenient: bool, world: World) -> None:
    no_policy(world)
    world.push(2)
    refused(world, "a policy is to be enforced .*, and there is none", lenient=lenient, strict=True)
    world.write(policies.CONTAINERS, {"default": ACCEPT})
    refused(world, "accepts everything by default", lenient=lenient, strict=True, allow_unsigned=True)
    rules = {"docker": {world.registry.address: ACCEPT}}
    world.write(policies.CONTAINERS, {"default": REJECT, "transports": rules})
    assert world.update(said={"lenient": lenient, "strict": True}).result is Result.STAGED


# Older, too old, too new.


def test_older_than_what_runs(world: World) -> None:
    world.push(2, by=[RELEASE])
    world.boot(world.update())
    world.registry.seen.clear()
    again = world.push(7, by=[RELEASE], created=NOW - 99 * DAY)
    told = refused(world, "it is older than what runs: it was made 2026-08-20")
    assert "--allow-downgrade" in told
    outcome = world.update(said={"allow_downgrade": True})
    assert outcome.record
    assert outcome.record.manifest_digest == str(again.digest)
    kept = world.record(outcome.record.digest).verification
    assert kept
    assert kept.downgrade == "it was made 2026-08-20 12:00:00 UTC, and what runs 2026-08-21 12:00:00 UTC"


def test_older_by_the_version_that_was_signed(world: World) -> None:
    world.push(2, by=[RELEASE], version="2.1")
    world.boot(world.update())
    world.registry.seen.clear()
    world.push(3, by=[RELEASE], version="2.0")
    refused(world, "it is version 2.0, and 2.1 runs")
    world.push(4, by=[RELEASE])
    refused(world, "of this image no version was signed")


def test_another_image_has_a_history_of_its_own(world: World) -> None:
    world.write(
        policies.OWN,
        {
            "version": 1,
            "keys": {"a": {"data": RELEASE.public.pem}},
            "images": {world.registry.address: {"keys": ["a"]}},
        },
    )
    other = world.push(7, "1", created=NOW - 300 * DAY)
    world.sign(other, RELEASE, repository=f"{world.registry.address}/os/mail")
    assert world.update(world.at("1", "os/mail"), switching=True).result is Result.STAGED


def test_what_nobody_signed_is_not_compared(world: World) -> None:
    world.trust(unsigned=True)
    world.push(7, created=NOW - 300 * DAY)
    assert world.update().result is Result.STAGED


def test_a_signature_that_is_too_old(world: World) -> None:
    world.trust(RELEASE, maxAge="30d")
    pushed = world.push(2, by=[RELEASE])
    world.now = NOW + 31 * DAY
    refused(world, "more than 30 days ago")
    world.sign(pushed, RELEASE)
    outcome = world.update()
    assert outcome.record
    assert outcome.record.verification
    assert outcome.record.verification.until == "2027-01-27T12:00:00Z"


def test_signing_again_keeps_what_runs_fresh(world: World) -> None:
    world.trust(RELEASE, maxAge="30d")
    pushed = world.push(2, by=[RELEASE])
    world.boot(world.update())
    assert world.record().verification
    assert world.record().verification.until == "2026-12-27T12:00:00Z"  # type: ignore[union-attr]
    world.now = NOW + 20 * DAY
    world.sign(pushed, RELEASE)
    assert world.update().result is Result.UNCHANGED
    kept = world.record().verification
    assert kept
    assert kept.until == "2027-01-16T12:00:00Z"
    assert records.evidence(world.sysroot, world.record()).keys() == kept.evidence
    directory = world.sysroot.deployment(world.booted) / "signatures"
    assert {path.name for path in directory.iterdir()} == kept.evidence
    world.now = NOW + 60 * DAY
    told = world.update()
    assert (told.result, len(told.remarks)) == (Result.UNCHANGED, 1)
    assert "would not be staged now" in told.remarks[0]
    assert world.record().verification == kept


def test_a_policy_that_came_later_is_recorded_when_it_is_satisfied(world: World) -> None:
    no_policy(world)
    world.push(2, by=[RELEASE])
    world.boot(world.update(said={"allow_unsigned": True}))
    assert world.update().result is Result.UNCHANGED
    assert world.record().verification
    assert world.record().verification.basis is Basis.ALLOWED  # type: ignore[union-attr]
    world.trust(RELEASE)
    assert world.update().result is Result.UNCHANGED
    assert world.record().verification.basis is Basis.SIGNED  # type: ignore[union-attr]


def test_evidence_that_is_damaged_is_told_and_renewed(world: World) -> None:
    for path in (world.sysroot.deployment(world.booted) / "signatures").iterdir():
        path.write_bytes(b"damaged")
    examined = soundness.examine(world.sysroot, world.booted, jobs=1)
    assert [one.path for one in examined.findings] == [f"state/deploy/{world.booted.hex}/signatures"]
    assert world.update().result is Result.UNCHANGED
    assert soundness.examine(world.sysroot, world.booted, jobs=1).sound


def test_a_clock_that_is_wrong_is_told(world: World) -> None:
    world.push(2, by=[RELEASE])
    world.now = NOW - 400 * DAY
    told = refused(world, "this machine's clock says 2025-10-23")
    assert "Set the clock" in told


def test_too_far_ahead(world: World) -> None:
    world.trust(RELEASE, maxJump=1)
    world.push(2, by=[RELEASE], version="2")
    world.boot(world.update())
    world.registry.seen.clear()
    world.push(3, by=[RELEASE], version="40")
    refused(world, "more than 1 ahead of 2")
    outcome = world.update(said={"allow_leap": True})
    assert outcome.record
    assert outcome.record.verification
    assert outcome.record.verification.downgrade


# Keys.


def test_two_of_two_keys(world: World) -> None:
    world.trust(RELEASE, REVIEW, threshold=2)
    pushed = world.push(2, by=[RELEASE])
    refused(world, "1 of the 2 keys")
    world.sign(pushed, REVIEW, bundle=True)
    outcome = world.update()
    assert outcome.record
    assert outcome.record.verification
    assert {one.name for one in outcome.record.verification.signatures} == {"key-0", "key-1"}


def test_rotation(world: World) -> None:
    """Old and new are both accepted until the old one is dropped."""
    world.trust(RELEASE, REVIEW)  # the new one is added
    world.push(2, by=[RELEASE])
    world.boot(world.update())
    world.push(3, by=[REVIEW])
    world.boot(world.update())
    world.registry.seen.clear()
    world.trust(REVIEW)  # the old one is dropped
    world.push(4, by=[RELEASE])
    refused(world, "it is by none of the policy's keys")
    world.push(5, by=[REVIEW])
    assert world.update().result is Result.STAGED


# Other ways to stage.


def test_what_was_downloaded_keeps_its_evidence(world: World) -> None:
    world.push(2, by=[RELEASE])
    downloaded = world.update(download_only=True).record
    assert downloaded
    world.registry.manifests.clear()  # no network is needed
    world.registry.blobs.clear()
    outcome = world.from_downloaded()
    assert outcome.result is Result.STAGED
    assert outcome.record
    assert outcome.record.verification == downloaded.verification
    assert records.evidence(world.sysroot, outcome.record).keys() == downloaded.verification.evidence  # type: ignore[union-attr]


def test_what_was_downloaded_is_decided_about_by_the_policy_of_now(world: World) -> None:
    world.push(2, by=[RELEASE])
    record = world.update(download_only=True).record
    assert record
    world.trust(REVIEW)
    with pytest.raises(SignatureRefused, match="none of the policy's keys"):
        world.from_downloaded(allow_unsigned=True)
    no_policy(world)
    with pytest.raises(SignatureRefused, match="no policy of this machine"):
        world.from_downloaded()
    world.trust(RELEASE)
    for path in (world.sysroot.deployment(record.digest) / "signatures").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(SignatureRefused, match="no signatures of it were kept"):
        world.from_downloaded()


def test_an_exception_of_the_download_goes_on(world: World) -> None:
    no_policy(world)
    world.push(2)
    world.update(download_only=True, said={"allow_unsigned": True})
    outcome = world.from_downloaded()
    assert outcome.record
    assert outcome.record.verification
    assert outcome.record.verification.basis is Basis.ALLOWED


def test_a_version_that_failed_is_not_tried_again_unsigned(world: World) -> None:
    pushed = world.push(2, by=[RELEASE])
    record = world.update().record
    assert record
    known = FailedVersion(
        digest=record.digest,
        manifest_digest=record.manifest_digest,
        image=record.image,
        tries=3,
        reason="x",
        last="now",
    )
    world.sysroot.failures.write_bytes(failed.encode([known]))
    records.write(world.sysroot, replace(record, state=State.BAD))
    for path in world.sysroot.entries.iterdir():
        if record.digest.hex in path.name:
            path.unlink()
    with pytest.raises(Unhealthy):
        world.update()
    del world.registry.manifests[f"sha256-{pushed.digest.hex}.sig"]
    with pytest.raises(SignatureRefused, match="it is not signed"):
        world.update(retry_failed=True)
    world.sign(pushed, RELEASE)
    assert world.update(retry_failed=True).result is Result.STAGED


def test_a_check_tells_who_signed_it(world: World) -> None:
    world.push(2, by=[RELEASE])
    offer = upgrade.check(world.sysroot, world.booted, world.wish())
    assert offer.verification
    assert (offer.verification.basis, offer.refusal) == (Basis.SIGNED, "")
    world.push(3)
    offer = upgrade.check(world.sysroot, world.booted, world.wish())
    assert offer.verification is None
    assert "it is not signed" in offer.refusal
    with pytest.raises(SignatureRefused):
        upgrade.check(world.sysroot, world.booted, world.wish(), rehearse=True)
    assert world.layers_fetched() == 0


def test_signatures_that_cannot_be_fetched(world: World) -> None:
    world.push(2, by=[RELEASE])
    world.registry.faults["referrers"] += [dropped] * 9
    with pytest.raises(NetworkFailed):
        world.update()
    assert boots(world.sysroot) == [world.booted.hex[:8]]


def test_an_installation_asks_about_what_the_machine_will_follow(world: World, tmp_path: Path) -> None:
    """What is read from another place has to be signed as what upgrades follow."""
    (tmp_path / "cosign.pub").write_text(RELEASE.public.pem)
    target = Reference.parse("docker://registry.example.org/os/web:1")
    policy = given.from_keys([tmp_path / "cosign.pub"], target, "registry.example.org/os/web")
    terms = replace(world.terms(), called=target, policies=lambda: policy.policies)
    pushed = world.push(2, "2")
    source = world.at("2", "mirror/web")
    for repository, accepted in (("os/other", False), ("os/web", True)):
        world.sign(pushed, RELEASE, repository=f"registry.example.org/{repository}")
        remote.provide(world.opened)
        with open_image(source) as image:
            if accepted:
                admitted = admission.admit(image, terms)
                assert admitted.manifest == pushed.digest
                assert admitted.verification.image == "registry.example.org/os/web:1"
                assert admitted.verification.signatures[0].name == "cosign"
            else:
                with pytest.raises(SignatureRefused, match="it is for "):
                    admission.admit(image, terms)


class CutError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("step", stage.STEPS)
def test_a_cut_leaves_no_entry_without_its_evidence(step: str, world: World) -> None:
    world.push(2, by=[RELEASE])

    def reached(name: str) -> None:
        if name == step:
            raise CutError

    with pytest.raises(CutError):
        upgrade.update(world.sysroot, world.booted, world.wish(), reached=reached)
    for record in records.deployments(world.sysroot):
        assert record.verification
        assert records.evidence(world.sysroot, record).keys() == record.verification.evidence
    assert faults(world.sysroot, needed=True) == []
    outcome = world.update()
    assert outcome.result is (Result.UNCHANGED if step == "entry" else Result.STAGED)
    assert outcome.record
    assert len(records.evidence(world.sysroot, outcome.record)) == 2


def test_status_and_refusals_do_not_load_what_verifies() -> None:
    script = (
        "import sys; from keelboot.host import facts, shown, status, stage, upgrade, admission, policies; "
        "policies.machines(policies.Path('/nonexistent')); "
        "from keelboot.host import enforced; enforced.outline(('x', b'{\"images\": {}}'), None, 'a.example/b:1'); "
        "sys.exit('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
