"""A registry, and a network, that do what they should not. The end is the right image or a failure that says why."""

import time
import tracemalloc
from dataclasses import replace

import pytest

from keelboot.failure import AccessDenied, InvalidImage, NetworkFailed
from keelboot.image.strictjson import DOCUMENT_MAX
from simulated import registry as fault

LAYER = 2_500_000  # bytes, near enough
DATE = "Tue, 14 Nov 2023 22:13:30 GMT"  # ten seconds after the tests' clock
ZEROS = "0" * 64


def read(reader, registry):
    return reader.read(f"{registry.address}/os/web:1")


def blobs(registry, *faults, config=True):
    """Have the large layer, which is asked for last, meet FAULTS."""
    registry.faults["blob"] = [*([fault.with_headers({})] * 2 if config else []), *faults]


RECOVERED = {
    "truncated": (fault.truncated(1_000_000),),
    "truncated at once": (fault.truncated(0),),
    "truncated thrice": (fault.truncated(300_000), fault.truncated(300_000), fault.truncated(300_000)),
    "reset": (fault.reset(1_000_000),),
    "reset at once": (fault.reset(0),),
    "dropped": (fault.dropped, fault.dropped),
    "stalled": (fault.stalled(700_000, 1.0),),
    "500": (fault.answering(500),),
    "502": (fault.answering(502), fault.answering(502)),
    "503": (fault.answering(503, {"Retry-After": "7"}),),
    "429": (fault.answering(429, {"Retry-After": DATE}),),
    "range ignored": (fault.truncated(1_000_000), fault.whole),
    "wrong range": (fault.truncated(1_000_000), fault.with_headers({"Content-Range": "bytes 0-9/10"})),
    "overlapping range": (
        fault.truncated(1_000_000),
        fault.with_headers({"Content-Range": f"bytes 999999-{LAYER}/{LAYER}"}),
    ),
    "no range": (fault.truncated(1_000_000), fault.with_headers({"Content-Range": "bytes"})),
    "416": (fault.truncated(1_000_000), fault.answering(416)),
    "503 on resume": (fault.truncated(1_000_000), fault.answering(503), fault.dropped, fault.reset(5)),
    "chunked": (fault.chunked(),),
    "chunks that break off": (fault.chunked(tail=b"zz\r\n"),),
}


@pytest.mark.parametrize("faults", RECOVERED.values(), ids=RECOVERED)
def test_recovers(reader, registry, expected, faults):
    blobs(registry, *faults)
    assert read(reader, registry) == expected
    assert registry.faults["blob"] == [], "not every fault was met"


def test_resumes_where_it_stopped(reader, registry, expected):
    blobs(registry, fault.truncated(1_000_000), fault.reset(600_000))
    assert read(reader, registry) == expected
    ranges = [seen.headers.get("Range") for seen in registry.seen if "/blobs/" in seen.path][-3:]
    assert ranges[:2] == [None, "bytes=1000000-"]
    assert int(ranges[2].strip("bytes=-")) <= 1_600_000
    # A reset may throw away what had come and was not read yet: that much is sent again, and no more.
    size = sum(map(len, registry.blobs.values())) - len(registry.manifests["1"][1])
    assert size <= registry.sent <= size + 600_000


def test_every_try_that_brings_something_counts_anew(reader, registry, expected):
    blobs(registry, *[fault.truncated(300_000)] * 8)
    assert read(reader, registry) == expected
    assert reader.slept == [0.25] * 8


