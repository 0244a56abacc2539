"""TLS: on by default, with private authorities and certificates of one's own, and no way round it."""

import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from keelboot.failure import Failure, InvalidImage, NetworkFailed
from simulated import registry as fault
from simulated.registry import Registry

SOURCE = Path(__file__).resolve().parents[3] / "src"


@pytest.fixture
def secure(serve, image, authority):
    """A registry with a certificate of a private authority."""
    started = serve(Registry(host="127.0.0.2"), authority.server("127.0.0.2"))
    started.add(image, "1")
    return started


def test_private_authority(reader, secure, authority, expected):
    authority.trust(reader.root, secure.address)
    assert reader.read(f"{secure.address}/os/web:1") == expected


def test_every_python_takes_the_same_certificates(reader, secure, authority, expected, monkeypatch):
    """Python 3.13 wants more of them by default, such as the key of the authority, which these do not name."""
    default = ssl.create_default_context

    def strict():
        context = default()
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    authority.trust(reader.root, secure.address)
    assert reader.read(f"{secure.address}/os/web:1") == expected


def test_unknown_authority(reader, secure):
    with pytest.raises(NetworkFailed, match="certificate is not accepted") as caught:
        reader.read(f"{secure.address}/os/web:1")
    assert f"certs.d/{secure.address}/ca.crt" in caught.value.fix
    assert secure.seen == []
    assert reader.slept == []


def test_authority_of_another_host_does_not_count(reader, secure, authority):
    authority.trust(reader.root, "127.0.0.2:1")
    with pytest.raises(NetworkFailed, match="certificate is not accepted"):
        reader.read(f"{secure.address}/os/web:1")


@pytest.mark.parametrize(("name", "days"), [("other.example.org", 1), ("127.0.0.3", 1), ("127.0.0.2", -1)])
def test_certificate_of_another_host_or_time(reader, serve, image, authority, name, days):
    registry = serve(Registry(host="127.0.0.2"), authority.server(name, days=days))
    registry.add(image, "1")
    authority.trust(reader.root, registry.address)
    with pytest.raises(NetworkFailed, match="certificate is not accepted"):
        reader.read(f"{registry.address}/os/web:1")
    assert registry.seen == []


def test_loopback_with_certificates_speaks_tls(reader, serve, image, authority, expected):
    registry = serve(Registry(host="127.0.0.1"), authority.server("127.0.0.1"))
    registry.add(image, "1")
    with pytest.raises(NetworkFailed):
        reader.read(f"{registry.address}/os/web:1")
    authority.trust(reader.root, registry.address)
    assert reader.read(f"{registry.address}/os/web:1") == expected


def test_client_certificate(reader, serve, image, authority, expected):
    context = authority.server("127.0.0.2")
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    registry = serve(Registry(host="127.0.0.2"), context)
    registry.add(image, "1")
    directory = authority.trust(reader.root, registry.address)
    with pytest.raises(NetworkFailed):
        reader.read(f"{registry.address}/os/web:1")
    certificate, key = authority.issue("client")
    (directory / "client.cert").write_bytes(certificate.read_bytes())
    (directory / "client.key").write_bytes(key.read_bytes())
    assert reader.read(f"{registry.address}/os/web:1") == expected


def test_file_that_is_no_certificate(reader, secure, authority):
    directory = authority.trust(reader.root, secure.address)
    (directory / "ca.crt").write_text("no certificate")
    with pytest.raises(Failure, match=r"cannot use the certificate .*ca\.crt"):
        reader.read(f"{secure.address}/os/web:1")


def test_insecure_takes_any_certificate(reader, secure, expected):
    reader.write("etc/containers/registries.conf", f'[[registry]]\nlocation="{secure.address}"\ninsecure=true\n')
    assert reader.read(f"{secure.address}/os/web:1") == expected


def test_redirect_to_plain_http_is_refused(reader, secure, serve, authority):
    plain = serve(Registry(host="127.0.0.3"))
    authority.trust(reader.root, secure.address)
    secure.faults["manifest"] = [fault.redirecting(f"{plain.url}/v2/os/web/manifests/1")]
    with pytest.raises(InvalidImage, match="from https to http"):
        reader.read(f"{secure.address}/os/web:1")
    assert plain.seen == []


def test_broken_layer_is_resumed_over_tls(reader, secure, authority, expected):
    authority.trust(reader.root, secure.address)
    secure.faults["blob"] = [*([fault.with_headers({})] * 2), fault.truncated(900_000), fault.stalled(500_000, 1)]
    assert reader.read(f"{secure.address}/os/web:1") == expected


def test_slow_headers_over_tls(reader, secure, authority):
    authority.trust(reader.root, secure.address)
    secure.faults["manifest"] = [fault.slow_headers(0.05, 40)] * 10
    with pytest.raises(NetworkFailed, match="in time"):
        reader.read(f"{secure.address}/os/web:1")


def test_system_authorities_may_be_named_in_the_environment(secure, authority):
    """SSL_CERT_FILE reaches OpenSSL through the process's own environment: so this needs a process."""
    code = "import sys; from keelboot.cli.main import main; sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", code, "inspect", f"docker://{secure.address}/os/web:1"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(SOURCE), "HOME": "/nonexistent"}
    for trusted, status in ((authority.certificate, 0), ("/dev/null", 24)):
        with_file = {**environment, "SSL_CERT_FILE": str(trusted)}
        done = subprocess.run(argv, env=with_file, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
