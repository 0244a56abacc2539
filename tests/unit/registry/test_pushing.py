"""What is written to a registry: every byte arrives, what breaks off goes on, and secrets stay where they belong."""

import base64
import io
import json
import threading
import time
from dataclasses import replace

import pytest

from keelboot.failure import AccessDenied, Failure, NetworkFailed
from keelboot.image.digest import Digest
from keelboot.image.documents import Descriptor
from keelboot.image.reference import Reference
from keelboot.image.refusal import Refused
from keelboot.registry.challenge import merged
from keelboot.registry.connections import Cut
from keelboot.registry.outcome import How
from keelboot.registry.referrers import fallback_tag, parse_artifact, with_referrer
from keelboot.registry.throttle import Throttle
from keelboot.registry.upload import Upload
from simulated import registry as fault
from simulated.registry import Registry, basic

CHUNK = 300_000
DATA = bytes(range(256)) * 4000  # 1,024,000 bytes: three chunks and a part
USER = ("me", "pass:word")
SECRET = base64.b64encode(b"me:pass:word").decode()
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"


def blob(data, media_type="application/octet-stream"):
    return Descriptor(media_type, Digest.of(data), len(data))


@pytest.fixture
def target(serve):
    return serve(Registry())


@pytest.fixture
def publisher(reader, target):
    return publish_to(reader, target)


def publish_to(reader, registry, **more):
    return reader.registries().publisher(Reference.parse(f"docker://{registry.address}/os/web:1"), **more)


def send(publisher, data=DATA, *, chunk=CHUNK, named=None):
    told = []
    Upload(publisher.endpoint, named or blob(data), lambda: io.BytesIO(data), told.append, chunk=chunk).run()
    assert sum(told) == len(data)


def methods(registry):
    return [seen.method for seen in registry.seen]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, len(DATA)])
