"""keygen, sign, verify, attest, verify-attestation and sbom as they are typed."""

import json
import stat

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keelboot.trust.keyfiles import generate, read_private_key
from keelboot.trust.keys import parse_keys
from signature_vectors import VECTORS
from simulated.registry import Registry, serving
from small_images import BASE, write_layout

STATUS = b"Package: base-files\nStatus: install ok installed\nArchitecture: amd64\nVersion: 13.8\n"
ROOT = VECTORS / "sigstore-conformance/production_trusted_root.json"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with serving(Registry()) as started:
        layout = tmp_path_factory.mktemp("image") / "layout"
        files = {"var": None, "var/lib": None, "var/lib/dpkg": None, "var/lib/dpkg/status": STATUS}
        write_layout(layout, BASE, files)
        started.add(layout, "1", "unsigned")
        started.layout = layout
        yield started


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two pairs, without passwords."""
    directory = tmp_path_factory.mktemp("keys")
    for name in ("a", "b"):
        key = generate()
        (directory / f"{name}.pub").write_text(key.public.pem)
        private = key._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (directory / f"{name}.key").write_bytes(private)
        (directory / f"{name}.key").chmod(0o600)
    return directory


@pytest.fixture
def call(keelboot, tmp_path):
    """Run keelboot with nothing of the user's, and without a terminal."""
    own = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}

    def run(*words, code=0, **more):
        done = keelboot(*words, env={**own, **more}, wrapped_by=("setsid", "--wait"))
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    return run


def test_keygen(call, tmp_path):
    prefix = tmp_path / "release"
    told = json.loads(call("keygen", "--output-key-prefix", prefix, "--json", COSIGN_PASSWORD="pw").stdout)
    private, public = (tmp_path / f"release.{end}" for end in ("key", "pub"))
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    key = read_private_key(private.read_bytes(), "x", lambda: b"pw")
    assert parse_keys(public.read_bytes()) == (key.public,)
    assert told["fingerprint"] == key.public.fingerprint
    before = private.read_bytes()
    assert "never written over" in call("keygen", "--output-key-prefix", prefix, code=9, COSIGN_PASSWORD="").stderr
    private.unlink()
    assert "release.pub" in call("keygen", "--output-key-prefix", prefix, code=9, COSIGN_PASSWORD="").stderr
    assert before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["release.pub"]


def test_keygen_without_a_place_or_a_password(call, tmp_path):
    assert "not a directory" in call("keygen", "--output-key-prefix", tmp_path / "no/x", code=9).stderr
    told = call("keygen", "--output-key-prefix", tmp_path / "x", code=1).stderr
    assert "there is no terminal to ask for it" in told
    assert "COSIGN_PASSWORD" in told
    assert not list(tmp_path.glob("x.*"))


def test_sign_and_verify(call, registry, keys):
    name = f"{registry.address}/os/web:1"
    planned = json.loads(call("sign", name, "--key", keys / "a.key", "--dry-run", "--json").stdout)
    assert planned["dryRun"]
    assert "it is not signed" in call("verify", name, "--key", keys / "a.pub", code=20).stderr
    told = json.loads(call("sign", name, "--key", keys / "a.key", "-a", "version=42", "--json").stdout)
    assert [one["format"] for one in told["signatures"]] == ["simple", "bundle"]
    assert told["name"] == name
    seen = json.loads(call("verify", name, "--key", keys / "a.pub", "--json").stdout)
    assert (seen["digest"], seen["enforced"]) == (told["digest"], True)
    assert seen["signatures"][0]["annotations"]["version"] == "42"
    text = call("verify", name, "--key", keys / "a.pub").stdout
    assert told["key"] in text
    assert "version=42" in text
    both = ["--key", keys / "a.pub", "--key", keys / "b.pub", "--threshold", "2"]
    assert "1 of the 2 keys" in call("verify", name, *both, code=20).stderr
    call("sign", name, "--key", keys / "b.key", "--format", "bundle")
    assert len(json.loads(call("verify", name, *both, "--json").stdout)["signatures"]) == 2
    refused = json.loads(
        call("verify", f"{registry.address}/os/other:1", "--key", keys / "a.pub", "--json", code=20).stderr
    )
    assert refused["error"]["class"] == "SignatureRefused"
    assert "does not accept" in refused["error"]["why"]


