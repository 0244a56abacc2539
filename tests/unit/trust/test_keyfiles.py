"""cosign.key: written and read as cosign does it, and bounded in what it may ask of this machine."""

import base64
import json

import pytest

from keelboot.failure import Failure
from keelboot.trust import keyfiles
from keelboot.trust.keyfiles import generate, read_private_key, write_private_key

# By cosign 2.5.0, password "keelboot"; made for this test.
COSIGN = b"""-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----
eyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjo2NTUzNiwiciI6
OCwicCI6MX0sInNhbHQiOiJHaitwUjBWOUdNemZDWkFESTFtMWlGWDFvUnZFcEJ5
UHRqMUJ6bE1OSDlnPSJ9LCJjaXBoZXIiOnsibmFtZSI6Im5hY2wvc2VjcmV0Ym94
Iiwibm9uY2UiOiJkcm1Cam9WOUJPclVCWTJ5a01EVFczWTJEbDI4VXdjRiJ9LCJj
aXBoZXJ0ZXh0IjoidWZITXdVUmhyVmlKZk1oV0p1ZTgxUHF1VkVVWnh1NnBDZGZW
dkUxZFIyemdrdGFmRXR5WkI2T2NiQ2lEL2IxSzdwTDNCaWN1bTJPSndSUS9qZDR1
c2ZJeVdyR0tockZNWG5jKzExRVYrb2M5ZzNpVGlRUmtpSGtUYWpEUmZkaGZ2c2cx
cmMvdUtWSVBVTmF5Y2xPTDNWQW1wUmRiVytDM3ZXRy9UVitwTTE1cXE3dXpQUVBB
TE9aMXI4NWFuMG5nOEpIM2daYytMOGVvWUE9PSJ9
-----END ENCRYPTED SIGSTORE PRIVATE KEY-----
"""


def no_password() -> bytes:
    raise AssertionError("nobody should be asked")


@pytest.fixture(autouse=True)
def _library():
    pytest.importorskip("nacl", reason="PyNaCl is not installed")


def changed(data: bytes, **members: object) -> bytes:
    """DATA with other MEMBERS: `kdf__salt` is kdf.salt."""
    lines = data.decode().splitlines()
    document = json.loads(base64.b64decode("".join(lines[1:-1])))
    for path, value in members.items():
        *above, last = path.split("__")
        place = document
        for name in above:
            place = place[name]
        place[last] = value
    return "\n".join([lines[0], base64.b64encode(json.dumps(document).encode()).decode(), lines[-1], ""]).encode()


def test_cosigns_own_file():
    key = read_private_key(COSIGN, "cosign.key", lambda: b"keelboot")
    assert key.public.fingerprint == "sha256:e2ccfa4679e6b5a9bbe58e75d364feb818367e2084bb6376671654c169090b92"


@pytest.mark.parametrize("password", [b"", b"secret", "пароль".encode()])
def test_what_is_written_is_read(password):
    key = generate()
    data = write_private_key(key, password)
    assert read_private_key(data, "cosign.key", lambda: password) == key
    assert key.der not in data
    with pytest.raises(Failure, match="password is wrong"):
        read_private_key(data, "cosign.key", lambda: password + b"x")


def test_nothing_is_reused():
    key = generate()
    assert write_private_key(key, b"") != write_private_key(key, b"")
    same = [write_private_key(key, b"", entropy=lambda count: b"1" * count) for _ in range(2)]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    "members",
    [
        {"kdf__params__N": 1 << 40},
        {"kdf__params__N": 65535},
        {"kdf__params__N": 0},
        {"kdf__params__r": 1 << 20},
        {"kdf__params__p": 1000},
        {"kdf__name": "md5"},
        {"cipher__name": "rot13"},
        {"cipher__nonce": "YQ=="},
        {"ciphertext": "YQ=="},
        {"ciphertext": ""},
        {"more": 1},
    ],
)
def test_a_file_that_asks_for_too_much_or_is_damaged(members):
    with pytest.raises(Failure, match=r"cannot sign with cosign\.key"):
        read_private_key(changed(COSIGN, **members), "cosign.key", lambda: b"keelboot")


def test_plain_pkcs8_needs_no_password():
    key = generate()
    body = base64.b64encode(key.der).decode()
    data = f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n".encode()
    assert read_private_key(data, "key.pem", no_password) == key


@pytest.mark.parametrize(
    "text", ["", "x", "{public}", "-----BEGIN EC PRIVATE KEY-----\nYQ==\n-----END EC PRIVATE KEY-----\n"]
)
def test_what_is_no_private_key(text):
    data = text.format(public=generate().public.pem).encode()
    with pytest.raises(Failure, match="cannot sign with it"):
        read_private_key(data, "it", no_password)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nacl.secret", None)
    with pytest.raises(Failure, match="PyNaCl is not installed"):
        write_private_key(generate(), b"")
    assert keyfiles  # it is imported without the library