def test_arrives(publisher, target, size):
    send(publisher, DATA[:size])
    assert target.blobs[str(Digest.of(DATA[:size]))] == DATA[:size]
    parts = -(-size // CHUNK) or 1
    assert methods(target) == ["POST", *["PATCH"] * (parts - 1), "PUT"]
    assert target.uploads == {}


def test_keeps_the_connection(publisher, target):
    send(publisher)
    assert len({seen.connection for seen in target.seen}) == 1


BROKEN = {  # how a request ends, and how many bytes are sent for it a second time, at most
    "patch": {"cuts": {"patch": [100_000]}},
    "second patch": {"cuts": {"patch": [CHUNK, 7]}},
    "last": {"cuts": {"put": [10_000]}},
    "patch, twice": {"cuts": {"patch": [1, 1]}},
    "answer to a patch": {"faults": {"patch": [fault.reset(0)]}},
    "503": {"faults": {"patch": [fault.answering(503, {"Retry-After": "3"})]}},
    "answer to the last": {"faults": {"put": [fault.dropped]}},
    "begin": {"faults": {"upload": [fault.dropped, fault.answering(502)]}},
    "question": {"cuts": {"patch": [5]}, "faults": {"status": [fault.answering(500)]}},
    "forgotten": {"cuts": {"patch": [50_000]}, "forgetful": True},
    "wrong place": {"cuts": {"patch": [50_000]}, "faults": {"status": [fault.with_headers({"Range": "0-9999999"})]}},
    "no place": {"cuts": {"patch": [50_000]}, "faults": {"status": [fault.with_headers({"Range": "soon"})]}},
    "416": {"faults": {"patch": [fault.answering(416)]}},
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_goes_on(publisher, target, broken):
    target.cuts.update(broken.get("cuts", {}))
    target.faults.update(broken.get("faults", {}))
    target.forgetful = broken.get("forgetful", False)
    send(publisher)
    assert target.blobs[str(Digest.of(DATA))] == DATA
    assert target.received <= len(DATA) + 3 * CHUNK


def test_sends_at_most_one_chunk_twice(publisher, target):
    target.cuts["patch"] = [CHUNK, CHUNK - 10]
    send(publisher)
    assert target.received <= len(DATA) + CHUNK


def test_gives_up(publisher, target):
    target.faults["upload"] = [fault.answering(503)] * 50
    with pytest.raises(NetworkFailed, match=r"cannot write to .*answered 503"):
        send(publisher)
    assert target.blobs == {}


def test_gives_up_without_progress(publisher, target):
    target.cuts["patch"] = [1000] * 50
    with pytest.raises(NetworkFailed, match="3 times in a row"):
        send(publisher)


def test_gives_up_beginning_anew(publisher, target):
    target.faults["patch"] = [fault.answering(404)] * 50
    with pytest.raises(NetworkFailed, match="does not go on"):
        send(publisher)


def test_registry_that_takes_one_piece(publisher, target):
    target.chunks = False
    send(publisher)
    assert target.blobs[str(Digest.of(DATA))] == DATA


def test_one_piece_that_breaks_off(publisher, target, monkeypatch):
    """It is too large to be kept in memory: it is read again from its start."""
    monkeypatch.setattr("keelboot.registry.upload.CHUNK", CHUNK)
    target.chunks, target.cuts["put"] = False, [400_000]
    send(publisher)
    assert target.blobs[str(Digest.of(DATA))] == DATA
    assert methods(target).count("PUT") == 2


@pytest.mark.parametrize("largest", [CHUNK, 262_144])
def test_proxy_that_takes_small_requests_only(publisher, target, largest):
    data, target.largest = DATA * 4, largest
    send(publisher, data, chunk=1 << 22)
    assert target.blobs[str(Digest.of(data))] == data


def test_proxy_that_takes_less_than_that(publisher, target):
    target.largest = 1000
    with pytest.raises(NetworkFailed, match="answered 413"):
        send(publisher)


def test_chunks_as_large_as_it_wants(publisher, target):
    target.least = 500_000
    send(publisher)
    assert methods(target) == ["POST", "PATCH", "PATCH", "PUT"]


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", DATA[:-1] + b"x"], ids=["shorter", "longer", "changed"])
@pytest.mark.parametrize("chunk", [CHUNK, 1 << 22])
def test_wrong_bytes_do_not_leave(publisher, target, data, chunk):
    with pytest.raises(Refused, match=r"it has|longer|its digest is not"):
        send(publisher, data, named=blob(DATA), chunk=chunk)
    assert target.blobs == {}
    assert target.uploads == {}, "the upload was not cancelled"


def test_no_location(publisher, target):
    target.faults["upload"] = [lambda _, reply: fault.Reply(202, {}, reply.body)]
    with pytest.raises(NetworkFailed, match="no Location"):
        send(publisher)


@pytest.mark.parametrize("realm", [False, True])
def test_location_elsewhere_gets_no_credentials(reader, serve, realm):
    target, storage = serve(Registry(user=USER)), serve(Registry(host="127.0.0.2"))
    target.realm = f"{target.url}/token" if realm else None
    target.upload_url = storage.url
    storage.uploads = target.uploads
    storage.upload_url = storage.url
    reader.write("run/containers/1000/auth.json", json.dumps({"auths": {target.address: {"auth": SECRET}}}))
    send(publish_to(reader, target))
    assert storage.blobs[str(Digest.of(DATA))] == DATA
    assert storage.secrets() == []
    assert len(storage.seen) == 4


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "http://169.254.169.254/x", "http://me:you@127.0.0.1/x", "http://127.0.0.1/a b"]
)
def test_location_that_is_refused(publisher, target, location):
    target.faults["upload"] = [lambda _, reply: fault.Reply(202, {"Location": location}, reply.body)]
    with pytest.raises(NetworkFailed):
        send(publisher)


def test_token_for_pushing(reader, serve):
    target = serve(Registry(user=USER))
    target.realm = f"{target.url}/token"
    reader.write("run/containers/1000/auth.json", json.dumps({"auths": {target.address: {"auth": SECRET}}}))
    publisher = publish_to(reader, target, mounting=["os/base"])
    assert not publisher.has(blob(DATA))
    send(publisher)
    (asked,) = [seen.path for seen in target.seen if seen.path.startswith("/token")]
    assert asked == "/token?service=here&scope=repository%3Aos%2Fweb%3Apull%2Cpush&scope=repository%3Aos%2Fbase%3Apull"


def test_token_that_runs_out(reader, serve):
    target = serve(Registry(user=USER))
    target.realm = f"{target.url}/token"
    reader.write("run/containers/1000/auth.json", json.dumps({"auths": {target.address: {"auth": SECRET}}}))

    def expire(handler, reply):
        handler.registry.token = "the-next"
        return reply

    target.faults["patch"] = [expire]
    send(publish_to(reader, target))
    assert target.blobs[str(Digest.of(DATA))] == DATA


