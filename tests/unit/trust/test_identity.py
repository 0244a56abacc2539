"""Names and scopes, by the tables of container-libs (image/signature/policy_reference_match_test.go and others)."""

import pytest

from keelboot.image.digest import Digest
from keelboot.image.reference import Reference
from keelboot.image.refusal import Refused
from keelboot.registry.name import Name
from keelboot.trust.identity import (
    Asked,
    ExactReference,
    ExactRepository,
    MatchExact,
    MatchRepoDigestOrExact,
    MatchRepository,
    Named,
    RemapIdentity,
    asked,
    parse_identity,
    parse_named,
)
from keelboot.trust.scopes import check_scope, scopes

AT = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
OTHER = "@sha256:" + "0" * 64
RHEL, BARE_RHEL = "registry.access.redhat.com/rhel7/rhel:7.2-3", "registry.access.redhat.com/rhel7/rhel"

EXACT = [
    ("busybox:latest", "busybox:latest", True),
    (RHEL, RHEL, True),
    ("busybox" + AT, "busybox" + AT, True),
    ("library/busybox:latest", "busybox:latest", True),
    ("docker.io/library/busybox:latest", "busybox:latest", True),
    ("index.docker.io/library/busybox:latest", "busybox:latest", True),
    ("library/busybox" + AT, "busybox" + AT, True),
    ("busybox:latest", "busybox:notlatest", False),
    ("busybox:latest", "notbusybox:latest", False),
    ("busybox:latest", "hostname/library/busybox:notlatest", False),
    ("busybox:latest", RHEL, False),
    ("busybox" + AT, "notbusybox" + AT, False),
    ("busybox:latest", "busybox" + AT, False),
    ("busybox" + AT, "busybox" + OTHER, False),
    ("busybox", "busybox:latest", False),
    ("busybox", "busybox" + AT, False),
    ("busybox", "busybox", False),
    ("busybox:latest" + AT, "busybox:latest" + AT, True),
    ("busybox:latest" + AT, "busybox:latest" + OTHER, False),
    ("busybox:latest" + AT, "busybox:notlatest" + AT, False),
    ("busybox:latest" + AT, "busybox" + AT, False),
    ("busybox:latest" + AT, "busybox:latest", False),
    ("example.org:5000/web:1", "example.org/web:1", False),
    ("example.org/web:1", "www.example.org/web:1", False),
    ("example.org/web:1", "example.org/web/web:1", False),
]
REPOSITORY = [
    ("busybox:latest", "busybox:latest", True),
    (RHEL, RHEL, True),
    ("busybox" + AT, "busybox" + AT, True),
    ("docker.io/library/busybox:latest", "busybox:latest", True),
    ("busybox:latest", "busybox:notlatest", True),
    (RHEL + "tagsuffix", RHEL, True),
    ("busybox:latest", "busybox" + AT, True),
    ("busybox" + AT, "busybox" + OTHER, True),
    ("busybox", "busybox:notlatest", True),
    (RHEL, BARE_RHEL, True),
    ("busybox", "busybox" + AT, True),
    ("docker.io/library/busybox", "busybox", True),
    ("busybox:latest", "notbusybox:latest", False),
    ("hostname/library/busybox:latest", "busybox:notlatest", False),
    ("busybox:latest", RHEL, False),
    ("busybox" + AT, "notbusybox" + AT, False),
    ("busybox:latest" + AT, "busybox:notlatest" + AT, True),
    ("busybox:latest" + AT, "busybox:latest", True),
]
BY_DIGEST = [
    ("busybox:latest", "busybox:notlatest", False),
    (RHEL + "tagsuffix", RHEL, False),
    ("busybox", "busybox:latest", False),
    ("busybox:latest", "busybox", False),
    ("busybox", "busybox" + AT, False),
    ("busybox" + AT, "busybox", False),
    (RHEL, BARE_RHEL, False),
    ("busybox", "busybox", False),
    ("busybox:latest", "busybox" + AT, False),
    ("busybox" + AT, "busybox:latest", True),
    ("busybox" + AT, "busybox" + OTHER, True),
    ("busybox:latest" + AT, "busybox:latest", False),
    ("busybox:latest", "busybox:latest" + AT, False),
    ("busybox:latest" + AT, "busybox:latest" + OTHER, False),
]


