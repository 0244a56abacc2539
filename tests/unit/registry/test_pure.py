"""What is decided without a network: names, origins, redirects, challenges, pauses, and files of settings."""

import base64
import json
from pathlib import Path

import pytest

from keelboot.failure import AccessDenied, Failure
from keelboot.image.refusal import Refused
from keelboot.registry.authfile import Credentials, Helper, parse_auth_file
from keelboot.registry.challenge import Basic, Bearer, may_ask, parse_challenges, trusts
from keelboot.registry.configuration import Configuration, parse_configuration
from keelboot.registry.name import Name
from keelboot.registry.origin import Origin, redirected
from keelboot.registry.patience import Patience, retry_after
from keelboot.registry.places import Places, Proxies

BASIC = base64.b64encode(b"me:secret").decode()


@pytest.mark.parametrize(
    ("location", "full"),
    [
        ("debian", "docker.io/library/debian"),
        ("os/web", "docker.io/os/web"),
        ("docker.io/debian", "docker.io/library/debian"),
        ("index.docker.io/os/web", "docker.io/os/web"),
        ("localhost/web", "localhost/web"),
        ("example.org:5000/a/b/c", "example.org:5000/a/b/c"),
        ("[::1]:5000/web", "[::1]:5000/web"),
    ],
)
def test_full_names(location, full):
    assert str(Name.parse(location)) == full


def test_alias_is_no_loop():
    assert str(Name.parse("a", {"a": "a"})) == "docker.io/library/a"
    assert str(Name.parse("a", {"a": "b", "b": "a"})) == "docker.io/library/b"


@pytest.mark.parametrize(
    ("url", "target", "result"),
    [
        ("https://a.org/x", "/y", "https://a.org/y"),
        ("https://a.org/x", "//b.org/y", "https://b.org/y"),
        ("https://a.org/x", "https://b.org/y#part", "https://b.org/y"),
        ("http://a.org/x", "https://b.org/y", "https://b.org/y"),
        ("http://127.0.0.1/x", "http://127.0.0.2/y", "http://127.0.0.2/y"),
        ("https://a.org/x", "http://a.org/y", None),
        ("https://a.org/x", "https://localhost/", None),
        ("https://a.org/x", "https://a.localhost/", None),
        ("https://a.org/x", "https://127.9.9.9/", None),
        ("https://a.org/x", "https://[::1]/", None),
        ("https://a.org/x", "https://[::ffff:127.0.0.1]/", None),
        ("https://a.org/x", "https://0.0.0.0/", None),
        ("http://127.0.0.1/x", "http://169.254.169.254/", None),
        ("https://a.org/x", "https://169.254.169.254/", None),
        ("https://a.org/x", "https://[fe80::1]/", None),
        ("https://a.org/x", "ftp://b.org/", None),
        ("https://a.org/x", "file:///etc/passwd", None),
        ("https://a.org/x", "https://me@b.org/", None),
        ("https://a.org/x", "https://b.org:0x50/", None),
        ("https://a.org/x", "https://[::1/", None),
        ("https://a.org/x", "https://b.org/\n", None),
        ("https://a.org/x", "https://b.org/\u00e9", None),
        ("https://a.org/x", "", None),
        ("https://a.org/x", "https://b.org/" + "x" * 9000, None),
    ],
)
def test_redirects(url, target, result):
    if result is None:
        with pytest.raises(Refused):
            redirected(url, target)
    else:
        assert redirected(url, target) == result


@pytest.mark.parametrize(
    ("registry", "realm", "trusted", "asked"),
    [
        ("https://a.example.org", "https://a.example.org", True, True),
        ("https://a.example.org", "https://a.example.org:8443", True, True),
        ("https://a.example.org", "http://a.example.org", False, False),
        ("http://a.example.org", "http://a.example.org", True, True),
        ("https://a.example.org", "https://example.org", True, True),
        ("http://a.example.org", "https://example.org", False, True),
        ("https://a.example.org", "https://org", False, True),
        ("https://a.example.org", "https://b.example.org", False, True),
        ("https://a.example.org", "https://aexample.org", False, True),
        ("https://a.example.org", "https://a.example.org.evil.net", False, True),
        ("https://a.example.org", "http://evil.net", False, False),
        ("https://10.0.0.1", "https://0.1", False, True),
        ("https://registry-1.docker.io", "https://auth.docker.io", True, True),
        ("https://evil.net", "https://auth.docker.io", False, True),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001", True, True),
        ("http://127.0.0.1:5000", "http://127.0.0.2:5001", False, False),
    ],
)
def test_token_servers(registry, realm, trusted, asked):
    assert trusts(Origin.of(registry), Origin.of(realm)) is trusted
    assert may_ask(Origin.of(registry), Origin.of(realm)) is asked


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        (['Basic realm="x"'], Basic()),
        (["Basic"], Basic()),
        (['bearer realm="https://a/t",service="s", scope="repository:x:pull,push"'],
         Bearer("https://a/t", "s", "repository:x:pull,push")),
        (['Basic realm="x", Bearer realm="https://a/t"'], Bearer("https://a/t", None, None)),
        (['Basic realm="x"', 'Bearer realm="https://a/t"'], Bearer("https://a/t", None, None)),
        (['Negotiate, Basic realm="a \\"quoted\\", one"'], Basic()),
        (["Bearer realm=https://a/t , service = s"], Bearer("https://a/t", "s", None)),
        (['Bearer service="s"'], None),
        (["Negotiate"], None),
        ([], None),
        ([""], None),
        (['===,,,"""'], None),
        (['Bearer realm="' + "x" * 100_000], None),
    ],
)  # fmt: skip
def test_challenges(headers, challenge):
    assert parse_challenges(headers) == challenge


