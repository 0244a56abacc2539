"""Policies are read strictly; what is wrong is told with its place; the most specific scope decides."""

import base64
import json
from datetime import timedelta

import pytest

from keelboot.failure import InvalidSettings
from keelboot.image.refusal import Refused
from keelboot.trust.certificates import FulcioRule, PkiRule
from keelboot.trust.containerspolicy import parse_policy, read_policy
from keelboot.trust.identity import Asked, MatchExact, MatchRepoDigestOrExact, MatchRepository, parse_named
from keelboot.trust.keyless import KeylessRule
from keelboot.trust.policy import (
    AcceptAnything,
    Both,
    Claims,
    Reject,
    Signed,
    TrustedKey,
    Unsupported,
    key_policy,
)
from keelboot.trust.trustedroot import parse_trusted_root
from keelboot.trust.trustpolicy import parse_trust_policy, read_trust_policy
from unit.trust.certificates import Authority
from unit.trust.test_keyless import Sigstore

REJECT, ANYTHING = {"type": "reject"}, {"type": "insecureAcceptAnything"}


def image(text: str) -> Asked:
    return Asked("docker", parse_named(text))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def files(keys, authority):
    """The files that policies name."""
    return {
        "/a.pub": keys[0].public.pem.encode(),
        "/b.pub": keys[1].public.pem.encode(),
        "/ab.pub": (keys[0].public.pem + keys[1].public.pem).encode(),
        "/ca.pem": authority.pem,
        "/bad.pub": b"x",
        "/root.json": Sigstore().trusted_root(),
    }


@pytest.fixture
def containers(files):
    def parse(document, **more):
        return parse_policy(json.dumps(document).encode(), "policy.json", _reader({**files, **more}))

    return parse


@pytest.fixture
def own(files):
    def parse(document, **more):
        return parse_trust_policy(json.dumps(document).encode(), "trust.json", _reader({**files, **more}))

    return parse


def _reader(files):
    def read(name):
        if name not in files:
            raise FileNotFoundError(2, "No such file or directory", name)
        return files[name]

    return read


def test_the_most_specific_scope_decides(containers):
    policy = containers(
        {
            "default": [REJECT],
            "transports": {
                "docker": {
                    "": [ANYTHING, ANYTHING],
                    "example.org": [ANYTHING],
                    "*.org": [ANYTHING, REJECT],
                    "example.org/os": [REJECT, REJECT],
                    "example.org/os/web": [REJECT, ANYTHING],
                    "example.org/os/web:1": [REJECT, REJECT, REJECT],
                },
                "dir": {"/a/b": [ANYTHING], "": [REJECT, ANYTHING]},
            },
        }
    )
    lengths = {
        "example.org/os/web:1": 'transports["docker"]["example.org/os/web:1"]',
        "example.org/os/web:2": 'transports["docker"]["example.org/os/web"]',
        "example.org/os/web/x:1": 'transports["docker"]["example.org/os/web"]',
        "example.org/os/webs:1": 'transports["docker"]["example.org/os"]',
        "example.org/x:1": 'transports["docker"]["example.org"]',
        "example.org:5000/x:1": 'transports["docker"]["*.org"]',
        "a.b.org/x:1": 'transports["docker"]["*.org"]',
        "example.com/x:1": 'transports["docker"][""]',
    }
    assert {name: policy.ruling(image(name)).where for name in lengths} == {
        name: f"policy.json: {where}" for name, where in lengths.items()
    }
    assert policy.ruling(Asked("dir", None, "/a/b/c")).requirements == (AcceptAnything(),)
    assert policy.ruling(Asked("dir", None, "/a/bc")).requirements == (Reject(), AcceptAnything())
    assert policy.ruling(Asked("oci", None, "/a")).where == "policy.json: default"


def sigstore(**members):
    return {"type": "sigstoreSigned", **members}


def one(policy):
    (requirement,) = policy.default
    return requirement


