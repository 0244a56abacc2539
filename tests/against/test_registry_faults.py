"""A registry that misbehaves, in front of Debian's docker-registry: every fault against every kind of answer.

Whatever it does, the end is the right image or a failure that is one of ours, soon, within bounded memory, with no
secret anywhere else, and with nothing to be seen that was not compared with its digest.

All of it takes minutes and is part of `make test`; `make check` has a sample of it.
"""

import base64
import gzip
import io
import json
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import pytest

from docker_registry import USER, registry
from keelboot.failure import Failure
from keelboot.image.digest import Digest
from keelboot.image.documents import OCI_MANIFEST, Descriptor, parse_contents
from keelboot.image.reference import Reference
from keelboot.image.refusal import Refused
from keelboot.registry.endpoint import Clock
from keelboot.registry.opening import Registries
from keelboot.registry.patience import Patience
from keelboot.registry.places import Places
from keelboot.registry.referrers import fallback_tag, parse_artifact
from keelboot.transfer.copying import Wishes, copy
from simulated import registry as fault
from simulated.registry import Fault, Handler, Registry, Reply, serving
from small_images import BASE, write_layout

PATIENCE = Patience(connect=5, answer=8, silence=5, tries=3, first_tries=2, progress=1 << 18)
HURRY = replace(PATIENCE, answer=2.5, silence=1.5)  # where the fault is slowness
SLOW = 3.0  # seconds
NOW = 1_700_000_000.0
DATE = "Tue, 14 Nov 2023 22:13:30 GMT"
NOISE = random.Random(9).randbytes(2_500_000)
BUNDLE = b'{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}' + b" " * 4000
PAYLOAD = b'{"critical": {"type": "cosign container image signature"}, "optional": null}' + b" " * 4000
SECRET = base64.b64encode(":".join(USER).encode()).decode()
TOKEN = "the-token-of-these-tests"
CHUNK = 1 << 20
SLOWEST = 30.0  # seconds that any of it may take
MEMORY = 96 << 20  # bytes that all of it may take, the misbehaving registry in the same process included

RIGHT, WRONG, EITHER = "right", "a failure", "either"


class Case(NamedTuple):
    """What is done to the answers of one kind, and what has to come of it."""

    faults: tuple[Fault, ...]
    outcome: str
    always: bool = False  # the last fault, for ever
    token: str = ""  # what has to come of it where it befalls a token, if that is something else
    resumes: bool = False  # no more than a chunk may be sent twice
    slow: bool = False


def once(*faults: Fault, outcome: str = RIGHT, **more: object) -> Case:
    return Case(faults, outcome, **more)  # type: ignore[arg-type]


def always(*faults: Fault, outcome: str = WRONG, **more: object) -> Case:
    return Case(faults, outcome, always=True, **more)  # type: ignore[arg-type]


def wait(status: int, value: str | None = None) -> Fault:
    return fault.answering(status, {} if value is None else {"Retry-After": value})


def cut(part: float, how: Callable[[int], Fault] = fault.truncated) -> Fault:
    """PART of the body, and then HOW."""
    return lambda handler, reply: how(int(len(reply.body) * part))(handler, reply)


def raw(*pieces: bytes, times: int = 1) -> Fault:
    """Bytes that need not be HTTP."""

    def act(handler: Handler, _: Reply) -> None:
        try:
            for piece in [*pieces, *repeat(pieces[-1], times - 1)]:
                handler.wfile.write(piece)
        except OSError:
            pass
        handler.end()

    return act


def headers(**values: str) -> Fault:
    return fault.with_headers({name.replace("_", "-"): value for name, value in values.items()})


def longer(handler: Handler, reply: Reply) -> None:
    """More than Content-Length says."""
    handler.send(Reply(reply.status, reply.headers, reply.body + b"x" * 5000), length=len(reply.body))
    handler.close_connection = True


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def swapped(_: Handler, reply: Reply) -> Reply:
    """Another blob, which exists: what a cache that mixes up its entries gives."""
    return Reply(200, reply.headers, BUNDLE if reply.body != BUNDLE else PAYLOAD)