def test_token_request_keeps_the_query():
    asked = Bearer("https://a/t?account=x", "the service", None).url(("repository:os/web:pull",))
    assert asked == "https://a/t?account=x&service=the+service&scope=repository%3Aos%2Fweb%3Apull"


def test_pauses_grow_and_are_bounded():
    patience = Patience()
    pauses = [patience.pause(failures, None, 1.0) for failures in range(1, 12)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert patience.pause(3, None, 0.0) == 1
    assert patience.pause(1, 5.0, 1.0) == 5
    assert patience.pause(1, 1e9, 1.0) == 60


@pytest.mark.parametrize("value", [None, "", "x", "-1", "1.5", "\u0661", "Tue, 99 Nov 2023 22:13:30 GMT", "0" * 13])
def test_retry_after_that_says_nothing(value):
    assert retry_after(value, 0.0) is None


CONF = """
unqualified-search-registries = ["docker.io"]
[[registry]]
prefix = "example.org/os"
location = "own.example.org/images"
mirror-by-digest-only = false
[[registry.mirror]]
location = "first.example.org"
insecure = true
[[registry.mirror]]
location = "tags.example.org/x"
pull-from-mirror = "tag-only"
[[registry.mirror]]
location = "digests.example.org/x"
pull-from-mirror = "digest-only"
[[registry]]
prefix = "*.wild.org"
location = "here.example.org"
[[registry]]
prefix = "a.wild.org"
blocked = true
[[registry]]
location = "plain.example.org"
insecure = true
"""


def places(text, name, *, by_digest=False):
    configuration = parse_configuration([("x.conf", text.encode())])
    return [
        (str(place.name), place.insecure, place.mirror)
        for place in configuration.places(Name.parse(name), by_digest=by_digest)
    ]


@pytest.mark.parametrize("by_digest", [False, True])
def test_mirrors(by_digest):
    third = "digests" if by_digest else "tags"
    assert places(CONF, "example.org/os/web", by_digest=by_digest) == [
        ("first.example.org/web", True, True),
        (f"{third}.example.org/x/web", False, True),
        ("own.example.org/images/web", False, False),
    ]


def test_prefixes():
    assert places(CONF, "example.org/osx/web") == [("example.org/osx/web", False, False)]
    assert places(CONF, "b.wild.org:5000/web") == [("here.example.org/web", False, False)]
    assert places(CONF, "wild.org/web") == [("wild.org/web", False, False)]
    assert places(CONF, "plain.example.org/web") == [("plain.example.org/web", True, False)]
    with pytest.raises(AccessDenied):
        places(CONF, "a.wild.org/web")


def test_later_files_replace():
    first = '[[registry]]\nlocation="a.org"\nblocked=true\n[aliases]\n"a"="x.org/a"\n"b"="x.org/b"\n'
    second = '[[registry]]\nlocation="a.org"\n[aliases]\n"a"="y.org/a"\n'
    both = parse_configuration([("1", first.encode()), ("2", second.encode())])
    assert both.aliases == {"a": "y.org/a", "b": "x.org/b"}
    assert [str(place.name) for place in both.places(Name("a.org", "w"), by_digest=False)] == ["a.org/w"]
    assert parse_configuration([]) == Configuration()


@pytest.mark.parametrize(
    "text",
    [
        "[[registry",
        "registry = 1",
        "[[registry]]\n",
        "[[registry]]\nlocation = 1",
        '[[registry]]\nlocation = "http://a.org"',
        '[[registry]]\nlocation = "a.org"\ninsecure = "yes"',
        '[[registry]]\nlocation = "a.org"\n[[registry.mirror]]\n',
        '[[registry]]\nlocation = "a.org"\n[[registry.mirror]]\nlocation = "b.org"\npull-from-mirror = "some"',
        '[registries.block]\nregistries = ["a.org"]',
        "aliases = 1",
        "[aliases]\na = 1",
        "\udcff",
    ],
)
def test_configuration_that_cannot_be_used(text):
    with pytest.raises(Failure, match=r"cannot use x\.conf"):
        parse_configuration([("x.conf", text.encode(errors="surrogateescape"))])


def auth_file(**members):
    return parse_auth_file("auth.json", json.dumps(members).encode())


def test_longest_key_counts():
    def entry(user):
        return {"auth": base64.b64encode(f"{user}:p".encode()).decode()}

    file = auth_file(
        auths={"a.org": entry("host"), "a.org/os": entry("os"), "a.org/os/web": entry("web"), "b.org": {}},
        credHelpers={"c.org": "helper"},
    )
    users = {
        name: found.user
        for name in ("a.org/x", "a.org/os/db", "a.org/os/web", "a.org/osx", "b.org/x", "a.org:5000/x")
        if isinstance(found := file.find(Name.parse(name)), Credentials)
    }
    assert users == {"a.org/x": "host", "a.org/os/db": "os", "a.org/os/web": "web", "a.org/osx": "host"}
    assert file.find(Name.parse("c.org/x")) == Helper("helper", "c.org")


@pytest.mark.parametrize("key", ["docker.io", "index.docker.io", "https://index.docker.io/v1/"])
def test_docker_hub_has_several_names(key):
    found = auth_file(auths={key: {"auth": BASIC}}).find(Name.parse("debian"))
    assert isinstance(found, Credentials)
    assert found.user == "me"
    assert found.basic == f"Basic {BASIC}"


def test_secrets_are_not_shown():
    found = auth_file(auths={"a.org": {"auth": BASIC, "identitytoken": "secret"}}).find(Name.parse("a.org/x"))
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", '{"auths": 1}', '{"auths": {"a": {"auth": "?"}}}', '{"auths": {"a": {"auth": "bm9jb2xvbg=="}}}',
        '{"auths": {}, "auths": {}}', '{"Auths": {}}', '{"credHelpers": {"a": "../x"}}', '{"credsStore": "-x"}',
        '{"auths": {"a": {"auth": 1}}}', '{"credHelpers": {"a": 1}}',
    ],
)  # fmt: skip
def test_auth_file_that_cannot_be_used(text):
    with pytest.raises(Failure, match=r"cannot use the credentials in auth\.json"):
        parse_auth_file("auth.json", text.encode())