def test_where_keys_come_from(containers, keys, files):
    a, b = (TrustedKey(key.public) for key in keys[:2])
    for members, expected in (
        ({"keyPath": "/a.pub"}, (a,)),
        ({"keyPaths": ["/a.pub", "/b.pub"]}, (a, b)),
        ({"keyData": b64(files["/a.pub"])}, (a,)),
        ({"keyDatas": [b64(files["/b.pub"]), b64(files["/a.pub"])]}, (b, a)),
        ({"keyPaths": ["/a.pub", "/a.pub"]}, (a,)),
    ):
        requirement = one(containers({"default": [sigstore(**members)]}))
        assert requirement == Signed(expected, MatchRepoDigestOrExact())
    logged = one(containers({"default": [sigstore(keyPath="/a.pub", rekorPublicKeyPath="/b.pub")]}))
    assert logged.log_keys == (keys[1].public,)
    exact = one(containers({"default": [sigstore(keyPath="/a.pub", signedIdentity={"type": "matchExact"})]}))
    assert exact.identity == MatchExact()


def test_certificates(containers, authority, keys):
    fulcio = {"caPath": "/ca.pem", "oidcIssuer": "https://issuer", "subjectEmail": "me@example.org"}
    requirement = one(containers({"default": [sigstore(fulcio=fulcio, rekorPublicKeyPath="/a.pub")]}))
    assert requirement.certificate == FulcioRule((authority.der,), "https://issuer", "me@example.org")
    assert requirement.log_keys == (keys[0].public,)
    pki = {"caRootsData": b64(authority.pem), "subjectHostname": "signer.example.org"}
    requirement = one(containers({"default": [sigstore(pki=pki)]}))
    assert requirement.certificate == PkiRule((authority.der,), (), None, "signer.example.org")


