"""Who gets credentials, and who never does."""

import base64
import json

import pytest

from keelboot.failure import AccessDenied, Failure, InvalidImage, MissingTool, NetworkFailed
from simulated import registry as fault
from simulated.registry import Registry, basic, serving

USER = ("me", "pass:word")
SECRET = base64.b64encode(b":".join(part.encode() for part in USER)).decode()


def auths(reader, **entries):
    """Write credentials, by key, to the user's file."""
    value = {"auths": {key: {"auth": secret} for key, secret in entries.items()}}
    return reader.write("run/containers/1000/auth.json", json.dumps(value))


@pytest.fixture
def private(serve, image):
    """A registry that lets only `USER` in, by basic authentication."""
    started = serve(Registry(user=USER))
    started.add(image, "1")
    return started


@pytest.fixture
def tokens(private):
    """The same, by a token from a server at the same host."""
    private.realm = f"{private.url}/token"
    return private


def test_basic(reader, private, expected):
    auths(reader, **{private.address: SECRET})
    assert reader.read(f"{private.address}/os/web:1") == expected
    assert private.secrets() == [basic(*USER)] * 4
    assert len(private.seen) == 5, "only the first request is made without"


def test_token(reader, tokens, expected):
    auths(reader, **{tokens.address: SECRET})
    assert reader.read(f"{tokens.address}/os/web:1") == expected
    (asked,) = [seen for seen in tokens.seen if seen.path.startswith("/token")]
    assert asked.path == "/token?service=here&scope=repository%3Aos%2Fweb%3Apull"
    assert tokens.secrets() == [basic(*USER), *["Bearer the-token"] * 4]


def test_token_that_runs_out(reader, tokens, expected):
    def other_token(handler, _):
        handler.registry.token = "the-next"
        return handler.reply("blobs", handler.path.rpartition("/")[2])

    auths(reader, **{tokens.address: SECRET})
    tokens.faults["blob"] = [other_token]
    assert reader.read(f"{tokens.address}/os/web:1") == expected
    assert sum(seen.path.startswith("/token") for seen in tokens.seen) == 2


def test_token_for_nobody(reader, tokens, expected):
    tokens.user = ("", "")
    tokens.faults["token"] = [fault.answering(200, body=b'{"access_token": "the-token", "expires_in": 60}')]
    assert reader.read(f"{tokens.address}/os/web:1") == expected