@pytest.mark.parametrize("kind", ["own", "containers"])
def test_policies(call, registry, keys, tmp_path, kind):
    name = f"{registry.address}/os/policy:1"
    call("sign", name, "--key", keys / "a.key", "-a", "stream=stable")
    file = tmp_path / "policy.json"
    scope = name.rpartition(":")[0]
    if kind == "own":
        rule = {"keys": ["a"], "stream": "stable"}
        policy = {"version": 1, "keys": {"a": {"path": str(keys / "a.pub")}}, "images": {scope: rule}}
    else:
        requirement = {"type": "sigstoreSigned", "keyPath": str(keys / "a.pub")}
        policy = {"default": [{"type": "reject"}], "transports": {"docker": {scope: [requirement]}}}
    file.write_text(json.dumps(policy))
    assert str(file) in call("verify", name, "--policy", file).stdout
    other = call("verify", f"{registry.address}/os/elsewhere:1", "--policy", file, code=20)
    assert "the policy rejects it" in other.stderr
    file.write_text(json.dumps(policy).replace("a.pub", "no.pub"))
    assert "no.pub" in call("verify", name, "--policy", file, code=27).stderr
    file.write_text("{")
    assert "not JSON" in call("verify", name, "--policy", file, code=27).stderr


def test_a_policy_that_wants_no_signature_is_not_passed_off_as_one(call, registry, tmp_path):
    file = tmp_path / "policy.json"
    file.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    done = call("verify", f"{registry.address}/os/web:unsigned", "--policy", file)
    assert "the policy wants no signature" in done.stdout
    told = json.loads(call("verify", f"{registry.address}/os/web:unsigned", "--policy", file, "--json").stdout)
    assert (told["enforced"], told["signatures"]) == (False, [])


def test_keys_that_are_none(call, registry, keys, tmp_path):
    name = f"{registry.address}/os/web:1"
    (tmp_path / "text").write_text("hello")
    (tmp_path / "text").chmod(0o600)
    encrypted = tmp_path / "own"
    call("keygen", "--output-key-prefix", encrypted, COSIGN_PASSWORD="pw")

    def signing(key, code, **more):
        return call("sign", name, "--key", key, code=code, **more).stderr

    assert "not in PEM format" in signing(tmp_path / "text", 1)
    assert "it is a public key" in signing(keys / "a.pub", 1)
    assert "No such file" in signing(tmp_path / "nothing", 2)
    wrong = signing(f"{encrypted}.key", 1, COSIGN_PASSWORD="wrong")
    assert "the password is wrong" in wrong
    assert "wrong\n" not in wrong.partition("the password is wrong")[0]
    assert "no terminal" in signing(f"{encrypted}.key", 1)
    assert "private key" in call("verify", name, "--key", keys / "a.key", code=1).stderr
    assert "not in PEM format" in call("verify", name, "--key", tmp_path / "text", code=1).stderr
    (tmp_path / "own.key").chmod(0o644)
    done = call("sign", name, "--key", f"{encrypted}.key", "--dry-run", COSIGN_PASSWORD="pw")
    assert "chmod 600" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing says whose signatures count"),
        (["--key", "a.pub", "--policy", "x"], "more than one way"),
        (["--key", "a.pub", "--threshold", "2"], "1 different ones"),
        (["--key", "a.pub", "--key", "a.pub", "--threshold", "2"], "1 different ones"),
        (["--key", "a.pub", "--threshold", "0"], "cannot want 0 keys"),
        (["--policy", "x", "--threshold", "2"], "--threshold"),
        (["--certificate-identity", "me"], "are needed together"),
    ],
)
def test_who_is_trusted(call, registry, keys, words, told):
    whole = [keys / word if word.endswith(".pub") else word for word in words]
    assert told in call("verify", f"{registry.address}/os/web:1", *whole, code=2).stderr


def test_without_keys(call, registry, keys, tmp_path):
    name = f"{registry.address}/os/keyless:1"
    call("sign", name, "--key", keys / "a.key")
    who = ["--certificate-identity", "me@example.org", "--certificate-oidc-issuer", "https://i.example.org"]
    (tmp_path / "root.json").write_text("{}")
    told = call("verify", name, *who, "--trusted-root", tmp_path / "root.json", code=27).stderr
    assert "not a trusted root" in told
    if not ROOT.exists():
        pytest.skip("there is no trusted root here")
    told = call("verify", name, *who, "--trusted-root", ROOT, code=20).stderr
    assert "it has no certificate" in told
    assert "by a plain key" in told


