"""A machine that runs only what was signed: what it refuses, what it takes, and what it says of that.

Its registry wants TLS by an authority of its own and a token. The images are called registry.example.org/os/web, here
and on the machine; registries.conf says where that is, as it does for mirrors, and signatures name that.
"""

import json
import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from boot.computer import Answer, Computer, new_key
from boot.conftest import Built, Keelboot, succeeded
from boot.derived import derive
from boot.registry import SEEN_FROM_A_MACHINE
from docker_registry import SECRET, TokenServer, token_server

pytestmark = [pytest.mark.machine, pytest.mark.long, pytest.mark.timeout(3600)]

NAME = "localhost/keelboot-test/trust"
IMAGE = "registry.example.org/os/web"
VERSION = "org.opencontainers.image.version"
BIG = 80 << 20  # bytes that do not compress, so that a pull can be cut in the middle


@dataclass
class Site:
    """Two registries of the same images: an open one for this computer, and one for machines, with TLS and tokens."""

    place: Path
    keelboot: Keelboot
    open_port: int
    tokens: TokenServer
    locked: "Server"

    @property
    def environment(self) -> dict[str, str]:
        """For commands on this computer."""
        return {"CONTAINERS_REGISTRIES_CONF": str(self.place / "registries.conf"), "COSIGN_PASSWORD": ""}

    def push(self, image: str, path: str) -> None:
        target = f"docker://127.0.0.1:{self.open_port}/{path}"
        subprocess.run(["podman", "push", "--quiet", "--tls-verify=false", image, target], check=True)

    def sign(self, reference: str, key: str, *words: str) -> None:
        argv = ("sign", reference, "--key", self.place / f"{key}.key", *words)
        succeeded(self.keelboot(*argv, env=self.environment))

    def machine_files(self) -> str:
        """What a machine runs to reach its registry."""
        authority = (self.place / "ca.crt").read_text()
        where = f"{SEEN_FROM_A_MACHINE}:{self.locked.port}"
        auth = json.dumps({"auths": {where: {"auth": SECRET}}})
        conf = f'[[registry]]\nprefix = "registry.example.org"\nlocation = "{where}"\n'
        return (
            f"mkdir -p /etc/containers/certs.d/{where} /etc/containers/registries.conf.d /etc/ostree; umask 077\n"
            f"cat >/etc/containers/certs.d/{where}/ca.crt <<'END'\n{authority}END\n"
            f"cat >/etc/containers/registries.conf.d/test.conf <<'END'\n{conf}END\n"
            f"cat >/etc/ostree/auth.json <<'END'\n{auth}\nEND\n"
        )


class Server:
    """Debian's docker-registry over the images in PLACE, at a port of its own; it may go and come back."""

    def __init__(self, place: Path, name: str, **more: Any) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        http = {"addr": f"127.0.0.1:{self.port}", **more.pop("http", {})}
        # Two processes over one directory: neither may believe that it knows what is there.
        storage = {"filesystem": {"rootdirectory": str(place / "images")}, "delete": {"enabled": True}}
        settings = {"version": 0.1, "log": {"level": "error"}, "storage": storage, "http": http, **more}
        self._settings, self._log = place / f"{name}.json", place / f"{name}.log"
        self._settings.write_text(json.dumps(settings))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(["docker-registry", "serve", self._settings], stdout=log, stderr=log)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            time.sleep(0.1)
        return self

    def sent(self, blob: str) -> list[tuple[int, int]]:
        """The HTTP status and the bytes of each answer with BLOB that came to an end, one way or the other."""
        return [
            (int(status), int(size))
            for status, size in re.findall(
                rf'"GET /v2/[^"]*/sha256:{blob} [^"]*" ([0-9]+) ([0-9]+)', self._log.read_text()
            )
        ]

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody answers there until the context is left."""
        self.__exit__()
        yield
        self.__enter__()

    def __exit__(self, *_: object) -> None:
        """All connections end, and nobody answers any more."""
        assert self._process
        self._process.kill()
        self._process.wait()


def _certificates(place: Path) -> None:
    """An authority, and a certificate of it for the address that machines use."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=place, check=True, capture_output=True)

    (place / "extensions").write_text(f"subjectAltName=IP:{SEEN_FROM_A_MACHINE},IP:127.0.0.1\n")
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-subj")
    openssl(*new, "/CN=authority", "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.crt")
    openssl(*new, "/CN=registry", "-keyout", "tls.key", "-out", "tls.csr")
    by = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions")
    openssl("x509", "-req", "-in", "tls.csr", *by, "-out", "tls.crt")