def test_identity_token(reader, tokens, expected):
    entry = {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": USER[1]}
    reader.write("run/containers/1000/auth.json", json.dumps({"auths": {tokens.address: entry}}))
    assert reader.read(f"{tokens.address}/os/web:1") == expected
    (asked,) = [seen for seen in tokens.seen if seen.path.startswith("/token")]
    assert asked.method == "POST"
    assert "Authorization" not in asked.headers


@pytest.mark.parametrize("kind", ["basic", "token"])
def test_wrong_password_names_its_file(reader, private, kind):
    private.realm = f"{private.url}/token" if kind == "token" else None
    wrong = base64.b64encode(b"me:wrong").decode()
    file = auths(reader, **{private.address: wrong})
    with pytest.raises(AccessDenied, match="refuses 'me'") as caught:
        reader.read(f"{private.address}/os/web:1")
    assert str(file) in caught.value.why
    assert f"podman login {private.address}" in caught.value.fix
    assert caught.value.exit_code == 25
    assert "wrong" not in str(caught.value).replace("wrong_password", "")
    assert wrong not in str(caught.value)


def test_no_credentials_names_the_places(reader, private):
    with pytest.raises(AccessDenied, match="no credentials for it") as caught:
        reader.read(f"{private.address}/os/web:1")
    assert "run/containers/1000/auth.json" in caught.value.why
    assert ".docker/config.json" in caught.value.why
    assert private.secrets() == []


def test_forbidden(reader, private):
    auths(reader, **{private.address: SECRET})
    private.faults["manifest"] = [fault.with_headers({}), fault.answering(403)]
    with pytest.raises(AccessDenied):
        reader.read(f"{private.address}/os/web:1")


def test_unknown_scheme(reader, registry):
    registry.faults["manifest"] = [fault.answering(401, {"WWW-Authenticate": "Negotiate"})]
    with pytest.raises(AccessDenied):
        reader.read(f"{registry.address}/os/web:1")


@pytest.mark.parametrize("hosts", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"], ["127.0.0.1"]])
def test_redirects_to_other_hosts_get_nothing(reader, tokens, serve, image, expected, hosts):
    """Not even another port of the same host: others may listen there."""
    auths(reader, **{tokens.address: SECRET})
    large = max(tokens.blobs, key=lambda name: len(tokens.blobs[name]))
    target = ""
    storages = []
    for host in reversed(hosts):
        storage = serve(Registry(host=host))
        storage.add(image)
        storage.faults["blob"] = [fault.redirecting(target)] if target else []
        target = f"{storage.url}/v2/x/blobs/{large}"
        storages.append(storage)
    tokens.faults["blob"] = [*[fault.with_headers({})] * 2, fault.redirecting(target)]
    assert reader.read(f"{tokens.address}/os/web:1") == expected
    for storage in storages:
        assert len(storage.seen) == 1
        assert storage.secrets() == []
        assert "Cookie" not in storage.seen[0].headers


def test_redirected_401_gets_nothing(reader, tokens, serve):
    auths(reader, **{tokens.address: SECRET})
    thief = serve(Registry(host="127.0.0.2", user=("x", "y")))
    tokens.faults["manifest"] = [fault.redirecting(f"{thief.url}/v2/os/web/manifests/1")]
    with pytest.raises(AccessDenied, match="where the registry redirects to"):
        reader.read(f"{tokens.address}/os/web:1")
    assert len(thief.seen) == 1
    assert thief.secrets() == []


def test_redirect_on_the_same_host_keeps_them(reader, tokens, expected):
    auths(reader, **{tokens.address: SECRET})
    tokens.faults["manifest"] = [fault.redirecting("/v2/moved/manifests/1")]
    tokens.manifests["moved"] = tokens.manifests["1"]
    assert reader.read(f"{tokens.address}/os/web:1") == expected


def test_foreign_token_server_over_http_is_not_asked(reader, private, serve):
    auths(reader, **{private.address: SECRET})
    thief = serve(Registry(host="127.0.0.2"))
    private.realm = f"{thief.url}/token"
    with pytest.raises(AccessDenied, match="over plain http"):
        reader.read(f"{private.address}/os/web:1")
    assert thief.seen == []


def test_foreign_token_server_over_https_gets_nothing(reader, private, authority):
    auths(reader, **{private.address: SECRET})
    with serving(Registry(host="127.0.0.2", user=USER), authority.server("127.0.0.2")) as thief:
        authority.trust(reader.root, thief.address)
        private.realm = f"{thief.url}/token"
        with pytest.raises(AccessDenied, match="another host, which does not get the credentials") as caught:
            reader.read(f"{private.address}/os/web:1")
        assert len(thief.seen) == 1
        assert thief.secrets() == []
        assert f"add an entry for {thief.host}" in caught.value.fix


def test_foreign_token_server_with_an_entry_of_its_own(reader, private, authority, expected):
    """As that message says."""
    with serving(Registry(host="127.0.0.2", user=USER), authority.server("127.0.0.2")) as server:
        auths(reader, **{private.address: SECRET, server.address: SECRET})
        authority.trust(reader.root, server.address)
        private.realm = f"{server.url}/token"
        assert reader.read(f"{private.address}/os/web:1") == expected


def test_token_server_by_the_registrys_authority(reader, serve, image, authority, expected):
    """Who has a private one puts its certificate at the registry's name, and podman takes it for all of it."""
    registry = serve(Registry(host="127.0.0.2", user=USER), authority.server("127.0.0.2"))
    registry.add(image, "1")
    server = serve(Registry(host="127.0.0.2", user=USER), authority.server("127.0.0.2"))
    registry.realm = f"{server.url}/token"
    auths(reader, **{registry.address: SECRET})
    with pytest.raises(NetworkFailed, match=f"cannot trust .*{registry.address}"):
        reader.read(f"{registry.address}/os/web:1")
    authority.trust(reader.root, registry.address)
    assert reader.read(f"{registry.address}/os/web:1") == expected


TOKEN_FAULTS = {
    "dropped": (fault.dropped, NetworkFailed, "3 times"),
    "503": (fault.answering(503), NetworkFailed, "token server .* answered 503"),
    "stalled": (fault.stalled(0, 0.5), NetworkFailed, "in time"),
    "truncated": (fault.truncated(5), NetworkFailed, "too early|incomplete|5 bytes read"),
    "no token": (fault.answering(200, body=b"{}"), NetworkFailed, "has no token"),
    "header in the token": (
        fault.answering(200, body=b'{"token": "a\\r\\nX-Evil: 1"}'),
        NetworkFailed,
        "has no token",
    ),
    "not JSON": (fault.answering(200, body=b"<html>"), NetworkFailed, "not JSON"),
    "5 MB": (fault.answering(200, body=bytes(5_000_000)), NetworkFailed, "more than 1048576"),
    "gzip": (fault.with_headers({"Content-Encoding": "gzip"}), NetworkFailed, "encoded as 'gzip'"),
    "redirect": (fault.redirecting("http://127.0.0.2:1/"), NetworkFailed, "answered 307"),
    "404": (fault.answering(404), NetworkFailed, "answered 404"),
    "wrong token": (fault.answering(200, body=b'{"token": "wrong"}'), AccessDenied, "refuses 'me'"),
}


@pytest.mark.parametrize(("bad", "kind", "why"), TOKEN_FAULTS.values(), ids=TOKEN_FAULTS)
def test_token_server_fails(reader, tokens, bad, kind, why):
    auths(reader, **{tokens.address: SECRET})
    tokens.faults["token"] = [bad] * 20
    with pytest.raises(kind, match=why) as caught:
        reader.read(f"{tokens.address}/os/web:1")
    assert SECRET not in str(caught.value)
    assert USER[1] not in str(caught.value)


@pytest.mark.parametrize("realm", ["", "file:///etc/passwd", "http://", "https://me:you@127.0.0.1/token"])
def test_realm_that_is_none(reader, private, realm):
    auths(reader, **{private.address: SECRET})
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}"'}
    private.faults["manifest"] = [fault.answering(401, challenge)]
    with pytest.raises((AccessDenied, InvalidImage)):
        reader.read(f"{private.address}/os/web:1")
    assert private.secrets() == []


def helper(tmp_path, script):
    program = tmp_path / "bin/docker-credential-test"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program.parent)