def test_gpg_is_read_and_never_met(containers):
    gpg = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/keys/ring.gpg"}
    layer = {"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}
    for value in (gpg, {**gpg, "signedIdentity": {"type": "matchRepository"}}, layer):
        assert isinstance(one(containers({"default": [value]})), Unsupported)


KEY = {"keyPath": "/a.pub"}
FULCIO = {"caPath": "/ca.pem", "oidcIssuer": "i", "subjectEmail": "m"}
PKI = {"caRootsPath": "/ca.pem", "subjectEmail": "m"}


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ([], "the document is not an object"),
        ({}, "default is missing"),
        ({"default": []}, "default is empty"),
        ({"default": None}, "default is not a list"),
        ({"default": {}}, "default is not a list"),
        ({"default": [None]}, "default[0] is not an object"),
        ({"default": [{}]}, "default[0].type is None"),
        ({"default": [{"type": "accept"}]}, "default[0].type is 'accept'"),
        ({"default": [{**REJECT, "more": 1}]}, "default[0].more is not known"),
        ({"default": [REJECT, {**ANYTHING, "Type": "x"}]}, "default[1].Type is a misspelt"),
        ({"default": [REJECT], "transport": {}}, "transport is not known"),
        ({"default": [REJECT], "transports": []}, "transports is not an object"),
        ({"default": [REJECT], "transports": None}, "transports is not an object"),
        ({"default": [REJECT], "transports": {"http": {}}}, 'transports["http"]: there is no such'),
        ({"default": [REJECT], "transports": {"docker": []}}, 'transports["docker"] is not an object'),
        ({"default": [REJECT], "transports": {"docker": {"": []}}}, 'transports["docker"][""] is empty'),
        ({"default": [REJECT], "transports": {"docker": {"a b": [REJECT]}}}, 'transports["docker"]["a b"]: '),
        (
            {"default": [REJECT], "transports": {"docker": {"a": [sigstore()]}}},
            'transports["docker"]["a"][0] must have exactly one of',
        ),
        ({"default": [sigstore(**KEY, keyData="x")]}, "2 of these are there"),
        ({"default": [sigstore(keyPath="")]}, "default[0].keyPath is missing"),
        ({"default": [sigstore(keyPath=1)]}, "default[0].keyPath is not a string"),
        ({"default": [sigstore(keyPath="a.pub")]}, "default[0].keyPath is 'a.pub', which is not an absolute"),
        ({"default": [sigstore(keyPath="/no.pub")]}, "default[0].keyPath: /no.pub: No such file"),
        ({"default": [sigstore(keyPath="/bad.pub")]}, "default[0].keyPath: it is not in PEM"),
        ({"default": [sigstore(keyPath="/ab.pub")]}, "default[0].keyPath: it has 2 keys"),
        ({"default": [sigstore(keyPaths=[])]}, "default[0].keyPaths is not a list"),
        ({"default": [sigstore(keyPaths=["/a.pub", 1])]}, "default[0].keyPaths is not a list"),
        ({"default": [sigstore(keyPaths=["/a.pub", "/bad.pub"])]}, "default[0].keyPaths[1]: it is not in PEM"),
        ({"default": [sigstore(keyPaths="/a.pub")]}, "default[0].keyPaths is not a list"),
        ({"default": [sigstore(keyData="bm9uc2Vuc2U=")]}, "default[0].keyData: it is not in PEM"),
        ({"default": [sigstore(keyData="!")]}, "default[0].keyData is not base64"),
        ({"default": [sigstore(**KEY, signedIdentity=None)]}, "default[0].signedIdentity is not an object"),
        ({"default": [sigstore(**KEY, signedIdentity={"type": "x"})]}, "default[0].signedIdentity.type"),
        (
            {"default": [sigstore(**KEY, rekorPublicKeyPath="/b.pub", rekorPublicKeyData="x")]},
            "default[0] may have one of rekorPublicKeyPath",
        ),
        ({"default": [sigstore(fulcio=FULCIO)]}, "default[0] has fulcio, so it must have"),
        ({"default": [sigstore(pki=PKI, rekorPublicKeyPath="/b.pub")]}, "default[0] has pki, so it may not"),
        ({"default": [sigstore(pki={"caRootsPath": "/ca.pem"})]}, "default[0].pki must have subjectEmail"),
        ({"default": [sigstore(pki={**PKI, "caRootsData": "x"})]}, "default[0].pki must have exactly one"),
        ({"default": [sigstore(pki={**PKI, "caRootsPath": "/a.pub"})]}, "pki.caRootsPath: it has a public key"),
        (
            {"default": [sigstore(fulcio={**FULCIO, "caData": "x"}, rekorPublicKeyPath="/b.pub")]},
            "default[0].fulcio must have exactly one",
        ),
        (
            {"default": [sigstore(fulcio={**FULCIO, "oidcIssuer": ""}, rekorPublicKeyPath="/b.pub")]},
            "default[0].fulcio.oidcIssuer is missing",
        ),
        ({"default": [{"type": "signedBy", "keyPath": "/x"}]}, "default[0].keyType is missing"),
        ({"default": [{"type": "signedBy", "keyType": "PGP", "keyPath": "/x"}]}, "default[0].keyType is 'PGP'"),
        ({"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}, "default[0] must have exactly one"),
    ],
)  # fmt: skip
def test_containers_policy_is_refused(containers, document, where):
    with pytest.raises(Refused) as refusal:
        containers(document)
    assert where in str(refusal.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}',
        b'{"default":[{"type":"reject","type":"insecureAcceptAnything"}]}',
        b'{"default":[{"type":"reject"}]} {}',
        b'\xef\xbb\xbf{"default":[{"type":"reject"}]}',
        b'{"default":[{"type":"reject"}]} // comment',
        b'{"default":' + b"[" * 100,
    ],
)
def test_a_file_that_is_broken_refuses_everything(data):
    with pytest.raises(InvalidSettings, match=r"policy /etc/containers/policy\.json cannot be used"):
        read_policy(data, "/etc/containers/policy.json", _reader({}))
    with pytest.raises(InvalidSettings, match=r"policy trust\.json cannot be used"):
        read_trust_policy(data, "trust.json", _reader({}))


OWN = {
    "version": 1,
    "keys": {
        "a": {"path": "/a.pub", "repositories": ["example.org/os/web"]},
        "b": {"path": "/b.pub"},
    },
    "images": {"example.org/os/web": {"keys": ["a", "b"], "threshold": 2}},
}


KEYLESS = {"trustedRoot": "/root.json", "issuer": "https://issuer.example", "identity": "me@example.org"}


def changed(path, *put):
    document = json.loads(json.dumps(OWN))
    *above, last = path
    place = document
    for name in above:
        place = place[name]
    if put:
        place[last] = put[0]
    else:
        del place[last]
    return document