def test_wrong_password_names_its_file(reader, serve):
    target = serve(Registry(user=USER))
    file = reader.write("run/containers/1000/auth.json", json.dumps({"auths": {target.address: {"auth": "bWU6eA=="}}}))
    with pytest.raises(AccessDenied, match=r"cannot push to .*refuses 'me'") as caught:
        publish_to(reader, target).has(blob(DATA))
    assert str(file) in caught.value.why


def test_no_credentials(reader, serve):
    target = serve(Registry(user=USER))
    with pytest.raises(AccessDenied, match="no credentials for it"):
        publish_to(reader, target).put_blob(blob(DATA), lambda: io.BytesIO(DATA))


def test_read_only_user(publisher, target):
    target.faults["upload"] = [fault.answering(403, body=fault.error(403, "DENIED", {}).body)]
    with pytest.raises(AccessDenied, match="DENIED"):
        send(publisher)


def test_repository_that_nobody_made(publisher, target):
    target.faults["upload"] = [fault.answering(404, body=fault.error(404, "NAME_UNKNOWN", {}).body)]
    with pytest.raises(AccessDenied, match="no such repository"):
        send(publisher)


def test_has(publisher, target):
    assert not publisher.has(blob(DATA))
    target.blobs[str(Digest.of(DATA))] = DATA
    assert publisher.has(blob(DATA))
    target.blobs[str(Digest.of(DATA))] = DATA[:-1]
    assert not publisher.has(blob(DATA)), "it is there by name only"


def test_mounts(publisher, target):
    target.elsewhere["os/base"] = {str(Digest.of(DATA)): DATA}
    assert publisher.put_blob(blob(DATA), lambda: io.BytesIO(DATA), mount_from="os/base") is How.MOUNTED
    assert target.received == 0


def test_mount_that_is_none_begins_an_upload(publisher, target):
    assert publisher.put_blob(blob(DATA), lambda: io.BytesIO(DATA), mount_from="os/none") is How.SENT
    assert methods(target) == ["POST", "PUT"]


@pytest.mark.parametrize("answer", [401, 403, 404, 500])
def test_mount_that_fails(publisher, target, answer):
    target.faults["upload"] = [fault.answering(answer)] * (3 if answer == 500 else 1)
    assert publisher.put_blob(blob(DATA), lambda: io.BytesIO(DATA), mount_from="os/base") is How.SENT


def image(publisher, **more):
    config = b"{}"
    publisher.put_blob(blob(config), lambda: io.BytesIO(config))
    described = {"mediaType": EMPTY, "digest": str(Digest.of(config)), "size": len(config)}
    value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": [described], **more}
    data = json.dumps(value).encode()
    return blob(data, MANIFEST), data


def test_manifest_by_tag_and_digest(publisher, target):
    descriptor, data = image(publisher)
    assert not publisher.has_manifest(descriptor)
    assert not publisher.put_manifest(descriptor, data)
    assert publisher.has_manifest(descriptor)
    publisher.put_manifest(descriptor, data, "1")
    assert target.manifests["1"] == target.manifests[str(descriptor.digest)] == (MANIFEST, data)


@pytest.mark.parametrize(
    ("bad", "kind", "why"),
    [
        (fault.answering(400, body=fault.error(400, "MANIFEST_INVALID", {}).body), Failure, "MANIFEST_INVALID"),
        (fault.answering(409), Failure, "does not take the manifest"),
        (fault.answering(403), AccessDenied, "cannot push to"),
        (fault.with_headers({"Docker-Content-Digest": f"sha256:{'0' * 64}"}), Refused, "made 'sha256:0"),
    ],
)
def test_manifest_that_is_not_taken(publisher, target, bad, kind, why):
    descriptor, data = image(publisher)
    target.faults["publish"] = [bad]
    with pytest.raises(kind, match=why):
        publisher.put_manifest(descriptor, data, "1")


@pytest.mark.parametrize("bad", [fault.answering(503), fault.dropped, fault.reset(0)])
def test_manifest_is_tried_again(publisher, target, bad):
    descriptor, data = image(publisher)
    target.faults["publish"] = [bad]
    publisher.put_manifest(descriptor, data, "1")
    assert target.manifests["1"] == (MANIFEST, data)


