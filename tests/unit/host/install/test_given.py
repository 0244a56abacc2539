"""A policy for a new machine: from keys, from a file of either kind; and where its files come to lie."""

import json
from pathlib import Path

import pytest

from keelboot.failure import Failure, InvalidSettings
from keelboot.host import policies
from keelboot.host.install import given
from keelboot.image.reference import Reference
from keelboot.trust.identity import Asked, parse_named
from keelboot.trust.keyfiles import generate
from keelboot.trust.policy import Signed

TARGET = Reference.parse("docker://registry.example.org/os/web:1")
REPOSITORY = "registry.example.org/os/web"
KEYS = [generate().public for _ in range(2)]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for name, key in zip(("a/cosign.pub", "b/cosign.pub"), KEYS, strict=True):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(key.pem)
        paths.append(path)
    return paths


def signers(found: given.Given) -> set[str]:
    assert found.policies.rules
    [requirement] = found.policies.rules.ruling(Asked("docker", parse_named(f"{REPOSITORY}:1"))).requirements
    assert isinstance(requirement, Signed)
    return {one.key.fingerprint for one in requirement.keys}


def test_keys_are_bound_to_the_repository_that_is_followed(files: list[Path]) -> None:
    found = given.from_keys(files, TARGET, REPOSITORY)
    assert list(found.files) == [
        "/etc/keelboot/keys/cosign.pub",
        "/etc/keelboot/keys/cosign-2.pub",
        "/etc/keelboot/trust.json",
    ]
    assert signers(found) == {key.fingerprint for key in KEYS}
    assert found.policies.names[KEYS[1].fingerprint] == "cosign-2"
    document = json.loads(found.files[policies.OWN])
    assert document["keys"]["cosign"]["repositories"] == [REPOSITORY]
    assert document["otherwise"] == "reject"


def test_what_lies_on_the_machine_says_the_same(files: list[Path], tmp_path: Path) -> None:
    found = given.from_keys(files, TARGET, REPOSITORY)
    root = tmp_path / "root"
    for path, content in found.files.items():
        file = policies.within(root, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    assert policies.machines(root) == found.policies


def test_keys_say_nothing_about_an_image_that_is_in_no_registry(files: list[Path]) -> None:
    with pytest.raises(Failure, match="--target-imgref"):
        given.from_keys(files, Reference.parse("oci:/srv/web"), "")


def test_a_file_that_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no key")
    with pytest.raises(Failure, match="x"):
        given.from_keys([tmp_path / "x"], TARGET, REPOSITORY)
    with pytest.raises(Failure, match="cannot read"):
        given.from_keys([tmp_path / "missing"], TARGET, REPOSITORY)


def own(path: str) -> str:
    keys = {"release": {"path": path, "repositories": [REPOSITORY]}}
    return json.dumps({"version": 1, "keys": keys, "images": {REPOSITORY: {"keys": ["release"]}}})


def test_our_own_policy_with_its_keys_beside_it(files: list[Path]) -> None:
    policy = files[0].parent / "mine.json"
    policy.write_text(own("/etc/keelboot/keys/cosign.pub"))
    found = given.from_policy(policy)
    assert found.files == {
        policies.OWN: policy.read_bytes(),
        "/etc/keelboot/keys/cosign.pub": files[0].read_bytes(),
    }
    assert signers(found) == {KEYS[0].fingerprint}


def test_containers_policy(files: list[Path]) -> None:
    wanted = {"type": "sigstoreSigned", "keyPath": "/etc/pki/cosign.pub"}
    policy = files[0].parent / "policy.json"
    document = {"default": [{"type": "reject"}], "transports": {"docker": {REPOSITORY: [wanted]}}}
    policy.write_text(json.dumps(document))
    found = given.from_policy(policy)
    assert found.files.keys() == {policies.CONTAINERS, "/etc/pki/cosign.pub"}
    assert signers(found) == {KEYS[0].fingerprint}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "it is not JSON"),
        ('{"default": []}', "default is empty"),
        ("[]", "not an object"),
        (own("/root/cosign.pub"), "would not be on the machine"),
        (own("/etc/nowhere/other.pub"), "No such file"),
    ],
)
def test_policies_that_cannot_be_used(text: str, why: str, files: list[Path]) -> None:
    policy = files[0].parent / "policy.json"
    policy.write_text(text)
    with pytest.raises(InvalidSettings, match=why) as found:
        given.from_policy(policy)
    assert str(policy) in found.value.what
