"""What one process began to send, the next one goes on with; and where that cannot be, it sends all of it."""

import base64
import io
import json

import pytest

from keelboot.failure import NetworkFailed
from keelboot.image.digest import Digest
from keelboot.image.documents import Descriptor
from keelboot.image.reference import Reference
from keelboot.image.refusal import Refused
from keelboot.registry.name import Name
from keelboot.registry.outcome import How
from keelboot.registry.upload import Upload
from keelboot.transfer.bookmarks import Bookmarks
from simulated import registry as fault
from simulated.registry import Registry

CHUNK = 300_000
DATA = bytes(range(256)) * 4000  # 1,024,000 bytes: three chunks and a part
BLOB = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))
USER = ("me", "pass:word")
SECRET = base64.b64encode(b"me:pass:word").decode()


class Broken(io.BytesIO):
    """The source of a process that ends when it has sent two chunks."""

    def read(self, size=-1):
        if self.tell() >= 2 * CHUNK:
            raise KeyboardInterrupt
        return super().read(size)


@pytest.fixture
def target(serve):
    return serve(Registry())


@pytest.fixture
def bookmarks(tmp_path):
    return Bookmarks(tmp_path / "uploads")


@pytest.fixture
def kept(tmp_path):
    """The files that bookmarks are in."""
    return lambda: list((tmp_path / "uploads").iterdir())


@pytest.fixture
def send(reader, bookmarks):
    """Send the blob as a new process would; what it was told of, and asked for, is counted from there on."""

    def act(registry, source=io.BytesIO, *, data=DATA, repository="os/web", location=None, chunk=CHUNK):
        reference = Reference.parse(f"docker://{registry.address}/{repository}:1")
        endpoint = reader.registries().publisher(reference).endpoint
        registry.seen.clear()
        registry.received = 0
        told = []
        blob = Descriptor(BLOB.media_type, Digest.of(data), len(data))
        Upload(endpoint, blob, lambda: source(data), told.append, chunk=chunk, bookmarks=bookmarks.of).run(location)
        assert sum(told) == len(data)
        assert registry.blobs[str(blob.digest)] == data

    return act


@pytest.fixture
def half(send, target):
    """Two chunks of it are there."""

    def act(registry=target):
        with pytest.raises(KeyboardInterrupt):
            send(registry, Broken)

    return act


def methods(registry):
    return [seen.method for seen in registry.seen]


def test_goes_on_between_chunks(half, send, target, kept):
    half()
    assert len(kept()) == 1
    send(target)
    assert methods(target) == ["GET", "PATCH", "PUT"]
    assert target.received == len(DATA) - 2 * CHUNK
    assert kept() == []
    assert target.uploads == {}


def test_goes_on_within_a_chunk(send, target):
    target.cuts["patch"] = [100_000]
    target.faults["status"] = [fault.answering(503)] * 2
    with pytest.raises(NetworkFailed):
        send(target)
    send(target)
    assert methods(target) == ["GET", "PATCH", "PATCH", "PATCH", "PUT"]
    assert target.received == len(DATA) - 100_000


@pytest.mark.parametrize("there", [0, 1, len(DATA) - 1, len(DATA)])
def test_goes_on_from_wherever_it_is(half, send, target, there):
    half()
    (upload,) = target.uploads
    target.uploads[upload] = bytearray(DATA[:there])
    send(target)
    if there != 1:  # 0-0 may mean that there is nothing
        assert target.received == len(DATA) - there


def test_goes_on_twice(half, send, target):
    half()
    target.cuts["patch"] = [50_000]
    target.faults["status"] = [fault.with_headers({}), *[fault.answering(503)] * 2]
    target.faults["upload"] = [fault.answering(503)] * 3
    with pytest.raises(NetworkFailed):
        send(target)
    send(target)
    assert target.received == len(DATA) - 2 * CHUNK - 50_000