def test_own_policy(own, keys):
    a, b = TrustedKey(keys[0].public, ("example.org/os/web",)), TrustedKey(keys[1].public)
    policy = own(OWN)
    assert policy.ruling(image("example.org/os/web:1")).requirements == (Signed((a, b), MatchRepository(), 2),)
    assert policy.ruling(image("example.org/other:1")).requirements == (Reject(),)
    assert policy.bindings == {keys[0].public: ("example.org/os/web",)}
    more = {
        "keys": ["b"],
        "logKeys": ["a"],
        "stream": "stable",
        "minimumVersion": "1.2",
        "maxAge": "30d",
        "maxJump": 5,
        "signedIdentity": {"type": "matchExact"},
    }
    ruling = own(changed(["images"], {"example.org": more, "*.test": {"unsigned": True}})).ruling(
        image("example.org/x:1")
    )
    claims = Claims("stable", "1.2", timedelta(days=30))
    assert ruling.requirements == (Signed((b,), MatchExact(), 1, (keys[0].public,), claims=claims),)
    assert ruling.max_jump == 5
    inline = own(changed(["keys", "a"], {"data": keys[2].public.pem}))
    assert inline.ruling(image("example.org/os/web:1")).requirements[0].keys[0] == TrustedKey(keys[2].public)


@pytest.mark.parametrize(
    ("document", "where"),
    [
        (changed(["version"]), "version is missing"),
        (changed(["version"], 2), "version is 2"),
        (changed(["version"], "1"), "version is not"),
        (changed(["more"], 1), "more is not known"),
        (changed(["otherwise"], "accept"), "otherwise is 'accept'"),
        (changed(["otherwise"], None), "otherwise is None"),
        (changed(["keys"], []), "keys is not an object"),
        (changed(["keys", "A"], {"path": "/a.pub"}), 'keys["A"]: a key\'s name'),
        (changed(["keys", "c"], {"path": "/a.pub"}), 'keys["c"] is the same key as keys["a"]'),
        (changed(["keys", "a"], {}), 'keys["a"] must have exactly one of'),
        (changed(["keys", "a", "data"], "x"), 'keys["a"] must have exactly one of'),
        (changed(["keys", "a", "path"], "/no.pub"), 'keys["a"].path: /no.pub: No such file'),
        (changed(["keys", "a", "path"], "/ab.pub"), 'keys["a"].path: it has 2 keys'),
        (changed(["keys", "a", "repositories"], []), 'keys["a"].repositories is empty'),
        (changed(["keys", "a", "repositories"], ["web"]), "its full name without tag is 'docker.io/library/web'"),
        (changed(["keys", "a", "repositories"], ["example.org/web:1"]), "without tag is 'example.org/web'"),
        (changed(["keys", "a", "repositories"], ["example.org/*"]), 'keys["a"].repositories[0]: '),
        (changed(["images"], None), "images is not an object"),
        (changed(["images", ""], {"unsigned": True}), 'images[""]: name a host'),
        (changed(["images", "a b"], {"unsigned": True}), 'images["a b"]: '),
        (changed(["images", "x"], {}), 'images["x"] must have exactly one of'),
        (changed(["images", "x"], {"unsigned": True, "keys": ["a"]}), "must have exactly one of"),
        (changed(["images", "x"], {"unsigned": False}), 'images["x"].unsigned is not true'),
        (changed(["images", "x"], {"unsigned": True, "stream": "s"}), 'images["x"].stream is not known'),
        (changed(["images", "x"], {"keys": []}), 'images["x"].keys is empty'),
        (changed(["images", "x"], {"keys": ["c"]}), "images[\"x\"].keys[0] is 'c', which is no name"),
        (changed(["images", "x"], {"keys": ["a", "a"]}), "for the second time"),
        (changed(["images", "x"], {"keys": ["a"], "threshold": 2}), "threshold is 2, and there are 1"),
        (changed(["images", "x"], {"keys": ["a"], "threshold": 0}), "threshold is 0"),
        (changed(["images", "x"], {"keys": ["a"], "threshold": True}), "threshold is not"),
        (changed(["images", "x"], {"keys": ["a"], "maxAge": "1w"}), "maxAge is '1w'"),
        (changed(["images", "x"], {"keys": ["a"], "maxAge": 30}), "maxAge is not a string"),
        (changed(["images", "x"], {"keys": ["a"], "minimumVersion": "v1"}), "minimumVersion is 'v1'"),
        (changed(["images", "x"], {"keys": ["a"], "stream": ""}), "stream is missing"),
        (changed(["images", "x"], {"keys": ["a"], "maxJump": -1}), "maxJump is not"),
        (changed(["images", "x"], {"keys": ["a"], "logKeys": []}), "logKeys is empty"),
        (changed(["images", "x"], {"keys": ["a"], "Threshold": 2}), "Threshold is a misspelt"),
        (changed(["images", "x"], {"keys": ["a"], "keyless": KEYLESS}), "must have exactly one of"),
        (changed(["images", "x"], {"keyless": KEYLESS, "threshold": 1}), "threshold goes with keys"),
        (changed(["images", "x"], {"keyless": KEYLESS, "logKeys": ["a"]}), "logKeys goes with keys"),
        (changed(["images", "x"], {"keyless": {}}), 'images["x"].keyless.trustedRoot is missing'),
        (changed(["images", "x"], {"keyless": {**KEYLESS, "issuer": ""}}), "keyless.issuer is missing"),
        (changed(["images", "x"], {"keyless": {**KEYLESS, "identity": None}}), "keyless.identity is missing"),
        (changed(["images", "x"], {"keyless": {**KEYLESS, "trustedRoot": "/no"}}), "keyless.trustedRoot: /no: No such"),
        (changed(["images", "x"], {"keyless": {**KEYLESS, "trustedRoot": "/a.pub"}}), "keyless.trustedRoot: it is not"),
    ],
)
def test_own_policy_is_refused(own, document, where):
    with pytest.raises(Refused) as refusal:
        own(document)
    assert where in str(refusal.value)