def later(change: Callable[[bytes], bytes]) -> Fault:
    """CHANGE the bytes of a part."""
    return lambda _, reply: Reply(reply.status, reply.headers, change(reply.body))


def whole(handler: Handler, reply: Reply) -> Reply:
    """All of it, whatever part was asked for."""
    del handler.headers["Range"]
    kept = {name: value for name, value in reply.headers.items() if name != "Content-Range"}
    return Reply(200, kept, reply.body if handler.path.startswith("/token") else handler.forwarded().body)


def endless(handler: Handler, reply: Reply) -> None:
    """A body without an end, as long as somebody listens; 64 MB at most, so that a test ends."""
    handler.send_response(reply.status)
    for name, value in {**reply.headers, "Transfer-Encoding": "chunked"}.items():
        handler.send_header(name, value)
    handler.end_headers()
    block = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    try:
        for _ in range(1000):
            handler.wfile.write(block)
    except OSError:
        pass
    handler.close_connection = True


def asking(*challenges: str) -> Fault:
    """401 with other wishes."""
    named = {"WWW-Authenticate": ", ".join(challenges)} if challenges else {}
    return fault.answering(401, named)


def bomb() -> bytes:
    return gzip.compress(bytes(50 << 20), 9)


ESCAPES = json.dumps({"errors": [{"code": "\x1b[31mE\x07", "message": "\x1b]0;owned\x07" + "x" * 9000}]}).encode()
THIEF = "{thief}"  # stands for the URL of another host
CUTS = {"resumes": True}