def test_breaks_off_again_within_the_process(half, send, target):
    half()
    target.cuts["patch"], target.cuts["put"] = [50_000], [10]
    send(target)
    assert methods(target).count("POST") == 0
    assert target.received < CHUNK * 2


def changed(*_):
    """Bytes that are not the blob's."""
    return bytearray(b"x" * 2 * CHUNK)


def taking_nothing(fault):
    """FAULT, and what came is not kept."""

    def act(handler, reply):
        for upload in handler.registry.uploads.values():
            del upload[len(upload) - len(handler.body) :]
        return fault(handler, reply)

    return act


UNUSABLE = {  # what the registry does about an upload that it was asked for again
    "forgotten": {"uploads": lambda _: None},
    "other bytes": {"uploads": changed},
    "more than the blob has": {"uploads": lambda _: bytearray(2 * len(DATA))},
    "nonsense": {"status": [fault.with_headers({"Range": "soon"})]},
    "not from its start": {"status": [fault.with_headers({"Range": "7-9"})]},
    "less than there is": {"status": [fault.with_headers({"Range": "0-9"})]},
    "more than there is": {"status": [fault.with_headers({"Range": f"0-{2 * CHUNK + 6}"})]},
    "200": {"status": [fault.answering(200)]},
    "403": {"status": [fault.answering(403)]},
    "500": {"status": [fault.answering(500)] * 3},
    "no answer": {"status": [fault.dropped] * 3},
    "a redirect to a file": {"status": [fault.redirecting("file:///etc/passwd")]},
    "a location that is none": {"status": [fault.with_headers({"Location": "http://169.254.169.254/x"})]},
    **{f"patch {status}": {"patch": [fault.answering(status)]} for status in (400, 403, 404, 405, 409, 416)},
    "patch 500": {"patch": [taking_nothing(fault.answering(500))] * 3},
    "patch without an answer": {"patch": [taking_nothing(fault.dropped)] * 3},
    "patch without a location": {"patch": [lambda *_: fault.Reply(202, {}, b"")]},
    **{f"put {status}": {"put": [fault.answering(status)]} for status in (400, 404, 416)},
}


@pytest.mark.parametrize("what", UNUSABLE.values(), ids=UNUSABLE)
def test_an_upload_that_is_of_no_use(half, send, target, kept, what):
    """A new one, of chunks as usual, and no failure."""
    half()
    for name in list(target.uploads):
        there = what.get("uploads", target.uploads.get)(name)
        if there is None:
            del target.uploads[name]
        else:
            target.uploads[name] = there
    target.faults.update({kind: list(faults) for kind, faults in what.items() if kind != "uploads"})
    send(target)
    assert methods(target).count("POST") == 1
    assert methods(target)[-5:] == ["POST", "PATCH", "PATCH", "PATCH", "PUT"]
    assert kept() == []


def test_an_upload_that_is_gone_with_the_registry(half, send, target, kept):
    """It stays for the next time, and nobody waits for it for ever."""
    half()
    target.faults["status"] = [fault.answering(503)] * 3
    target.faults["upload"] = [fault.answering(503)] * 50
    with pytest.raises(NetworkFailed):
        send(target)
    target.faults.clear()
    send(target)
    assert kept() == []


def test_the_wrong_one_is_not_used(half, send, target):
    half()
    send(target, data=DATA[::-1])
    assert "GET" not in methods(target)
    send(target, repository="os/other")
    assert "GET" not in methods(target)
    assert len(target.uploads) == 1
    send(target)
    assert "GET" in methods(target)


def test_another_process_has_it(half, send, target, bookmarks, kept):
    """Two of them do not send to one upload."""
    half()
    with bookmarks.of(Name.parse(f"{target.address}/os/web"), BLOB.digest) as held:
        send(target)
        assert methods(target) == ["POST", "PATCH", "PATCH", "PATCH", "PUT"]
        assert held.location
    assert len(kept()) == 1
    target.blobs.clear()
    send(target)
    assert methods(target) == ["GET", "PATCH", "PUT"]