@pytest.mark.parametrize("key", ["credHelpers", "credsStore"])
def test_helper(reader, private, expected, tmp_path, monkeypatch, key):
    """The helper is asked for the host; what it says stays with it."""
    script = 'read -r host; echo "$host" >"$0.asked"; echo \'{"Username": "me", "Secret": "pass:word"}\''
    path = helper(tmp_path, script)
    monkeypatch.setenv("PATH", path, prepend=":")
    reader.write(
        "home/.docker/config.json", json.dumps({key: {private.address: "test"} if key == "credHelpers" else "test"})
    )
    assert reader.read(f"{private.address}/os/web:1") == expected
    assert (tmp_path / "bin/docker-credential-test.asked").read_text() == f"{private.address}\n"


@pytest.mark.parametrize(
    ("script", "kind", "why"),
    [
        ("echo 'credentials not found in native keychain'; exit 1", AccessDenied, "no credentials for it"),
        ('echo \'{"Secret": "pass:word"}\'; exit 3', Failure, "exit status 3"),
        ("echo pass:word", Failure, "not what the protocol"),
    ],
)
def test_helper_that_fails(reader, private, tmp_path, monkeypatch, script, kind, why):
    monkeypatch.setenv("PATH", helper(tmp_path, script), prepend=":")
    reader.write("home/.docker/config.json", json.dumps({"credsStore": "test"}))
    with pytest.raises(kind, match=why) as caught:
        reader.read(f"{private.address}/os/web:1")
    assert "pass:word" not in str(caught.value)


def test_helper_that_is_missing(reader, private):
    reader.write("home/.docker/config.json", json.dumps({"credsStore": "no-such-helper"}))
    with pytest.raises(MissingTool, match="docker-credential-no-such-helper"):
        reader.read(f"{private.address}/os/web:1")


def test_file_the_user_named_has_to_be_there(reader, private):
    reader.environment = {"REGISTRY_AUTH_FILE": str(reader.root / "none.json")}
    with pytest.raises(Failure, match=r"cannot read .*none\.json"):
        reader.read(f"{private.address}/os/web:1")


def test_public_images_need_no_sound_file(reader, registry, expected):
    """Credentials are looked for when they are asked for."""
    reader.write("run/containers/1000/auth.json", "{")
    assert reader.read(f"{registry.address}/os/web:1") == expected
