"""Who signs, who verifies, and where signatures are: keelboot, cosign 2 and 3, skopeo and podman, at three registries.

Debian's docker-registry has no interface of referrers, so clients keep the lists themselves; the same behind one that
has; and go-containerregistry's, which has one of its own. What each cell has to come to is in the tables.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cosigns import PASSWORD, Cosign, Missing, cosign, go_registry, podman, skopeo, with_referrers
from docker_registry import registry as docker_registry
from keelboot.trust.keyfiles import generate, write_private_key
from small_images import BASE, write_layout

pytestmark = [pytest.mark.machine, pytest.mark.xdist_group("cosign")]  # one process, which has the whole table

STORAGES = ("tags", "referrers", "go")
VERIFIERS = ("keelboot", "cosign 2", "cosign 3", "skopeo", "podman")
# One column for each of VERIFIERS: + accepts, - finds no signature; a dot in what is found: it is not here.
EXPECTED = {
    "keelboot simple": "+++++",
    "keelboot bundle": "+-+--",
    "keelboot": "+++++",
    "cosign 2": "+++++",
    "cosign 2 oci-1-1": "++---",
    "cosign 3": "+-+--",
    "cosign 3 old format": "+++++",
}
_PLAIN = ("--allow-http-registry", "-y")
_OFFLINE = ("--insecure-ignore-tlog=true", "--allow-http-registry")


@dataclass
class Bench:
    """Everything at once. `cells` are what came of it: by storage and signer, a sign for each verifier."""

    home: Path
    keelboot: Callable[..., subprocess.CompletedProcess[str]]
    two: Cosign
    three: Cosign
    addresses: dict[str, str]
    skopeos: list[str]  # none: there is none that verifies
    podmans: tuple[list[str], dict[str, str]]  # words and environment; the same
    cells: dict[tuple[str, str], str] = field(default_factory=dict)

    def call(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        own = {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache"), "REGISTRY_AUTH_FILE": ""}
        return self.keelboot(*words, env={**own, "COSIGN_PASSWORD": PASSWORD})

    def done(self, *words: str | Path) -> dict[str, object]:
        done = self.call(*words, "--json")
        assert done.returncode == 0, (words, done.stderr)
        return json.loads(done.stdout)

    def image(self, storage: str, path: str) -> tuple[str, str]:
        """An image under a name of its own: that, and its name by digest."""
        name = f"{self.addresses[storage]}/os/{path}"
        told = self.done("push", f"oci:{self.home / 'layout'}", f"{name}:1")
        return f"{name}:1", f"{name}@{told['digest']}"

    def sign(self, who: str, name: str, by_digest: str) -> None:
        key = self.home / "cosign.key"
        match who:
            case "keelboot" | "keelboot simple" | "keelboot bundle":
                form = who.partition(" ")[2] or "both"
                self.done("sign", name, "--key", key, "--format", form, "--annotation", "version=1")
            case "cosign 2":
                self.two("sign", "--key", key, "--tlog-upload=false", *_PLAIN, by_digest)
            case "cosign 2 oci-1-1":
                mode = "--registry-referrers-mode=oci-1-1"
                self.two("sign", "--key", key, "--tlog-upload=false", mode, *_PLAIN, by_digest, experimental=True)
            case "cosign 3" | "cosign 3 old format":
                old = ["--new-bundle-format=false"] if who.endswith("format") else []
                more = ["--tlog-upload=false", "--use-signing-config=false", *old]
                self.three("sign", "--key", key, *more, *_PLAIN, by_digest)

    def verifies(self, who: str, name: str, key: str) -> bool:
        public = self.home / f"{key}.pub"
        match who:
            case "keelboot":
                done = self.call("verify", name, "--key", public)
                assert done.returncode in (0, 20), done.stderr
            case "cosign 2":
                done = self.two("verify", "--key", public, *_OFFLINE, name, check=False)
                if done.returncode != 0:  # it looks at referrers only when it is told to
                    more = ["--experimental-oci11", name]
                    done = self.two("verify", "--key", public, *_OFFLINE, *more, check=False, experimental=True)
            case "cosign 3":
                done = self.three("verify", "--key", public, *_OFFLINE, name, check=False)
            case "skopeo":
                done = self.skopeo(name, public, {"type": "matchRepository"})
            case _:
                done = self.podman(name, public, {"type": "matchRepository"})
        return done.returncode == 0

    def skopeo(self, name: str, public: Path, identity: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Copy the image NAME away, as a policy lets it."""
        settings = self._policy(name, public, identity)
        away = self.home / "away"
        shutil.rmtree(away, ignore_errors=True)
        words = ["--policy", self.home / "policy.json", "--registries.d", settings, "copy", "--src-tls-verify=false"]
        return subprocess.run(
            [*self.skopeos, *words, f"docker://{name}", f"dir:{away}"], capture_output=True, text=True, check=False
        )

    def podman(self, name: str, public: Path, identity: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Pull the image NAME into a store, as a policy lets it."""
        self._policy(name, public, identity)
        words, environment = self.podmans
        words = [
            *words,
            "pull",
            "--quiet",
            "--tls-verify=false",
            f"--signature-policy={self.home / 'policy.json'}",
            name,
        ]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    def _policy(self, name: str, public: Path, identity: dict[str, str]) -> Path:
        """Have policy.json want NAME signed; the registries.d that says where signatures are."""
        scope = name.partition("/")[0]
        requirement = {"type": "sigstoreSigned", "keyPath": str(public), "signedIdentity": identity}
        policy = {"default": [{"type": "reject"}], "transports": {"docker": {scope: [requirement]}}}
        (self.home / "policy.json").write_text(json.dumps(policy))
        settings = self.home / ".config/containers/registries.d"
        settings.mkdir(parents=True, exist_ok=True)
        (settings / "all.yaml").write_text("default-docker:\n  use-sigstore-attachments: true\n")
        return settings

    @property
    def verifiers(self) -> list[str]:
        """Those of VERIFIERS that are here."""
        there = {"skopeo": bool(self.skopeos), "podman": bool(self.podmans[0])}
        return [one for one in VERIFIERS if there.get(one, True)]


@pytest.fixture(scope="module")
def bench(keelboot, tmp_path_factory) -> Iterator[Bench]:
    home = tmp_path_factory.mktemp("cosign")
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    try:
        two, three = cosign(2, home), cosign(3, home)
    except Missing as why:
        pytest.skip(str(why))
    write_layout(home / "layout", BASE)
    for name in ("cosign", "other"):
        key = generate()
        (home / f"{name}.key").write_bytes(write_private_key(key, PASSWORD.encode()))
        (home / f"{name}.key").chmod(0o600)
        (home / f"{name}.pub").write_text(key.public.pem)
    with ExitStack() as stack:
        tags = stack.enter_context(docker_registry(home / "one"))
        behind = stack.enter_context(docker_registry(home / "two"))
        addresses = {"tags": tags, "referrers": stack.enter_context(with_referrers(behind))}
        try:
            addresses["go"] = stack.enter_context(go_registry(home))
        except Missing as why:
            addresses["go"] = f"- {why}"
        try:
            skopeos = skopeo()
        except Missing as why:
            print(why)
            skopeos = []
        try:
            podmans = podman(home)
        except Missing as why:
            print(why)
            podmans = ([], {})
        yield Bench(home, keelboot, two, three, addresses, skopeos, podmans)


@pytest.mark.parametrize("signer", EXPECTED)
@pytest.mark.parametrize("storage", STORAGES)
def test_cell(bench, storage, signer):
    if bench.addresses[storage].startswith("-"):
        pytest.skip(bench.addresses[storage][2:])
    name, by_digest = bench.image(storage, signer.replace(" ", "-"))
    assert not any(bench.verifies(one, name, "cosign") for one in ("keelboot", "cosign 2")), "it is not signed yet"
    bench.sign(signer, name, by_digest)
    there = bench.verifiers
    found = "".join("-+"[bench.verifies(one, name, "cosign")] if one in there else "." for one in VERIFIERS)
    bench.cells[storage, signer] = found
    print(f"{storage:<10} {signer:<20} " + "  ".join(map(" ".join, zip(VERIFIERS, found, strict=True))))
    assert not any(bench.verifies(one, name, "other") for one in there), "by another key"
    wanted = zip(VERIFIERS, EXPECTED[signer], strict=True)
    assert found == "".join(sign if one in there else "." for one, sign in wanted)


def test_matrix(bench):
    """Nothing but a place to print it: pytest -rA shows it."""
    print(f"cosign {bench.two.version} and {bench.three.version}; + accepts, - finds no signature")
    print(f"{'stored in':<10} {'signed by':<20} {'  '.join(VERIFIERS)}")
    for (storage, signer), found in bench.cells.items():
        row = "  ".join(f"{sign:<{len(who)}}" for who, sign in zip(VERIFIERS, found, strict=True))
        print(f"{storage:<10} {signer:<20} {row}".rstrip())


@pytest.mark.parametrize("storage", STORAGES)
def test_attestations_both_ways(bench, storage):
    if bench.addresses[storage].startswith("-"):
        pytest.skip(bench.addresses[storage][2:])
    key, public = bench.home / "cosign.key", bench.home / "cosign.pub"
    predicate = bench.home / "predicate.json"
    predicate.write_text(json.dumps({"buildDefinition": {"buildType": "https://example.org/x"}, "runDetails": {}}))
    own = ["--type", "slsaprovenance1", "--predicate", predicate]
    name, by_digest = bench.image(storage, "attested-by-keelboot")
    bench.done("attest", name, "--key", key, *own)
    told = bench.three("verify-attestation", "--key", public, "--type", "slsaprovenance1", *_OFFLINE, name)
    assert "in-toto" in told.stdout
    root = bench.home / "root.json"  # of nobody: else cosign 2 asks the network for one
    root.write_text('{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}')
    more = ["--new-bundle-format", "--trusted-root", root, "--type", "slsaprovenance1"]
    bench.two("verify-attestation", "--key", public, *more, *_OFFLINE, name)
    refused = ["--key", bench.home / "other.pub", "--type", "slsaprovenance1"]
    assert bench.call("verify-attestation", name, *refused).returncode == 20
    assert bench.call("verify", name, "--key", public).returncode == 20, "an attestation is no signature"
    ways = ((3, ["--use-signing-config=false"]), (2, ["--new-bundle-format"]), (2, []))
    for number, (which, more) in enumerate(ways):
        name, by_digest = bench.image(storage, f"attested-by-cosign-{which}-{number}")
        program = bench.two if which == 2 else bench.three
        program("attest", "--key", key, "--tlog-upload=false", *more, *_PLAIN, *own, by_digest)
        told = bench.done("verify-attestation", name, "--key", public, "--type", "slsaprovenance1")
        (found,) = told["attestations"]
        assert found["predicate"]["buildDefinition"]["buildType"] == "https://example.org/x"
        assert bench.call("verify-attestation", name, *refused).returncode == 20
        assert bench.call("verify", name, "--key", public).returncode == 20, "an attestation is no signature"


@pytest.mark.parametrize("program", ["skopeo", "podman"])
def test_identities_for_podman_and_skopeo(bench, program):
    """keelboot signs the tag too: that is what these want by default, and what cosign does not do."""
    if program not in bench.verifiers:
        pytest.skip(f"there is no {program} that verifies")
    verify = getattr(bench, program)
    name, by_digest = bench.image("tags", f"identities-{program}")
    public, strict = bench.home / "cosign.pub", {"type": "matchRepoDigestOrExact"}
    bench.sign("cosign 2", name, by_digest)
    assert verify(name, public, strict).returncode != 0
    bench.sign("keelboot simple", name, by_digest)
    assert verify(name, public, strict).returncode == 0
    done = verify(by_digest, public, strict)
    assert done.returncode == 0, done.stderr
    assert verify(name, bench.home / "other.pub", strict).returncode != 0
    told = bench.done("verify", name, "--key", public)
    assert [one["name"] for one in told["signatures"]] == [name]


def test_keys_of_either_are_the_others(bench):
    """cosign signs with keelboot's keys above; here keelboot does with cosign's."""
    for which in (bench.two, bench.three):
        prefix = f"made-by-{which.version[0]}"
        which("generate-key-pair", "--output-key-prefix", prefix)
        name, _ = bench.image("tags", prefix)
        bench.done("sign", name, "--key", bench.home / f"{prefix}.key")
        bench.done("verify", name, "--key", bench.home / f"{prefix}.pub")
        which("verify", "--key", bench.home / f"{prefix}.pub", *_OFFLINE, name)