def test_wrong_bytes_are_not_gone_on_with(half, send, target, kept):
    half()
    with pytest.raises(Refused, match="its digest is not"):
        send(target, lambda data: io.BytesIO(data[:-1] + b"x"))
    assert kept() == []
    assert target.uploads == {}


def test_what_goes_in_one_request_leaves_nothing(send, target, tmp_path):
    send(target, data=DATA[:CHUNK])
    assert not (tmp_path / "uploads").exists()


def test_a_registry_that_takes_one_piece(half, send, target, monkeypatch, kept):
    monkeypatch.setattr("keelboot.registry.upload.CHUNK", CHUNK)
    half()
    target.chunks = False
    send(target)
    assert kept() == []


def test_a_proxy_that_takes_small_requests_only(half, send, target):
    """It goes on all the same, in chunks that get through."""
    half()
    target.largest = 262_144
    send(target)
    assert "POST" not in methods(target)
    assert target.received < 2 * CHUNK + CHUNK


def test_what_was_begun_for_mounting(half, send, target):
    """Is taken back where there is an older one, and used where that one is gone."""
    half()
    target.uploads["new"] = bytearray()
    send(target, location=f"{target.url}/v2/x/blobs/uploads/new")
    assert methods(target) == ["GET", "PATCH", "PUT", "DELETE"]
    assert target.uploads == {}
    half()
    target.uploads.clear()
    target.uploads["new"] = bytearray()
    send(target, location=f"{target.url}/v2/x/blobs/uploads/new")
    assert methods(target) == ["GET", "PATCH", "PATCH", "PATCH", "PUT"]


def test_mounted_after_all(reader, target, bookmarks, monkeypatch, half, kept):
    """Or there for another reason: the bookmark goes."""
    monkeypatch.setattr("keelboot.registry.upload.CHUNK", CHUNK)
    half()
    target.elsewhere["os/base"] = {str(BLOB.digest): DATA}
    reference = Reference.parse(f"docker://{target.address}/os/web:1")
    publisher = reader.registries().publisher(reference, bookmarks=bookmarks.of)
    assert publisher.put_blob(BLOB, lambda: io.BytesIO(DATA), mount_from="os/base") is How.MOUNTED
    assert kept() == []


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "http://169.254.169.254/x",
        "http://me:you@127.0.0.1/x",
        "http://127.0.0.1/a b",
        "",
        "/v2/x",
    ],
)
def test_what_was_kept_is_not_believed(half, send, target, kept, location):
    half()
    (file,) = kept()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"location": location}))
    send(target)
    assert methods(target)[-5:] == ["POST", "PATCH", "PATCH", "PATCH", "PUT"]


@pytest.mark.parametrize("realm", [False, True])
def test_elsewhere_gets_no_credentials(reader, serve, half, send, realm):
    target, storage = serve(Registry(user=USER)), serve(Registry(host="127.0.0.2"))
    target.realm = f"{target.url}/token" if realm else None
    target.upload_url = storage.upload_url = storage.url
    storage.uploads, storage.blobs = target.uploads, target.blobs
    reader.write("run/containers/1000/auth.json", json.dumps({"auths": {target.address: {"auth": SECRET}}}))
    half(target)
    storage.seen.clear()
    send(target)
    assert methods(storage) == ["GET", "PATCH", "PUT"]
    assert storage.secrets() == []


def test_the_registry_gets_them(reader, serve, half, send):
    target = serve(Registry(user=USER))
    target.realm = f"{target.url}/token"
    reader.write("run/containers/1000/auth.json", json.dumps({"auths": {target.address: {"auth": SECRET}}}))
    half(target)
    send(target)
    assert [seen.method for seen in target.seen if "/uploads/" in seen.path][-2:] == ["PATCH", "PUT"]
    assert target.received == len(DATA) - 2 * CHUNK