def test_places_of_a_user():
    found = Places.usual({"HOME": "/home/me", "XDG_RUNTIME_DIR": "/run/user/7"}, uid=7)
    assert [*map(str, found.auth_files)] == [
        "/run/user/7/containers/auth.json",
        "/home/me/.config/containers/auth.json",
        "/home/me/.docker/config.json",
    ]
    assert [*map(str, found.certificates)] == [
        "/home/me/.config/containers/certs.d",
        "/etc/containers/certs.d",
        "/etc/docker/certs.d",
    ]
    assert found.named == ()


def test_places_of_a_host():
    """A service has neither HOME nor a runtime directory."""
    found = Places.usual({}, uid=0)
    assert [*map(str, found.auth_files)] == [
        "/etc/ostree/auth.json",
        "/run/ostree/auth.json",
        "/usr/lib/ostree/auth.json",
        "/run/containers/0/auth.json",
        "/root/.config/containers/auth.json",
        "/root/.docker/config.json",
    ]


def test_named_places_are_the_only_ones():
    environment = {"REGISTRY_AUTH_FILE": "/a.json", "CONTAINERS_REGISTRIES_CONF": "/r.conf", "XDG_CONFIG_HOME": "/c"}
    found = Places.usual(environment, uid=0)
    assert found.auth_files == (Path("/a.json"),)
    assert found.configurations == (Path("/r.conf"),)
    assert found.drop_ins == ()
    assert found.named == (Path("/r.conf"), Path("/a.json"))


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxy"),
    [
        ("https://a.org", "", "s"),
        ("http://a.org", "", "h"),
        ("http://localhost:5000", "", None),
        ("https://[::1]", "", None),
        ("https://a.org", "*", None),
        ("https://a.org", "b.org, a.org", None),
        ("https://x.a.org", "a.org", None),
        ("https://x.a.org", ".a.org", None),
        ("https://xa.org", "a.org", "s"),
        ("https://a.org:5000", "a.org:5000", None),
        ("https://a.org:5001", "a.org:5000", "s"),
        ("https://10.1.2.3", "10.0.0.0/8", None),
        ("https://11.1.2.3", "10.0.0.0/8", "s"),
    ],
)
def test_proxies(url, no_proxy, proxy):
    environment = {"http_proxy": "h", "HTTPS_PROXY": "s", "NO_PROXY": no_proxy}
    assert Proxies.usual(environment).choose(Origin.of(url)) == proxy