@pytest.fixture(scope="module")
def site(keelboot: Keelboot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    place = tmp_path_factory.mktemp("trust")
    _certificates(place)
    for name in ("release", "other"):
        keygen = ("keygen", "--output-key-prefix", place / name)
        succeeded(keelboot(*keygen, env={"COSIGN_PASSWORD": ""}))
    with ExitStack() as stack:
        open_port = stack.enter_context(Server(place, "open")).port
        (place / "registries.conf").write_text(
            f'[[registry]]\nprefix = "registry.example.org"\nlocation = "127.0.0.1:{open_port}"\ninsecure = true\n'
        )
        tokens = stack.enter_context(token_server(place / "tokens"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(place / "tls.crt", place / "tls.key")
        tokens.socket = context.wrap_socket(tokens.socket, server_side=True)
        realm = f"https://{SEEN_FROM_A_MACHINE}:{tokens.server_address[1]}/token"
        auth = {"token": {**tokens.configuration["token"], "realm": realm}}  # type: ignore[dict-item]
        tls = {"certificate": str(place / "tls.crt"), "key": str(place / "tls.key")}
        locked = stack.enter_context(Server(place, "locked", auth=auth, http={"tls": tls}))
        yield Site(place, keelboot, open_port, tokens, locked)


@dataclass
class Story:
    answers: dict[str, Answer] = field(default_factory=dict)
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    big: str = ""  # the layer with the large file
    big_size: int = 0
    fetched: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # of it: HTTP status and bytes

    def ask(self, computer: Computer, questions: Mapping[str, str]) -> None:
        for name, command in questions.items():
            self.answers[name] = computer.ask(command)
            print(f"{name}: {self.answers[name]}", flush=True)

    def look(self, computer: Computer, moment: str) -> None:
        self.statuses[moment] = computer.status()

    def told(self, name: str) -> str:
        assert self.answers[name].status == 0, f"{name}: {self.answers[name]}"
        return self.answers[name].text

    def slot(self, moment: str, name: str) -> str | None:
        entry = self.statuses[moment]["status"][name]
        return entry and entry["image"]["version"]


def _images(built: Built) -> None:
    """Made in this order, a second apart: what is older is told by the time."""
    for number in ("0", "1", "2", "3"):
        files = {"usr/share/version": number.encode()}
        files |= {"usr/share/big": os.urandom(BIG)} if number == "3" else {}
        derive(f"{NAME}:{number}", built.name, files, labels={VERSION: number})
        time.sleep(1.1)


def _top_layer(site: Site, image: str) -> tuple[str, int]:
    """The layer that only IMAGE has: its digest in hex, and bytes."""
    listed = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://127.0.0.1:{site.open_port}/{image}"]
    layer = json.loads(subprocess.run(listed, check=True, capture_output=True).stdout)["layers"][-1]
    return layer["digest"].partition(":")[2], layer["size"]


def _tamper(site: Site, image: str) -> tuple[Path, bytes]:
    """Change a byte of the layer that only IMAGE has, where the registry keeps it; the file and what it was."""
    digest, _ = _top_layer(site, image)
    file = site.place / f"images/docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"
    before = file.read_bytes()
    file.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
    return file, before


UPGRADE = "keelboot upgrade"


def _refusals(story: Story, computer: Computer, site: Site) -> None:
    site.push(f"{NAME}:2", "os/web:stable")
    story.ask(
        computer, {"unsigned": UPGRADE, "unsigned, allowed": f"{UPGRADE} --allow-unsigned", "by bootc": "bootc upgrade"}
    )
    site.sign(f"{IMAGE}:stable", "other")
    story.ask(computer, {"wrong key": UPGRADE})
    # Another repository's image, with the signature that it has there.
    site.push(f"{NAME}:3", "os/other:1")
    site.sign("registry.example.org/os/other:1", "release", "--format", "simple")
    copying = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"]
    root = f"docker://127.0.0.1:{site.open_port}/os"
    subprocess.run([*copying, f"{root}/other:1", f"{root}/web:stable"], check=True)
    digest = json.loads(
        subprocess.run(
            ["skopeo", "inspect", "--tls-verify=false", f"{root}/other:1"], check=True, capture_output=True
        ).stdout
    )["Digest"].replace(":", "-")
    subprocess.run([*copying, f"{root}/other:{digest}.sig", f"{root}/web:{digest}.sig"], check=True)
    story.ask(computer, {"another repository": UPGRADE})
    site.push(f"{NAME}:0", "os/web:stable")
    site.sign(f"{IMAGE}:stable", "release")
    story.ask(computer, {"older": UPGRADE})
    site.push(f"{NAME}:2", "os/web:stable")
    site.sign(f"{IMAGE}:stable", "release", "--annotation", "expires=1000000000")
    story.ask(computer, {"stale": UPGRADE, "no policy": "keelboot switch registry.example.org/foreign/app:1"})
    site.sign(f"{IMAGE}:stable", "release")
    file, before = _tamper(site, "os/web:stable")
    story.ask(computer, {"tampered": UPGRADE})
    file.write_bytes(before)
    story.ask(
        computer,
        {"broken policy": f"cp {POLICY} /root/p; echo '{{' >>{POLICY}; {UPGRADE}; c=$?; cp /root/p {POLICY}; exit $c"},
    )
    story.look(computer, "refused")


POLICY = "/etc/keelboot/trust.json"


def _cuts(story: Story, computer: Computer, site: Site) -> None:
    """A network that goes away in the middle of a pull, and a machine that does."""
    site.push(f"{NAME}:3", "os/web:stable")
    site.sign(f"{IMAGE}:stable", "release")
    story.big, story.big_size = _top_layer(site, "os/web:stable")
    pulling = _pulling(computer, story.big, story.big_size // 3)
    with site.locked.away():
        time.sleep(5)
    said, _ = pulling.communicate(timeout=900)
    story.answers["network cut"] = Answer(pulling.returncode, said)
    story.look(computer, "after the network's cut")
    story.fetched["network"] = site.locked.sent(story.big)
    story.ask(computer, {"drop": "keelboot rollback && keelboot rollback; keelboot gc"})
    pulling = _pulling(computer, story.big, story.big_size // 2)
    computer.cut()
    pulling.communicate()
    computer.power_on()
    computer.ask("systemctl is-system-running --wait")
    story.look(computer, "after the machine's cut")
    story.ask(computer, {"kept": f"stat -c %s /sysroot/composefs/.draft-blob-sha256:{story.big}", "again": UPGRADE})
    story.fetched["machine"] = site.locked.sent(story.big)[len(story.fetched["network"]) :]
    story.look(computer, "again")


RATE = 2 << 20  # bytes a second, so that a pull has a middle


def _pulling(computer: Computer, blob: str, enough: int) -> subprocess.Popen[str]:
    """An upgrade that has ENOUGH bytes of the BLOB already."""
    pulling = computer.begin(f"KEELBOOT_LIMIT_RATE={RATE} {UPGRADE}")
    came = f"stat -c %s /sysroot/composefs/.draft-blob-sha256:{blob} 2>/dev/null || echo 0"
    while int(computer.told(came)) < enough:
        assert pulling.poll() is None, pulling.communicate()
    return pulling


@pytest.fixture(scope="module")
def story(built: Built, site: Site) -> Story:
    key, disk = new_key(site.place), site.place / "machine.img"
    _images(built)
    words = ("disk", "--ssh-key", key.with_suffix(".pub"), "--target-imgref", f"docker://{IMAGE}:stable")
    trusted = ("--key", site.place / "release.pub")
    succeeded(site.keelboot(*words, *trusted, f"{NAME}:1", "-o", disk, env=site.environment))
    story = Story()
    with Computer(disk, key=key, log=site.place / "console.log") as computer:
        computer.told(site.machine_files())
        story.look(computer, "first")
        _refusals(story, computer, site)
        story.ask(
            computer,
            {"check": f"{UPGRADE} --check", "good": UPGRADE, "human": "keelboot status --format humanreadable"},
        )
        story.look(computer, "staged")
        computer.reboot()
        story.look(computer, "second")
        story.ask(
            computer, {"secrets": f"journalctl -b --no-pager | grep -c '{SECRET}'; stat -c %a /etc/ostree/auth.json"}
        )
        _cuts(story, computer, site)
    disk.unlink()
    return story


@pytest.mark.parametrize(
    ("question", "code", "said"),
    [
        ("unsigned", 20, "it is not signed"),
        ("unsigned, allowed", 20, "it is not signed"),
        ("by bootc", 1, "it is not signed"),
        ("wrong key", 20, "by none of the policy's keys"),
        ("another repository", 20, "os/other"),
        ("older", 20, "--allow-downgrade"),
        ("stale", 20, "it was good until"),
        ("no policy", 20, "the policy rejects it"),
        ("tampered", 5, "Nothing was kept of it"),
        ("broken policy", 27, POLICY),
    ],
)
def test_refused(story: Story, question: str, code: int, said: str) -> None:
    answer = story.answers[question]
    assert answer.status == code, str(answer)
    assert said in answer.text
    assert "Traceback" not in answer.text


def test_what_is_refused_is_not_staged(story: Story) -> None:
    assert (story.slot("refused", "booted"), story.slot("refused", "staged")) == ("1", None)


def test_what_is_signed_runs_and_is_told(story: Story) -> None:
    story.told("check")
    assert "Queued for next boot: " in story.told("good")
    assert story.slot("staged", "staged") == "2"
    assert "signed" in story.told("human")
    assert (story.slot("second", "booted"), story.slot("second", "rollback")) == ("2", "1")


def test_secrets_stay_secret(story: Story) -> None:
    count, mode = story.answers["secrets"].text.split()
    assert (count, mode) == ("0", "600")


def test_a_token_was_asked_for(site: Site, story: Story) -> None:  # noqa: ARG001 - it has to be over
    assert {"repository:os/web:pull"} <= {scope for scopes in site.tokens.asked for scope in scopes}


def test_the_network_may_go_away_in_the_middle_of_a_pull(story: Story) -> None:
    answer = story.answers["network cut"]
    assert answer.status == 0, str(answer)
    assert story.slot("after the network's cut", "staged") == "3"
    [(status, size)] = story.fetched["network"]  # the answer that was cut off is in no log
    assert (status, size <= story.big_size * 2 // 3) == (206, True)


def test_the_machine_may_be_cut_in_the_middle_of_a_pull(story: Story) -> None:
    after = "after the machine's cut"
    assert (story.slot(after, "booted"), story.slot(after, "staged")) == ("2", None)
    assert "Queued for next boot: " in story.told("again")
    assert story.slot("again", "staged") == "3"
    (first, _), (status, rest) = story.fetched["machine"]
    kept = int(story.told("kept"))
    assert (first, status, rest) == (200, 206, story.big_size - kept)
    # A sync each five seconds, a block, and what the network had not handed on.
    assert kept >= story.big_size // 2 - 10 * RATE