CASES: dict[str, Case] = {
    # what the network does now and then
    "cut at once": once(cut(0)),
    "cut in the middle": once(cut(0.5), **CUTS),
    "cut before the last byte": once(cut(0.999), **CUTS),
    "cut twice": once(cut(0.3), cut(0.5), **CUTS),
    "reset at once": once(cut(0, fault.reset)),
    "reset in the middle": once(cut(0.5, fault.reset), **CUTS),
    "no answer": once(fault.dropped),
    "no answer, twice": once(fault.dropped, fault.dropped),
    "silence": once(fault.stalled(0, SLOW), slow=True),
    "silence in the middle": once(cut(0.5, lambda after: fault.stalled(after, SLOW)), slow=True, **CUTS),
    "a byte now and then, once": once(fault.trickling(0.1, 30), slow=True),
    "headers one by one, once": once(fault.slow_headers(0.3, 12), slow=True),
    "noise, once": once(raw(b"\x16\x03\x01 not http\r\n\r\n")),
    # what registries ask for
    "500": once(wait(500)),
    "502": once(wait(502)),
    "503": once(wait(503)),
    "504": once(wait(504)),
    "408": once(wait(408)),
    "425": once(wait(425)),
    "429": once(wait(429)),
    "429 for seconds": once(wait(429, "7")),
    "429 until a date": once(wait(429, DATE)),
    "429 for ages": once(wait(429, "99999999999")),
    "429 until the end of time": once(wait(429, "Fri, 31 Dec 9999 23:59:59 GMT")),
    "429 for less than nothing": once(wait(429, "-5")),
    "429 until yesterday": once(wait(429, "Tue, 14 Nov 2000 22:13:30 GMT")),
    "429 for words": once(wait(429, "soon, \x7f")),
    "503 in the middle": once(cut(0.5), wait(503, "2"), **CUTS),
    # what it does without end
    "503 for ever": always(wait(503, "3600")),
    "429 for ever": always(wait(429)),
    "no answer for ever": always(fault.dropped),
    "reset for ever": always(cut(0, fault.reset)),
    "cut for ever": always(cut(0)),
    "silence for ever": always(fault.stalled(0, SLOW), slow=True),
    "a byte now and then": always(fault.trickling(0.1, 30), slow=True),
    "headers one by one": always(fault.slow_headers(0.3, 12), slow=True),
    "noise": always(raw(b"\x16\x03\x01 not http\r\n\r\n")),
    "HTTP 0.9": always(raw(b"<html>hello</html>\r\n")),
    "status 999": always(raw(b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n")),
    "status that is none": always(raw(b"HTTP/1.1 abc Odd\r\nContent-Length: 0\r\n\r\n")),
    "100 for ever": always(raw(b"HTTP/1.1 100 Continue\r\n\r\n", times=100)),
    "204": always(fault.answering(204, body=b"")),
    "empty 200": always(fault.answering(200, body=b"")),
    # what is not what was asked for
    "a bit flipped": always(fault.with_body(flipped), token=WRONG),
    "shorter": always(fault.with_body(lambda data: data[:-1])),
    "longer": always(fault.with_body(lambda data: data + b"x")),
    "longer than announced": once(longer),
    "another blob": always(swapped),
    "a page to log in": always(fault.answering(200, {"Content-Type": "text/html"}, b"<html>" + b"x" * 5000)),
    "in chunks": once(fault.chunked()),
    "in chunks, cut": once(fault.chunked(tail=b"zz\r\n"), outcome=EITHER),
    "in chunks without end": always(fault.chunked(tail=b""), outcome=EITHER),
    "in chunks, longer": always(fault.chunked(extra=b"x")),
    "endless": always(endless),
    "gzip bomb": always(
        lambda _, reply: Reply(200, {**reply.headers, "Content-Encoding": "gzip"}, bomb()), outcome=WRONG
    ),
    "brotli": always(headers(Content_Encoding="br")),
    "identity": once(headers(Content_Encoding="identity")),
    "5 MiB announced": always(fault.with_body(lambda _: bytes(5 << 20))),
    "a petabyte announced": always(lambda handler, reply: handler.send(reply, length=10**15)),
    "less than nothing announced": always(headers(Content_Length="-5"), outcome=EITHER),
    "no number announced": always(headers(Content_Length="many"), outcome=EITHER),
    "other type": always(headers(Content_Type="text/html"), outcome=EITHER, token=RIGHT),
    "no type": always(headers(Content_Type=""), outcome=EITHER, token=RIGHT),
    "type of an index": always(
        headers(Content_Type="application/vnd.oci.image.index.v1+json"), outcome=EITHER, token=RIGHT
    ),
    "digest of something else": always(
        headers(Docker_Content_Digest=f"sha256:{'0' * 64}"), outcome=EITHER, token=RIGHT
    ),
    "digest that is none": always(headers(Docker_Content_Digest="md5:0"), outcome=EITHER, token=RIGHT),
    "206 unasked": always(lambda _, reply: Reply(206, reply.headers, reply.body)),
    # where it sends one
    "redirect to itself": always(lambda handler, _: fault.redirecting(handler.path)(handler, _)),
    "redirect to a file": always(fault.redirecting("file:///etc/passwd")),
    "redirect to link-local": always(fault.redirecting("http://169.254.169.254/latest/meta-data")),
    "redirect to a user": always(fault.redirecting("http://me:you@127.0.0.1/")),
    "redirect to no port": always(fault.redirecting("http://127.0.0.1:99999/")),
    "redirect to another scheme": always(fault.redirecting("ftp://127.0.0.1/x")),
    "redirect to nowhere": always(fault.answering(307, body=b"")),
    "redirect to another host": once(fault.redirecting(THIEF), outcome=EITHER),
    "redirect to another host, which asks": always(fault.redirecting(THIEF + "/asks")),
    "redirect with a bomb": always(
        lambda _, __: Reply(307, {"Location": "http://169.254.0.1/", "Content-Encoding": "gzip"}, bomb())
    ),
    # whom it wants to know
    "token from another host over http": always(asking(f'Bearer realm="{THIEF}/token",service="x"'), token=EITHER),
    "token from another host over https": always(
        asking(f'Bearer realm="https{THIEF}/token",service="x"'), token=EITHER
    ),
    "token from a file": always(asking('Bearer realm="file:///etc/passwd"'), token=EITHER),
    "a password": always(asking('Basic realm="here"'), outcome=EITHER),
    "a ticket": always(asking("Negotiate")),
    "something, unsaid": always(asking()),
    "403": always(fault.answering(403)),
    # what it says of errors
    "404": always(fault.answering(404)),
    "410": always(fault.answering(410)),
    "an error with escapes": always(fault.answering(418, {}, ESCAPES)),
    "an error of 10 MB": always(lambda *_: Reply(400, {}, b'{"errors": ["' + b"x" * 10_000_000)),
    "an error in a bomb": always(lambda *_: Reply(400, {"Content-Encoding": "gzip"}, bomb())),
    "an error without end": always(lambda handler, _: endless(handler, Reply(400, {}, b""))),
    # what else is in its headers
    "cookies": once(headers(Set_Cookie="a=b; Domain=127.0.0.2")),
    "a header of 100 KB": always(headers(X_Long="x" * 100_000)),
    "a thousand headers": always(fault.with_headers({f"X-{number}": "x" for number in range(1000)})),
    "a header that goes on": always(headers(X_Folded="a\r\n b"), outcome=EITHER),
    # what it does with a part that is asked for
    "range ignored": once(cut(0.5), whole),
    "wrong range": once(cut(0.5), headers(Content_Range="bytes 0-9/10"), outcome=EITHER),
    "range before it": once(cut(0.5), headers(Content_Range="bytes 1-2500000/2500001"), outcome=EITHER),
    "range that is none": once(cut(0.5), headers(Content_Range="soon"), outcome=EITHER),
    "416": once(cut(0.5), wait(416), outcome=EITHER),
    "another part": always(cut(0.5), later(flipped)),
    "part of something else": always(cut(0.5), later(lambda data: bytes(len(data)))),
}


@dataclass
class Image:
    """What docker-registry has, and where each kind of answer is found there."""

    upstream: str
    digest: Digest
    paths: dict[str, str]  # what the path of such a request ends with
    sizes: dict[str, int]
    layout: Path


KINDS = ("token", "manifest", "config", "layer", "list", "referrer", "bundle", ".sig manifest", ".sig payload")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    for tool in ("docker-registry",):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    directory = tmp_path_factory.mktemp("faults")
    layout = directory / "layout"
    write_layout(layout, BASE, {"noise": NOISE})
    with registry(directory / "registry") as address:
        registries = registries_of(directory)
        reference = Reference.parse(f"docker://{address}/os/web:1")
        wishes = Wishes(scratch=directory)
        copied = copy(Reference.parse(f"oci:{layout}"), reference, registries, wishes)
        assert copied.digest
        publisher = registries_of(directory).publisher(reference)
        subject = registries_of(directory).resolve(reference).document
        config = put(publisher, b"{}", "application/vnd.oci.empty.v1+json")
        bundle = put(publisher, BUNDLE, "application/vnd.dev.sigstore.bundle.v0.3+json")
        payload = put(publisher, PAYLOAD, "application/vnd.dev.cosign.simplesigning.v1+json")
        about = described(subject.descriptor)
        artifact = manifest(config, bundle, artifactType=bundle.media_type, subject=about)
        publisher.attach(parse_artifact(*reversed(artifact)))
        sig = manifest(config, payload)
        publisher.put_manifest(*sig, fallback_tag(copied.digest) + ".sig")
        contents = parse_contents(subject.data, subject.descriptor.media_type).blobs
        largest = max(contents, key=lambda one: one.size)
        paths = {
            "token": "/token?service=here&scope=repository%3Aos%2Fweb%3Apull",
            "manifest": "/manifests/1",
            "config": f"/blobs/{contents[0].digest}",
            "layer": f"/blobs/{largest.digest}",
            "list": f"/manifests/{fallback_tag(copied.digest)}",
            "referrer": f"/manifests/{artifact[0].digest}",
            "bundle": f"/blobs/{bundle.digest}",
            ".sig manifest": f"/manifests/{fallback_tag(copied.digest)}.sig",
            ".sig payload": f"/blobs/{payload.digest}",
        }
        yield Image(address, copied.digest, paths, {"layer": largest.size}, layout)


def put(publisher, data: bytes, media_type: str) -> Descriptor:
    blob = Descriptor(media_type, Digest.of(data), len(data))
    publisher.put_blob(blob, lambda: io.BytesIO(data))
    return blob


def described(one: Descriptor) -> dict[str, object]:
    return {"mediaType": one.media_type, "digest": str(one.digest), "size": one.size}


def manifest(config: Descriptor, *layers: Descriptor, **more: object) -> tuple[Descriptor, bytes]:
    value = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, **more, "config": described(config)}
    data = json.dumps(value | {"layers": [described(one) for one in layers]}).encode()
    return Descriptor(OCI_MANIFEST, Digest.of(data), len(data)), data


def registries_of(directory: Path, slept: list[float] | None = None, patience: Patience = PATIENCE) -> Registries:
    places = Places.usual({"HOME": str(directory / "home")}, uid=1000, root=directory)
    record = slept if slept is not None else []
    clock = Clock(now=lambda: NOW, sleep=record.append, chance=lambda: 0.0)
    return Registries(places, patience=patience, clock=clock)


def work(kind: str, reference: Reference, registries: Registries, image: Image, directory: Path) -> object:
    """Do what needs an answer of KIND. What is returned was verified; raises Failure and Refused."""
    if kind in ("token", "manifest", "config", "layer"):
        wishes = Wishes(scratch=directory, jobs=2)
        return copy(reference, Reference.parse(f"oci:{directory}/copy"), registries, wishes).digest
    client = registries.resolve(reference).client
    if kind.startswith(".sig"):
        found = client.fetch(fallback_tag(image.digest) + ".sig", (OCI_MANIFEST,))
        (payload,) = parse_artifact(found.data, found.descriptor).layers
        return client.read_blob(payload, limit=1 << 20)
    artifacts, wrong = client.attached(image.digest)
    if not artifacts:
        raise Refused(f"there is no signature; {wrong}")
    return client.read_blob(artifacts[0].layers[0], limit=1 << 20)


def expected(kind: str, image: Image) -> object:
    return PAYLOAD if kind.startswith(".sig") else BUNDLE if kind in ("list", "referrer", "bundle") else image.digest


def prepared(case: Case, thief: Registry, suffix: str) -> list[Fault]:
    """The faults of CASE with the address of the other host in them."""

    def act(one: Fault) -> Fault:
        def done(handler: Handler, reply: Reply) -> Reply | None:
            answer = one(handler, reply)
            if isinstance(answer, Reply):
                address = thief.url + (f"/v2/os/web{suffix}" if suffix.startswith("/manifests") else f"/v2/x{suffix}")
                changed = {
                    name: value.replace("https{thief}", "https" + thief.url[4:])
                    .replace(THIEF + "/", thief.url + "/")
                    .replace(THIEF, address)
                    for name, value in answer.headers.items()
                }
                answer = Reply(answer.status, changed, answer.body)
            return answer

        return done

    faults = [act(one) for one in case.faults]
    return [*faults, *[faults[-1]] * 60] if case.always else faults


def suffer(kind: str, name: str, image: Image, directory: Path) -> str:
    """Meet the fault NAME in answers of KIND; what is wrong with what came of it, nothing if all is well."""
    case = CASES[name]
    directory.mkdir()
    front = Registry(user=USER, token=TOKEN, upstream=image.upstream)
    thief = Registry(host="127.0.0.2", upstream=image.upstream)
    complaints: list[str] = []
    slept: list[float] = []
    with serving(front), serving(thief):
        front.realm = f"{front.url}/token"
        auth = directory / "run/containers/1000/auth.json"
        auth.parent.mkdir(parents=True)
        auth.write_text(json.dumps({"auths": {front.address: {"auth": SECRET}}}))
        front.aimed = lambda path: path.endswith(image.paths[kind])
        front.faults["aimed"] = prepared(case, thief, image.paths[kind])
        before = len(front.faults["aimed"])
        thief.faults["other"] = [fault.answering(401, {"WWW-Authenticate": 'Basic realm="please"'})] * 9
        registries = registries_of(directory, slept, HURRY if case.slow else PATIENCE)
        started = time.monotonic()
        reference = Reference.parse(f"docker://{front.address}/os/web:1")
        try:
            result = work(kind, reference, registries, image, directory)
            outcome = RIGHT if result == expected(kind, image) else f"accepted {str(result)[:80]!r}"
            told = ""
        except (Failure, Refused) as failure:
            outcome, told = WRONG, str(failure)
        except Exception as error:  # noqa: BLE001 - it is what the test looks for
            outcome, told = f"raised {error!r}", ""
        elapsed = time.monotonic() - started
        registries.close()
        wanted = case.token if kind == "token" and case.token else case.outcome
        if outcome != wanted and not (wanted == EITHER and outcome in (RIGHT, WRONG)):
            complaints.append(f"it came to {outcome}, not {wanted}: {told}")
        if len(front.faults["aimed"]) == before:
            complaints.append("the fault was not met")
        if elapsed > SLOWEST:
            complaints.append(f"it took {elapsed:.1f} s")
        if sum(slept) > 60 * PATIENCE.tries:
            complaints.append(f"it would have waited for {sum(slept)} s")
        if case.resumes and kind == "layer":
            sent = front.sent_of[image.paths[kind].rpartition("/")[2]]
            if sent > image.sizes["layer"] + CHUNK:
                complaints.append(f"{sent} bytes came for {image.sizes['layer']}")
        complaints += leaks(front, thief, told)
    complaints += visible(directory, outcome)
    return "; ".join(complaints)


def leaks(front: Registry, thief: Registry, told: str) -> list[str]:
    """Where a secret came to that it should not have."""
    seen = [f"{one.path} {one.headers}" for one in thief.seen]
    found = [f"another host got {secret}" for secret in (SECRET, USER[1], TOKEN) if secret in "".join(seen)]
    found += [f"a message has {secret}" for secret in (SECRET, USER[1], TOKEN) if secret in told]
    if any("Cookie" in one.headers for one in (*front.seen, *thief.seen)):
        found.append("a cookie was kept")
    if any(ord(letter) < 32 and letter != "\n" for letter in told):
        found.append(f"a message would act on a terminal: {told!a}")
    if len(told) > 3000:
        found.append(f"a message has {len(told)} letters")
    return found


def visible(directory: Path, outcome: str) -> list[str]:
    """What can be seen in the layout and should not be."""
    files = (directory / "copy/blobs/sha256").glob("*")
    found = [f"{path.name} is not that" for path in files if Digest.of(path.read_bytes()).hex != path.name]
    if outcome != RIGHT and (directory / "copy/index.json").exists():
        found.append("an image is to be seen")
    left = [path.name for path in directory.iterdir() if path.name.startswith("keelboot-")]
    return found + [f"{name} was left behind" for name in left]


def survivors(kind: str, names: list[str], image: Image, directory: Path) -> None:
    """Meet the faults NAMES, and print how many were survived."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = {}
    for number, name in enumerate(names):
        results[name] = suffer(kind, name, image, directory / str(number))
        shutil.rmtree(directory / str(number))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    bad = {name: complaint for name, complaint in results.items() if complaint}
    print(f"{kind}: {len(names) - len(bad)} of {len(names)} faults survived; {grown >> 20} MiB more memory")
    assert not bad, "\n" + "\n".join(f"{kind}: {name}: {complaint}" for name, complaint in bad.items())
    assert grown < MEMORY


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory that syncs at once, where there is such a thing: thousands of files are synced here."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(prefix="keelboot-", dir=where) as directory:
        yield Path(directory)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample(kind: str, image: Image, memory: Path) -> None:
    """Every fault that does not take its time meets something here, and every kind of answer some faults."""
    quick = [name for name, case in CASES.items() if not case.slow]
    survivors(kind, quick[KINDS.index(kind) :: len(KINDS)], image, memory)


@pytest.mark.machine
@pytest.mark.parametrize("kind", KINDS)
def test_all(kind: str, image: Image, memory: Path) -> None:
    survivors(kind, list(CASES), image, memory)


def test_there_are_enough() -> None:
    assert len(CASES) >= 40