def test_keyless(own, files):
    bound = {**KEYLESS, "repositories": ["example.org/os/web"]}
    policy = own(changed(["images", "example.org"], {"keyless": bound, "maxAge": "1d"}))
    (requirement,) = policy.ruling(image("example.org/x:1")).requirements
    assert requirement.certificate == KeylessRule(
        parse_trusted_root(files["/root.json"]), "https://issuer.example", "me@example.org", ("example.org/os/web",)
    )
    assert requirement.claims == Claims(max_age=timedelta(days=1))


def test_both_policies_hold(own, containers, keys):
    theirs = containers({"default": [sigstore(keyPath="/a.pub")], "transports": {"docker": {"x.test": [ANYTHING]}}})
    both = Both(own(OWN), theirs)
    web, elsewhere = image("example.org/os/web:1"), image("elsewhere.example/x:1")
    assert len(both.ruling(web).requirements) == 2
    # The binding of the one policy holds for the keys of the other.
    assert both.ruling(web).requirements[1].keys == (TrustedKey(keys[0].public, ("example.org/os/web",)),)
    assert both.ruling(elsewhere).requirements == (Reject(),)
    lenient = Both(own({**OWN, "otherwise": "containers-policy"}), theirs)
    assert lenient.ruling(elsewhere).requirements[0].keys[0].repositories == ("example.org/os/web",)
    assert lenient.ruling(image("x.test/y:1")).requirements == (AcceptAnything(),)
    assert len(lenient.ruling(web).requirements) == 2
    assert both.hash not in (lenient.hash, theirs.hash)


def test_the_hash_names_the_policy_and_its_files(own, files):
    first = own(OWN).hash
    assert own(OWN).hash == first
    assert own({**OWN, "otherwise": "containers-policy"}).hash != first
    other = {"/a.pub": files["/b.pub"], "/b.pub": files["/a.pub"]}
    assert own(OWN, **other).hash != first


def test_a_policy_of_keys_alone(keys):
    web = image("example.org/os/web:1")
    policy = key_policy(tuple(key.public for key in [*keys, keys[0]]), web)
    (requirement,) = policy.ruling(web).requirements
    assert requirement.keys == tuple(TrustedKey(key.public, ("example.org/os/web",)) for key in keys)
    assert policy.ruling(image("example.org/os/web:2")).requirements == (requirement,)
    assert policy.ruling(image("example.org/os/other:1")).requirements == (Reject(),)
    assert key_policy((keys[0].public,), web).hash != policy.hash
    for wrong in (lambda: key_policy((), web), lambda: key_policy((keys[0].public,), Asked("oci", None, "/x"))):
        with pytest.raises(ValueError):
            wrong()