@pytest.mark.parametrize(
    ("value", "expected_pause"),
    [
        ("7", 7.0), ("007", 7.0), (DATE, 10.0), ("86400", 60.0), ("9" * 30, 0.25), ("-5", 0.25), ("soon", 0.25),
        ("Tue, 14 Nov 2000 22:13:30 GMT", 0.25), ("Fri, 31 Dec 9999 23:59:59 GMT", 60.0), ("0", 0.25),
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [429, 503])
def test_waits_as_long_as_it_is_asked_to(reader, registry, expected, status, value, expected_pause):
    registry.faults["manifest"] = [fault.answering(status, {"Retry-After": value})]
    assert read(reader, registry) == expected
    assert reader.slept == [expected_pause]


GIVEN_UP = {
    "dropped": (fault.dropped, "without response|closed|reset"),
    "500": (fault.answering(500), "answered 500"),
    "503": (fault.answering(503, {"Retry-After": "3600"}), "answered 503"),
    "429": (fault.answering(429), "answered 429, 3 times"),
    "stalled": (fault.stalled(0, 0.5), "in time"),
    "slow headers": (fault.slow_headers(0.05, 40), "in time|reset by peer"),
    "broken headers": (fault.slow_headers(0, 2), "empty|too early"),
    "truncated": (fault.truncated(0), "too early|incomplete|0 bytes read"),
}


@pytest.mark.parametrize("kind", ["manifest", "blob"])
@pytest.mark.parametrize(("bad", "why"), GIVEN_UP.values(), ids=GIVEN_UP)
def test_gives_up(reader, registry, kind, bad, why):
    registry.faults[kind] = [bad] * 100
    started = time.monotonic()
    with pytest.raises(NetworkFailed, match=f"(?i){why}"):
        read(reader, registry)
    assert time.monotonic() - started < 30
    assert sum(reader.slept) <= 120
    assert 100 - len(registry.faults[kind]) == 3


def test_one_byte_now_and_then_is_too_slow(reader, registry):
    """Each byte is new patience for a socket; it is not for us."""
    reader.patience = replace(reader.patience, tries=2)
    blobs(registry, *[fault.trickling(0.02, 200)] * 2)
    with pytest.raises(NetworkFailed, match=r"only [0-9]+ bytes came in 0 seconds"):
        read(reader, registry)


def test_trickling_manifest(reader, registry):
    reader.patience = replace(reader.patience, tries=2)
    registry.faults["manifest"] = [fault.trickling(0.02, 200)] * 2
    with pytest.raises(NetworkFailed, match=r"only [0-9]+ bytes came in 0 seconds"):
        read(reader, registry)


def flipped(data):
    return data[:-100] + bytes((data[-100] ^ 1,)) + data[-99:]


REFUSED = {
    "changed": (fault.with_body(flipped), "digest|checksum|CRC|corrupt|gzip|invalid"),
    "shorter": (fault.with_body(lambda data: data[:-1]), "were announced"),
    "longer": (fault.with_body(lambda data: data + b"\0"), "were announced"),
    "longer in chunks": (fault.chunked(extra=b"\0"), "longer than"),
    "endless": (fault.chunked(extra=bytes(1 << 20)), "longer than"),
    "empty": (fault.answering(200, body=b""), "were announced"),
    "gzip": (fault.with_headers({"Content-Encoding": "gzip"}), "encoded as 'gzip'"),
    "brotli": (fault.with_headers({"Content-Encoding": "br"}), "encoded as 'br'"),
    "404": (fault.answering(404), "is missing"),
}


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(("bad", "why"), REFUSED.values(), ids=REFUSED)
def test_refuses_layer(reader, registry, bad, why, resumed):
    cut = [fault.truncated(1_000_000)] if resumed else []
    blobs(registry, *cut, bad)
    with pytest.raises(InvalidImage, match=why):
        read(reader, registry)


def test_changed_bytes_before_a_resume_are_found(reader, registry):
    """What came before the break is hashed with what came after it."""

    def changed_and_cut(handler, reply):
        handler.send(fault.Reply(reply.status, reply.headers, reply.body[:500] + b"!" + reply.body[501:]), only=900_000)
        handler.close_connection = True

    blobs(registry, changed_and_cut)
    with pytest.raises(InvalidImage, match=r"digest|gzip|invalid|corrupt|checksum"):
        read(reader, registry)


DOCUMENTS = {
    "changed": (fault.with_body(lambda data: data + b" "), "its digest is not"),
    "stated digest of something else": (
        fault.with_headers({"Docker-Content-Digest": f"sha256:{ZEROS}"}),
        "its digest is not",
    ),
    "stated digest that is none": (fault.with_headers({"Docker-Content-Digest": "md5:0"}), "which is none"),
    "gzip": (fault.with_headers({"Content-Encoding": "gzip"}), "encoded as 'gzip'"),
    "other type": (fault.with_headers({"Content-Type": "text/html"}), "its type is 'text/html'"),
    "no type": (fault.with_headers({"Content-Type": ""}), "its type is ''"),
    "type of an index": (
        fault.with_headers({"Content-Type": "application/vnd.oci.image.index.v1+json"}),
        "descriptor says|is an index",
    ),
    "announced 5 MiB": (fault.with_body(lambda _: bytes(5 << 20)), "5242880 bytes"),
    "sent 5 MiB": (
        lambda handler, reply: fault.chunked()(handler, fault.Reply(200, reply.headers, bytes(5 << 20))),
        f"more than {DOCUMENT_MAX} bytes",
    ),
    "not JSON": (
        lambda _, reply: fault.Reply(200, {"Content-Type": reply.headers["Content-Type"]}, b"<html>"),
        "not JSON",
    ),
}


@pytest.mark.parametrize(("bad", "why"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_refuses_manifest(reader, registry, bad, why):
    registry.faults["manifest"] = [bad]
    with pytest.raises(InvalidImage, match=why):
        read(reader, registry)


def test_changed_manifest_is_found_without_the_header(reader, registry):
    registry.digest_header = False
    digest = next(name for name in registry.manifests if ":" in name)
    registry.faults["manifest"] = [fault.with_body(lambda data: data.replace(b"2", b"3", 1))]
    with pytest.raises(InvalidImage, match="its digest is not"):
        reader.read(f"{registry.address}/os/web@{digest}")


def test_changed_config(reader, registry):
    registry.faults["blob"] = [fault.with_body(lambda data: data.replace(b"amd64", b"arm64"))]
    with pytest.raises(InvalidImage, match="its digest is not"):
        read(reader, registry)


def test_memory_is_bounded(reader, registry):
    """A manifest may be announced with any length; nothing is set aside for it."""
    registry.faults["manifest"] = [
        lambda handler, reply: fault.chunked()(handler, fault.Reply(200, reply.headers, bytes(40 << 20)))
    ]
    tracemalloc.start()
    with pytest.raises(InvalidImage):
        read(reader, registry)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20  # of which the registry's own 80


def test_huge_header(reader, registry):
    registry.faults["manifest"] = [fault.with_headers({"X-Long": "x" * 100_000})] * 9
    with pytest.raises(NetworkFailed):
        read(reader, registry)


def test_follows_redirects(reader, registry, serve, image, expected):
    storage = serve(fault.Registry(host="127.0.0.2"))
    storage.add(image, "1")
    large = max(registry.blobs, key=lambda name: len(registry.blobs[name]))
    elsewhere = fault.redirecting(f"{storage.url}/v2/other/blobs/{large}?signature=x")
    blobs(registry, elsewhere, elsewhere)
    storage.faults["blob"] = [fault.truncated(1_000_000)]
    assert read(reader, registry) == expected
    # A signed URL runs out: after a break the registry is asked for a new one.
    assert [seen.headers.get("Range") for seen in registry.seen][-2:] == [None, "bytes=1000000-"]


REDIRECTS = {
    "loop": ("/v2/os/web/manifests/1", "more than 5 times"),
    "file": ("file:///etc/passwd", "not at an http server"),
    "user": ("http://user:secret@127.0.0.1/", "user name in it"),
    "bad port": ("http://127.0.0.1:99999/", "is none"),
    "link-local": ("http://169.254.169.254/latest/meta-data", "own network"),
    "space": ("http://127.0.0.1/a b", "that is none"),
}


@pytest.mark.parametrize(("location", "why"), REDIRECTS.values(), ids=REDIRECTS)
def test_refuses_redirect(reader, registry, location, why):
    registry.faults["manifest"] = [fault.redirecting(location)] * 10
    with pytest.raises(InvalidImage, match=why):
        read(reader, registry)


def test_storage_that_refuses(reader, registry, serve):
    storage = serve(fault.Registry(host="127.0.0.2"))
    storage.faults["other"] = [fault.answering(403)]
    blobs(registry, fault.redirecting(f"{storage.url}/expired"))
    with pytest.raises(AccessDenied, match="where the registry redirects to"):
        read(reader, registry)


def test_error_text_is_safe_for_a_terminal(reader, registry):
    registry.faults["manifest"] = [fault.answering(418, body=fault.error(418, "TEAPOT", {}).body)]
    with pytest.raises(NetworkFailed) as caught:
        read(reader, registry)
    assert "TEAPOT" in caught.value.why
    assert "\x1b" not in str(caught.value)


def test_nothing_but_a_line_of_noise(reader, registry):
    def noise(handler, _):
        handler.wfile.write(b"\x16\x03\x01 \x1b]0;not http\x07\r\n\r\n")
        handler.end()

    registry.faults["manifest"] = [noise] * 9
    with pytest.raises(NetworkFailed) as caught:
        read(reader, registry)
    assert "\x1b" not in str(caught.value), "it would act on a terminal"