def test_mirrors_are_not_written_to(reader, target, serve):
    mirror = serve(Registry(host="127.0.0.2"))
    conf = f'[[registry]]\nprefix = "example.org"\nlocation = "{target.address}"\n'
    conf += f'[[registry.mirror]]\nlocation = "{mirror.address}"\ninsecure = true\n'
    reader.write("etc/containers/registries.conf", conf)
    publisher = reader.registries().publisher(Reference.parse("docker://example.org/os/web:1"))
    send(publisher)
    assert mirror.seen == []
    assert target.blobs


def attached(publisher, subject, kind="application/vnd.example", **more):
    described = {"mediaType": MANIFEST, "digest": str(subject.digest), "size": subject.size}
    descriptor, data = image(publisher, subject=described, artifactType=kind, **more)
    return parse_artifact(data, descriptor)


@pytest.mark.parametrize("lists", [False, True])
def test_referrers(publisher, target, lists):
    target.lists = lists
    subject, data = image(publisher)
    publisher.put_manifest(subject, data, "1")
    assert publisher.client.referrers(subject.digest) == ()
    first = attached(publisher, subject, annotations={"a": "b"})
    second = attached(publisher, subject, "application/vnd.other")
    for artifact in (first, second, first):
        publisher.attach(artifact)
    assert [one.digest for one in publisher.client.referrers(subject.digest)] == [
        first.descriptor.digest,
        second.descriptor.digest,
    ]
    assert publisher.client.attached(subject.digest) == ([first, second], [])
    tag = fallback_tag(subject.digest)
    assert (tag in target.manifests) is not lists
    if not lists:
        entries = json.loads(target.manifests[tag][1])["manifests"]
        assert entries[0]["artifactType"] == "application/vnd.example"
        assert entries[0]["annotations"] == {"a": "b"}


def test_what_others_listed_stays(publisher, target):
    """With members that we do not know, and without the type that cosign leaves out."""
    subject, data = image(publisher)
    publisher.put_manifest(subject, data, "1")
    theirs = attached(publisher, subject, "application/vnd.theirs")
    publisher.put_manifest(theirs.descriptor, theirs.data)
    entry = {"mediaType": MANIFEST, "digest": str(theirs.descriptor.digest), "size": theirs.descriptor.size, "x": 1}
    tag = fallback_tag(subject.digest)
    index = {"schemaVersion": 2, "manifests": [entry | {"artifactType": EMPTY}], "mediaType": fault_index()}
    target.put(json.dumps(index).encode(), fault_index(), tag)
    publisher.attach(attached(publisher, subject))
    listed = json.loads(target.manifests[tag][1])["manifests"]
    assert listed[0] == entry | {"artifactType": EMPTY}
    assert len(listed) == 2
    assert [one.artifact_type for one in publisher.client.attached(subject.digest)[0]] == [
        "application/vnd.theirs",
        "application/vnd.example",
    ]


def fault_index():
    return "application/vnd.oci.image.index.v1+json"


def test_others_change_the_list_meanwhile(publisher, target):
    subject, data = image(publisher)
    publisher.put_manifest(subject, data, "1")
    one, other = attached(publisher, subject), attached(publisher, subject, "application/vnd.other")
    publisher.put_manifest(other.descriptor, other.data)

    def overwritten(_, reply):
        target.put(with_referrer(None, other), fault_index(), fallback_tag(subject.digest))
        return reply

    target.faults["publish"] = [fault.with_headers({}), overwritten]
    publisher.attach(one)
    assert len(publisher.client.referrers(subject.digest)) == 2


def test_list_that_is_no_index(publisher):
    subject, data = image(publisher)
    publisher.put_manifest(subject, data, fallback_tag(subject.digest))
    with pytest.raises(Refused, match="its type is"):
        publisher.attach(attached(publisher, subject))