def image(text: str) -> Asked:
    return Asked("docker", parse_named(text))


@pytest.mark.parametrize(("one", "other", "result"), EXACT)
def test_exact(one, other, result):
    for left, right in ((one, other), (other, one)):
        signed = parse_named(right)
        assert MatchExact().accepts(signed, image(left)) == result
        if not parse_named(left).bare:
            assert ExactReference(parse_named(left)).accepts(signed, Asked("dir", None, "/x")) == result
        if result:
            assert MatchRepoDigestOrExact().accepts(signed, image(left))


@pytest.mark.parametrize(("one", "other", "result"), REPOSITORY)
def test_repository(one, other, result):
    for left, right in ((one, other), (other, one)):
        signed = parse_named(right)
        assert MatchRepository().accepts(signed, image(left)) == result
        assert ExactRepository(parse_named(left)).accepts(signed, Asked("dir", None, "/x")) == result
        if not result:
            assert not MatchRepoDigestOrExact().accepts(signed, image(left))


@pytest.mark.parametrize(("one", "other", "result"), BY_DIGEST)
def test_repository_by_digest_or_exact(one, other, result):
    assert MatchRepoDigestOrExact().accepts(parse_named(other), image(one)) == result


@pytest.mark.parametrize(
    "identity", [MatchExact(), MatchRepoDigestOrExact(), MatchRepository(), RemapIdentity("a", "b")]
)
def test_images_without_a_name_match_none(identity):
    assert not identity.accepts(parse_named("busybox:latest"), Asked("dir", None, "/x"))


@pytest.mark.parametrize(
    ("prefix", "signed_prefix", "asked_for", "signed", "result"),
    [
        ("mirror.example", "vendor.example", "mirror.example/ns/image:tag", "vendor.example/ns/image:tag", True),
        ("mirror.example", "vendor.example", "mirror.example/ns/image:tag", "vendor.example/ns/image:other", False),
        ("mirror.example", "vendor.example", "mirror.example/ns/image" + AT, "vendor.example/ns/image:other", True),
        ("mirror.example", "vendor.example", "mirror.example/ns/image:tag", "mirror.example/ns/image:tag", False),
        ("mirror.example", "vendor.example", "elsewhere.example/image:tag", "elsewhere.example/image:tag", True),
        ("mirror.example/ns", "vendor.example/a/b", "mirror.example/ns/image:1", "vendor.example/a/b/image:1", True),
        ("mirror.example/ns", "vendor.example", "mirror.example/ns2/image:1", "vendor.example/image:1", False),
        ("mirror.example/ns", "vendor.example", "mirror.example/ns2/image:1", "mirror.example/ns2/image:1", True),
        ("example.com:5000", "vendor.example", "example.com:50000/image:1", "vendor.example/image:1", False),
        ("example.com", "vendor.example", "example.com:5000/image:1", "vendor.example/image:1", False),
        ("docker.io/library/busybox", "vendor.example/box", "busybox:1", "vendor.example/box:1", True),
        ("docker.io/library/busybox", "vendor.example", "busybox:1", "vendor.example:1", False),
    ],
)
def test_remap(prefix, signed_prefix, asked_for, signed, result):
    assert RemapIdentity(prefix, signed_prefix).accepts(parse_named(signed), image(asked_for)) == result


@pytest.mark.parametrize(
    "text",
    ["", "UPPERCASE", "a" * 64, "example.org/", "/web", "web:", "web@", "web@sha256:0", "example.org/Web", "a//b",
     "web:tag:tag", "https://example.org/web", "web:" + "x" * 129, "web ", "we\nb", "web\0", "..", "a/" * 200 + "b"],
)  # fmt: skip
def test_what_is_no_name(text):
    with pytest.raises(Refused):
        parse_named(text)