@pytest.mark.parametrize("verb", ["sign", "verify", "verify-attestation"])
def test_only_what_is_in_a_registry(call, keys, verb):
    told = call(verb, "localhost/web:1", "--key", keys / "a.key", code=1).stderr
    assert "keelboot push localhost/web:1 docker://HOST/NAME:TAG" in told


@pytest.mark.parametrize("words", [["-a", "x"], ["-a", "=x"], ["-a", "x=1", "-a", "x=2"]])
def test_annotations(call, registry, keys, words):
    call("sign", f"{registry.address}/os/web:1", "--key", keys / "a.key", *words, code=2)


def test_attestations(call, registry, keys, tmp_path):
    name = f"{registry.address}/os/attested:1"
    file = tmp_path / "p.json"
    file.write_text('{"buildDefinition": {}}')
    words = ["--key", keys / "a.key", "--predicate", file, "--type", "slsaprovenance1"]
    call("attest", name, *words, "--dry-run")
    trusted = ["--key", keys / "a.pub", "--type", "slsaprovenance1"]
    assert "is not attested" in call("verify-attestation", name, *trusted, code=20).stderr
    call("attest", name, *words)
    assert "https://slsa.dev/provenance/v1" in call("verify-attestation", name, *trusted).stdout
    told = json.loads(call("verify-attestation", name, *trusted, "--json").stdout)
    assert [one["predicate"] for one in told["attestations"]] == [{"buildDefinition": {}}]
    assert "is not attested" in call("verify-attestation", name, "--key", keys / "a.pub", code=20).stderr
    file.write_text("not JSON")
    assert "not JSON" in call("attest", name, *words, code=1).stderr
    file.write_text(json.dumps({"a": "x" * 1_000_000}))
    assert "are verified" in call("attest", name, *words, code=1).stderr
    assert "there is no type" in call("attest", name, *words[:-1], "slsa", code=1).stderr


def test_sbom(call, registry, tmp_path):
    name = f"{registry.address}/os/listed:1"
    printed = json.loads(call("sbom", f"oci:{registry.layout}").stdout)
    assert [one["name"] for one in printed["packages"]][1:] == ["base-files"]
    call("sbom", f"oci:{registry.layout}", "--attach", code=1)
    file = tmp_path / "bom.json"
    call("sbom", name, "--format", "cyclonedx", "-o", file, "--attach", "--dry-run")
    assert not file.exists()
    told = json.loads(call("sbom", name, "--format", "cyclonedx", "-o", file, "--attach", "--json").stdout)
    assert json.loads(file.read_bytes())["bomFormat"] == "CycloneDX"
    manifest = json.loads(registry.manifests[told["referrer"]][1])
    assert (manifest["artifactType"], manifest["subject"]["digest"]) == (
        "application/vnd.cyclonedx+json", told["digest"],
    )  # fmt: skip
    assert registry.blobs[manifest["layers"][0]["digest"]] == file.read_bytes()


def test_push_and_sign(call, registry, keys):
    name = f"{registry.address}/os/pushed:2"
    words = ["push", f"oci:{registry.layout}", name, "--sign", keys / "a.key", "-a", "version=7", "--json"]
    told = json.loads(call(*words).stdout)
    assert told["signed"]["digest"] == told["digest"]
    seen = json.loads(call("verify", name, "--key", keys / "a.pub", "--json").stdout)
    assert seen["signatures"][0]["annotations"]["version"] == "7"
    assert "signed" not in json.loads(call(*words, "--dry-run").stdout)
    assert "--sign" in call("push", f"oci:{registry.layout}", name, "-a", "version=7", code=2).stderr
    before = len(registry.seen)
    assert "public key" in call("push", f"oci:{registry.layout}", name, "--sign", keys / "a.pub", code=1).stderr
    assert len(registry.seen) == before, "it asked the registry before it had a key"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["-t", "r.example.org/web", "--sign", "a.key"], 2, "--push"),
        (["--push"], 2, "it has no name"),
        (["-t", "localhost/web", "--push"], 1, "does not say to which registry"),
        (["-t", "r.example.org/web", "--push", "--sign", "a.pub"], 1, "public key"),
    ],
)
def test_build_that_cannot_be_pushed_or_signed_is_not_begun(call, keys, tmp_path, words, code, told):
    whole = [str(keys / word) if word.endswith((".key", ".pub")) else word for word in words]
    assert told in call("build", *whole, "--engine", "podman", tmp_path, code=code).stderr