def test_listed_and_wrong(publisher, target):
    target.lists = True
    subject, data = image(publisher)
    publisher.put_manifest(subject, data, "1")
    good, gone, moved = (attached(publisher, subject, f"application/vnd.{name}") for name in ("a", "b", "c"))
    for one in (good, gone, moved):
        publisher.attach(one)
    entries = [
        {"mediaType": MANIFEST, "digest": str(one.descriptor.digest), "size": one.descriptor.size + (one is moved)}
        for one in (good, gone, moved)
    ]
    stranger = attached(publisher, good.descriptor)
    publisher.attach(stranger)
    entries.append({"mediaType": MANIFEST, "digest": str(stranger.descriptor.digest), "size": len(stranger.data)})
    del target.manifests[str(gone.descriptor.digest)]
    index = json.dumps({"schemaVersion": 2, "mediaType": fault_index(), "manifests": entries}).encode()
    answer = fault.answering(200, {"Content-Type": fault_index()}, index)
    target.faults["referrers"] = [answer, answer]
    found, wrong = publisher.client.attached(subject.digest)
    assert found == [good]
    assert len(wrong) == 3
    found, wrong = publisher.client.attached(subject.digest, limit=1)
    assert wrong == ["3 more are listed, which were not looked at"]


def test_pages(publisher, target):
    target.lists, target.page = True, 2
    subject, data = image(publisher)
    publisher.put_manifest(subject, data, "1")
    for number in range(5):
        publisher.attach(attached(publisher, subject, f"application/vnd.n{number}"))
    assert len(publisher.client.referrers(subject.digest)) == 5


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ('</v2/os/web/referrers/x>; rel="next"', "more than 20 pages"),
        ('<http://127.0.0.2:1/v2/x>; rel="next"', "another host"),
        ("<file:///etc/passwd>; rel=next", "not at an http server"),
    ],
)
def test_pages_without_end(publisher, target, link, why):
    body = json.dumps({"schemaVersion": 2, "mediaType": fault_index(), "manifests": []}).encode()
    target.faults["referrers"] = [fault.answering(200, {"Content-Type": fault_index(), "Link": link}, body)] * 40
    with pytest.raises(Refused, match=why):
        publisher.client.referrers(Digest.of(b""))


def test_read_blob(publisher, target):
    publisher.put_blob(blob(DATA), lambda: io.BytesIO(DATA))
    assert publisher.client.read_blob(blob(DATA)) == DATA
    with pytest.raises(Refused, match="more than 1000"):
        publisher.client.read_blob(blob(DATA), limit=1000)
    target.blobs[str(Digest.of(DATA))] = DATA[:-1] + b"x"
    with pytest.raises(Refused, match="its digest is not"):
        publisher.client.read_blob(blob(DATA))


def test_basic_credentials_go_along(reader, serve):
    target = serve(Registry(user=USER))
    reader.write("run/containers/1000/auth.json", json.dumps({"auths": {target.address: {"auth": SECRET}}}))
    send(publish_to(reader, target))
    assert set(target.secrets()) == {basic(*USER)}


def test_cut_ends_what_is_under_way(reader, serve):
    """As Ctrl-C has it end, wherever another thread is."""
    target = serve(Registry())
    target.faults["upload"] = [fault.stalled(0, 100)]
    reader.patience = replace(reader.patience, answer=100, silence=100)
    publisher, ended = publish_to(reader, target), []

    def work():
        with pytest.raises((Cut, NetworkFailed)):
            send(publisher)
        ended.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    while not target.seen:
        time.sleep(0.01)
    started = time.monotonic()
    reader.made[-1].cut()
    thread.join()
    assert ended[0] - started < 50


def test_throttle():
    """All bytes of all threads together, after what may go at once."""
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    throttle = Throttle(1000, clock=lambda: now[0], sleep=sleep)
    for _ in range(20):
        throttle.passed(100)
    assert 1.7 <= now[0] - 100 <= 2.0
    now[0] += 1000
    slept.clear()
    throttle.passed(200)
    assert slept == [], "what was not used is not saved up for ever, and a little of it is"
    throttle.passed(1000)
    assert sum(slept) == pytest.approx(0.95)


def test_limited(reader, serve):
    target = serve(Registry())
    reader.throttle = Throttle(1 << 20)
    publisher = publish_to(reader, target)
    started = time.monotonic()
    send(publisher)
    assert publisher.client.read_blob(blob(DATA)) == DATA
    assert time.monotonic() - started > 1.4


def test_scopes_are_merged():
    assert merged("repository:a:pull repository:b:pull", "", "repository:a:push,pull") == (
        "repository:a:pull,push",
        "repository:b:pull",
    )