def test_what_was_asked_for():
    for text, named in (
        ("docker://example.org/web", "example.org/web:latest"),
        ("docker://example.org/web:1", "example.org/web:1"),
        ("docker://busybox", "docker.io/library/busybox:latest"),
        ("docker://example.org/web:1" + AT, "example.org/web" + AT),
    ):
        reference = Reference.parse(text)
        assert str(asked(reference, Name.parse(reference.location))) == named
    with pytest.raises(ValueError, match="not in a registry"):
        asked(Reference.parse("oci:/x"), Name("a", "b"))


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (None, "it is not an object"),
        ({}, "it.type is None"),
        ({"type": "any"}, "it.type is 'any'"),
        ({"type": ["matchExact"]}, "it.type is"),
        ({"type": "matchExact", "more": 1}, "it.more"),
        ({"type": "exactReference"}, "it.dockerReference is missing"),
        ({"type": "exactReference", "dockerReference": "example.org/web"}, "it.dockerReference has neither"),
        ({"type": "exactReference", "dockerReference": "UP"}, "it.dockerReference: "),
        ({"type": "exactRepository", "dockerRepository": ""}, "it.dockerRepository"),
        ({"type": "remapIdentity", "prefix": "a"}, "it.signedPrefix is missing"),
        *(
            ({"type": "remapIdentity", "prefix": "a", "signedPrefix": text}, "it.signedPrefix")
            for text in ("", "repo_with_underscores", "example.com/", "example.com/UP", "example.com/repo:tag",
                         "example.com/repo/", "example.com/repo" + AT)
        ),
    ],
)  # fmt: skip
def test_signed_identity_is_refused(value, path):
    with pytest.raises(Refused, match=path.replace("[", r"\[")):
        parse_identity(value, "it")


def test_signed_identity():
    assert parse_identity({"type": "matchRepository"}, "") == MatchRepository()
    named = parse_identity({"type": "exactReference", "dockerReference": "busybox:1"}, "")
    assert named == ExactReference(Named("docker.io/library/busybox", "1"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("example.com/ns/repo", ["example.com/ns/repo", "example.com/ns", "example.com", "*.com"]),
        ("localhost/repo", ["localhost/repo", "localhost"]),
        ("notlocalhost/repo", ["docker.io/notlocalhost/repo", "docker.io/notlocalhost", "docker.io", "*.io"]),
        ("repo", ["docker.io/library/repo", "docker.io/library", "docker.io", "*.io"]),
        (
            "yet.another.example.com:8443/ns/repo",
            ["yet.another.example.com:8443/ns/repo", "yet.another.example.com:8443/ns", "yet.another.example.com:8443",
             "*.another.example.com", "*.example.com", "*.com"],
        ),
    ],
)  # fmt: skip
def test_scopes_of_names(text, expected):
    for version in (":tag", AT):
        assert scopes(image(text + version)) == [expected[0] + version, *expected, ""]


def test_scopes_of_paths():
    assert scopes(Asked("oci", None, "/a/b c")) == ["/a/b c", "/a", ""]
    assert scopes(Asked("docker-archive", None, "/a")) == [""]
    with pytest.raises(ValueError, match="neither a tag"):
        scopes(Asked("docker", Named("a/b", None, None)))


@pytest.mark.parametrize(
    ("transport", "scope", "good"),
    [
        ("docker", "", True),
        ("docker", "example.org", True),
        ("docker", "example.org:5000/a/b", True),
        ("docker", "example.org/a:tag", True),
        ("docker", "example.org/a" + AT, True),
        ("docker", "*.example.org", True),
        ("docker", "example*.org", False),
        ("docker", "*.*.org", False),
        ("docker", "*.example.org:5000", False),
        ("docker", "*", False),
        ("docker", "https://example.org", False),
        ("docker", "example.org/", False),
        ("docker", " example.org", False),
        ("oci", "/a/b", True),
        ("oci", "/", False),
        ("oci", "a", False),
        ("dir", "/a/../b", False),
        ("dir", "/a/", False),
        ("dir", "//a", False),
        ("docker-archive", "/a", False),
        ("containers-storage", "[overlay@/var/lib/containers/storage]", True),
        ("containers-storage", "docker.io/library/busybox", False),
    ],
)
def test_which_scopes_there_are(transport, scope, good):
    if good:
        check_scope(transport, scope, "it")
    else:
        with pytest.raises(Refused, match="it: "):
            check_scope(transport, scope, "it")


def test_digest_algorithm_is_part_of_the_name():
    assert Named("a/b", None, Digest("sha256", "0" * 64)) != Named("a/b", None, Digest("sha512", "0" * 128))
