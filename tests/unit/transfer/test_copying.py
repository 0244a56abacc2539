"""Images from every kind of place to every other: the same bytes there, or nothing to be seen."""

import gzip
import hashlib
import io
import json
import random
import tarfile
import threading
import time
from pathlib import Path

import pytest

from keelboot.failure import Failure, InvalidImage, NetworkFailed, NotWritable
from keelboot.image.reference import Reference
from keelboot.registry.endpoint import Clock
from keelboot.registry.opening import Registries
from keelboot.registry.outcome import How
from keelboot.registry.patience import Patience
from keelboot.registry.places import Places
from keelboot.transfer import crew
from keelboot.transfer.copying import Wishes, copy
from keelboot.transfer.known import Known
from simulated import registry as fault
from simulated.registry import Registry, serving
from small_images import BASE, archive, write_layout

PATIENCE = Patience(connect=2, answer=1, silence=0.5, tries=3, first_tries=2)
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
NOISE = random.Random(7).randbytes(600_000)


@pytest.fixture
def registry():
    with serving(Registry()) as started:
        yield started


@pytest.fixture
def layout(tmp_path):
    directory = tmp_path / "source"
    write_layout(directory, BASE, {"noise": NOISE}, {"more": NOISE[::-1]})
    return directory


@pytest.fixture
def move(tmp_path):
    """Copy from one reference to another."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def act(source, destination, *, known=None, **wishes):
        environment = {"HOME": str(tmp_path / "home")}
        places = Places.usual(environment, uid=1000, root=tmp_path / "system")
        registries = Registries(places, patience=PATIENCE, clock=Clock(sleep=lambda _: None))
        ends = Reference.parse(str(source)), Reference.parse(str(destination))
        try:
            return copy(*ends, registries, Wishes(scratch=scratch, **wishes), known=known)
        finally:
            assert list(scratch.iterdir()) == [], "temporary files were left behind"

    return act


def blobs(directory):
    return {path.name: path.read_bytes() for path in (directory / "blobs/sha256").iterdir()}


def sound(directory):
    return all(hashlib.sha256(data).hexdigest() == name for name, data in blobs(directory).items())


def top(directory):
    return json.loads((directory / "index.json").read_text())["manifests"][0]


def methods(registry):
    return [seen.method for seen in registry.seen]


def test_round_trip(move, registry, layout, tmp_path):
    pushed = move(f"oci:{layout}", f"docker://{registry.address}/os/web:1")
    pulled = move(f"docker://{registry.address}/os/web:1", f"oci:{tmp_path}/copy:web")
    archived = move(f"oci:{tmp_path}/copy:web", f"oci-archive:{tmp_path}/copy.tar:x")
    back = move(f"oci-archive:{tmp_path}/copy.tar:x", f"oci:{tmp_path}/back")
    assert {str(one.digest) for one in (pushed, pulled, archived, back)} == {top(layout)["digest"]}
    assert blobs(tmp_path / "copy") == blobs(tmp_path / "back") == blobs(layout)
    assert top(tmp_path / "copy")["annotations"] == {"org.opencontainers.image.ref.name": "web"}
    assert "annotations" not in top(tmp_path / "back")
    assert [one.how for one in pushed.blobs] == [How.SENT] * 4
    assert registry.uploads == {}


def test_several_at_once(move, registry, layout):
    gate = threading.Barrier(3)

    def together(_, reply):
        gate.wait(10)
        return reply

    registry.faults["put"] = [together] * 3
    move(f"oci:{layout}", f"docker://{registry.address}/os/web:1", jobs=3)
    assert len({seen.connection for seen in registry.seen if seen.method == "PUT"}) == 3


def test_nothing_is_sent_twice(move, registry, layout):
    to = f"docker://{registry.address}/os/web:1"
    move(f"oci:{layout}", to)
    registry.seen.clear()
    again = move(f"oci:{layout}", to)
    assert {one.how for one in again.blobs} == {How.THERE}
    assert set(methods(registry)) == {"HEAD"}
    other = move(f"oci:{layout}", f"docker://{registry.address}/os/web:2")
    assert {one.how for one in other.blobs} == {How.THERE}
    assert registry.manifests["2"] == registry.manifests["1"]


def test_a_tag_moves(move, registry, layout, tmp_path):
    to = f"docker://{registry.address}/os/web:1"
    move(f"oci:{layout}", to)
    write_layout(tmp_path / "other", BASE)
    copied = move(f"oci:{tmp_path}/other", to)
    assert registry.manifests["1"] == registry.manifests[str(copied.digest)]
    assert [one.how for one in copied.blobs].count(How.THERE) == 1


def test_mounts_what_is_at_the_same_registry(move, registry, layout):
    registry.add(layout, "1")
    registry.elsewhere["os/web"] = registry.blobs
    registry.blobs = {name: data for name, data in registry.blobs.items() if data.startswith(b"{")}
    copied = move(f"docker://{registry.address}/os/web:1", f"docker://{registry.address}/os/copy:1")
    assert [one.how for one in copied.blobs] == [*[How.MOUNTED] * 3, How.THERE]
    assert registry.received < 2000, "something besides the manifest was sent"


def test_mounts_what_an_earlier_copy_saw(move, registry, layout, tmp_path):
    known = tmp_path / "cache/transfers.json"
    move(f"oci:{layout}", f"docker://{registry.address}/os/web:1", known=Known(known))
    registry.elsewhere["os/web"], registry.blobs = registry.blobs, {}
    copied = move(f"oci:{layout}", f"docker://{registry.address}/os/copy:1", known=Known(known))
    assert {one.how for one in copied.blobs} == {How.MOUNTED}
    assert known.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"version": 1, "compressed": {"x": 1}, "places": {}}'])
def test_a_cache_that_is_none(move, registry, layout, tmp_path, content):
    known = tmp_path / "transfers.json"
    known.write_bytes(content)
    move(f"oci:{layout}", f"docker://{registry.address}/os/web:1", known=Known(known))
    assert json.loads(known.read_text())["version"] == 1


def test_dry_run_changes_nothing(move, registry, layout, tmp_path):
    copied = move(f"oci:{layout}", f"docker://{registry.address}/os/web:1", dry_run=True)
    assert {one.how for one in copied.blobs} == {How.SENT}
    assert set(methods(registry)) == {"HEAD"}
    for to in (f"oci:{tmp_path}/copy", f"oci-archive:{tmp_path}/copy.tar"):
        assert str(move(f"oci:{layout}", to, dry_run=True).digest) == top(layout)["digest"]
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "copy.tar").exists()


def index_of(layout):
    """Turn LAYOUT into an index of an amd64 and an arm64 image, and of something that is no image."""
    amd64 = top(layout)
    manifest = json.loads(blobs(layout)[amd64["digest"][7:]])

    def put(data, media_type, **more):
        name = hashlib.sha256(data).hexdigest()
        (layout / "blobs/sha256" / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data), **more}

    config = json.loads(blobs(layout)[manifest["config"]["digest"][7:]]) | {"architecture": "arm64"}
    other = manifest | {"config": put(json.dumps(config).encode(), manifest["config"]["mediaType"])}
    arm64 = put(json.dumps(other).encode(), MANIFEST, platform={"os": "linux", "architecture": "arm64"})
    amd64["platform"] = {"os": "linux", "architecture": "amd64"}
    statement = put(b'{"_type": "x"}', "application/vnd.in-toto+json")
    empty = put(b"{}", "application/vnd.oci.empty.v1+json")
    artifact = {"schemaVersion": 2, "mediaType": MANIFEST, "config": empty, "layers": [statement]}
    unknown = {"os": "unknown", "architecture": "unknown"}
    proof = put(json.dumps(artifact).encode(), MANIFEST, platform=unknown)
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [amd64, arm64, proof]}
    data = json.dumps(index).encode()
    whole = put(data, INDEX)
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [whole]}))
    return whole["digest"], arm64["digest"]


def test_whole_index(move, registry, layout, tmp_path):
    index, _ = index_of(layout)
    copied = move(f"oci:{layout}", f"docker://{registry.address}/os/web:1", whole=True)
    assert str(copied.digest) == index
    assert copied.media_type == INDEX
    assert copied.images == 3
    assert registry.manifests["1"] == (INDEX, blobs(layout)[index[7:]])
    move(f"docker://{registry.address}/os/web:1", f"oci:{tmp_path}/copy", whole=True)
    assert blobs(tmp_path / "copy") == blobs(layout)
    move(f"docker://{registry.address}/os/web:1", f"oci-archive:{tmp_path}/copy.tar", whole=True)
    move(f"oci-archive:{tmp_path}/copy.tar", f"oci:{tmp_path}/again", whole=True)
    assert blobs(tmp_path / "again") == blobs(layout)


def test_one_architecture_of_an_index(move, registry, layout):
    _, arm64 = index_of(layout)
    copied = move(f"oci:{layout}", f"docker://{registry.address}/os/web:1", architecture="arm64")
    assert str(copied.digest) == arm64
    assert "1" in registry.manifests
    assert len([name for name in registry.manifests if ":" in name]) == 1


def test_whole_of_a_single_image(move, registry, layout):
    copied = move(f"oci:{layout}", f"docker://{registry.address}/os/web:1", whole=True)
    assert str(copied.digest) == top(layout)["digest"]


def attach(registry, subject):
    """A referrer, in the list of the registry or of clients, and a tag of cosign's."""
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": f"sha256:{sha(b'{}')}", "size": 2}
    layer = {"mediaType": "application/vnd.example", "digest": f"sha256:{sha(b'bundle')}", "size": 6}
    registry.blobs |= {config["digest"]: b"{}", layer["digest"]: b"bundle"}
    signature = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
    about = {"mediaType": MANIFEST, "digest": subject, "size": len(registry.manifests[subject][1])}
    data = json.dumps(signature | {"subject": about, "artifactType": "application/vnd.example"}).encode()
    digest = registry.put(data, MANIFEST)
    tag = subject.replace(":", "-")
    if not registry.lists:
        entry = {"mediaType": MANIFEST, "digest": digest, "size": len(data)}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
        registry.put(json.dumps(index).encode(), INDEX, tag)
    registry.put(json.dumps(signature).encode(), MANIFEST, f"{tag}.sig")
    return digest, tag


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("lists", [False, True])
def test_what_is_attached_goes_along(move, registry, layout, lists):
    """And is there before the name is, whether or not the registries keep lists."""
    registry.lists = not lists
    subject = registry.add(layout, "1")
    digest, tag = attach(registry, subject)
    with serving(Registry(lists=lists)) as other:
        copied = move(f"docker://{registry.address}/os/web:1", f"docker://{other.address}/os/web:1", attached=True)
        assert copied.attached == 2
        assert other.manifests[digest] == registry.manifests[digest]
        assert other.manifests[f"{tag}.sig"] == registry.manifests[f"{tag}.sig"]
        assert (tag in other.manifests) is not lists
        published = [
            seen.path.rpartition("/")[2] for seen in other.seen if seen.method == "PUT" and "/manif" in seen.path
        ]
        assert published[-1] == "1"
        plain = move(f"docker://{registry.address}/os/web:1", f"docker://{other.address}/os/web:2")
        assert plain.attached == 0


def test_what_is_attached_stays_in_registries(move, registry, layout):
    with pytest.raises(Failure, match="is not in a registry"):
        move(f"oci:{layout}", f"docker://{registry.address}/os/web:1", attached=True)
    assert registry.seen == []


def test_by_digest(move, registry, layout):
    digest = top(layout)["digest"]
    move(f"oci:{layout}", f"docker://{registry.address}/os/web@{digest}")
    assert set(registry.manifests) == {digest}
    with pytest.raises(Failure, match=f"the image has the digest {digest}"):
        move(f"oci:{layout}", f"docker://{registry.address}/os/web@sha256:{'0' * 64}")


def spoil(directory, change):
    """Change the largest blob of the layout."""
    path = max((directory / "blobs/sha256").iterdir(), key=lambda one: one.stat().st_size)
    path.write_bytes(change(path.read_bytes()))
    return path


SPOILT = {
    "changed": lambda data: data[:-9] + b"x" + data[-8:],
    "shorter": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
}


@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("kind", ["registry", "oci", "oci-archive"])
def test_wrong_bytes_are_not_copied(move, registry, layout, tmp_path, change, kind):
    spoil(layout, change)
    to = {
        "registry": f"docker://{registry.address}/os/web:1",
        "oci": f"oci:{tmp_path}/copy",
        "oci-archive": f"oci-archive:{tmp_path}/copy.tar",
    }[kind]
    with pytest.raises(InvalidImage, match=r"digest|longer|bytes"):
        move(f"oci:{layout}", to)
    assert registry.manifests == {}
    assert not (tmp_path / "copy/index.json").exists()
    assert not (tmp_path / "copy.tar").exists()
    if (tmp_path / "copy").exists():
        assert sound(tmp_path / "copy")


def test_wrong_bytes_from_a_registry(move, registry, layout, tmp_path):
    registry.add(layout, "1")
    name = max(registry.blobs, key=lambda one: len(registry.blobs[one]))
    registry.blobs[name] = registry.blobs[name][:-9] + b"x" + registry.blobs[name][-8:]
    with pytest.raises(InvalidImage, match="the digest of the blob"):
        move(f"docker://{registry.address}/os/web:1", f"oci:{tmp_path}/copy")
    assert not (tmp_path / "copy/index.json").exists()
    assert sound(tmp_path / "copy")
    with serving(Registry()) as other, pytest.raises(InvalidImage, match="its digest is not"):
        move(f"docker://{registry.address}/os/web:1", f"docker://{other.address}/os/web:1")
    assert other.manifests == {}


def test_goes_on_with_what_is_there(move, registry, layout, tmp_path):
    registry.add(layout, "1")
    to = tmp_path / "copy"
    registry.faults["blob"] = [*[fault.with_headers({})] * 2, *[fault.dropped] * 40]
    with pytest.raises(NetworkFailed):
        move(f"docker://{registry.address}/os/web:1", f"oci:{to}", jobs=1)
    assert not (to / "index.json").exists()
    there = len(blobs(to))
    assert there
    registry.faults["blob"].clear()
    copied = move(f"docker://{registry.address}/os/web:1", f"oci:{to}")
    assert [one.how for one in copied.blobs].count(How.THERE) == there
    assert blobs(to) == blobs(layout)


def test_damaged_files_are_written_again(move, layout, tmp_path):
    move(f"oci:{layout}", f"oci:{tmp_path}/copy")
    spoil(tmp_path / "copy", SPOILT["changed"])
    copied = move(f"oci:{layout}", f"oci:{tmp_path}/copy")
    assert [one.how for one in copied.blobs].count(How.SENT) == 1
    assert blobs(tmp_path / "copy") == blobs(layout)


def test_beside_other_images(move, layout, tmp_path):
    write_layout(tmp_path / "other", BASE)
    for source, name in (("source", ":a"), ("other", ":b"), ("source", ":b"), ("other", "")):
        move(f"oci:{tmp_path}/{source}", f"oci:{tmp_path}/copy{name}")
    entries = json.loads((tmp_path / "copy/index.json").read_text())["manifests"]
    names = [(one.get("annotations") or {}).get("org.opencontainers.image.ref.name") for one in entries]
    assert names == ["a", "b", None]
    assert [one["digest"] for one in entries[:2]] == [top(layout)["digest"]] * 2


def test_no_layout_is_overwritten(move, layout, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotWritable, match="not empty"):
        move(f"oci:{layout}", f"oci:{tmp_path}/mine")
    with pytest.raises(NotWritable, match="not a directory"):
        move(f"oci:{layout}", f"oci:{tmp_path}/file")
    write_layout(tmp_path / "broken", BASE)
    (tmp_path / "broken/index.json").write_text("{")
    with pytest.raises(InvalidImage, match=r"index\.json"):
        move(f"oci:{layout}", f"oci:{tmp_path}/broken")
    assert (tmp_path / "broken/index.json").read_text() == "{"


def test_archives_are_the_same_bytes(move, layout, tmp_path):
    for name in ("a", "b"):
        move(f"oci:{layout}", f"oci-archive:{tmp_path}/{name}.tar:x")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    write_layout(tmp_path / "other", BASE)
    with pytest.raises(NotWritable, match="it exists"):
        move(f"oci:{tmp_path}/other", f"oci-archive:{tmp_path}/a.tar:x")
    spoil(layout, SPOILT["changed"])
    with pytest.raises(InvalidImage):
        move(f"oci:{layout}", f"oci-archive:{tmp_path}/a.tar:x", replace=True)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    move(f"oci:{tmp_path}/other", f"oci-archive:{tmp_path}/a.tar:x", replace=True)
    assert (tmp_path / "a.tar").read_bytes() != (tmp_path / "b.tar").read_bytes()


def docker_archive(file):
    """What `docker save` writes."""
    layers = [archive(BASE), archive({"noise": NOISE})]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers]},
    }
    members = {f"{number}/layer.tar": data for number, data in enumerate(layers)}
    members["config.json"] = json.dumps(config).encode()
    entry = {"Config": "config.json", "RepoTags": ["web:1"], "Layers": [*members][:2]}
    members["manifest.json"] = json.dumps([entry]).encode()
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return layers, json.dumps(config).encode()


def test_plain_layers_are_compressed_once(move, registry, tmp_path):
    layers, config = docker_archive(tmp_path / "saved.tar")
    known = tmp_path / "transfers.json"
    source = f"docker-archive:{tmp_path}/saved.tar"
    first = move(source, f"docker://{registry.address}/os/web:1", known=Known(known))
    assert {one.how for one in first.blobs} == {How.SENT}
    manifest = json.loads(registry.manifests["1"][1])
    assert registry.blobs[manifest["config"]["digest"]] == config
    assert [gzip.decompress(registry.blobs[one["digest"]]) for one in manifest["layers"]] == layers
    assert {one["mediaType"] for one in manifest["layers"]} == {"application/vnd.docker.image.rootfs.diff.tar.gzip"}
    # Time and name are not in it.
    assert {registry.blobs[one["digest"]][3:8] for one in manifest["layers"]} == {bytes(5)}
    spoilt = tmp_path / "saved.tar"
    data = spoilt.read_bytes()
    at = data.index(NOISE)
    spoilt.write_bytes(data[:at] + b"x" + data[at + 1 :])
    again = move(source, f"docker://{registry.address}/os/web:1", known=Known(known))
    assert {one.how for one in again.blobs} == {How.THERE}, "it was read and compressed again"
    assert again.digest == first.digest


def test_compressed_the_same_everywhere(move, registry, tmp_path):
    docker_archive(tmp_path / "saved.tar")
    source = f"docker-archive:{tmp_path}/saved.tar"
    found = [
        move(source, to).digest
        for to in (f"docker://{registry.address}/os/web:1", f"oci:{tmp_path}/a", f"oci-archive:{tmp_path}/a.tar")
    ]
    assert len(set(found)) == 1


def test_dry_run_does_not_compress(move, registry, tmp_path):
    docker_archive(tmp_path / "saved.tar")
    copied = move(f"docker-archive:{tmp_path}/saved.tar", f"docker://{registry.address}/os/web:1", dry_run=True)
    assert copied.digest is None
    assert [one.digest is None for one in copied.blobs] == [True, True, False]


def test_wrong_plain_layer(move, registry, tmp_path):
    docker_archive(tmp_path / "saved.tar")
    data = (tmp_path / "saved.tar").read_bytes()
    at = data.index(NOISE)
    (tmp_path / "saved.tar").write_bytes(data[:at] + b"x" + data[at + 1 :])
    with pytest.raises(InvalidImage, match="the digest of the blob"):
        move(f"docker-archive:{tmp_path}/saved.tar", f"docker://{registry.address}/os/web:1")
    assert registry.manifests == {}


def members(file):
    with tarfile.open(file) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar}


def test_docker_archives_have_plain_layers(move, registry, layout, tmp_path):
    move(f"oci:{layout}", f"docker-archive:{tmp_path}/a.tar:localhost/web:1")
    found = members(tmp_path / "a.tar")
    (entry,) = json.loads(found["manifest.json"])
    assert entry["RepoTags"] == ["localhost/web:1"]
    config = json.loads(found[entry["Config"]])
    digests = [f"sha256:{hashlib.sha256(found[name]).hexdigest()}" for name in entry["Layers"]]
    assert digests == config["rootfs"]["diff_ids"]
    # Its id stays, and what is plain stays so on its way to another one.
    move(f"docker-archive:{tmp_path}/a.tar", f"docker-archive:{tmp_path}/b.tar:localhost/web:1")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    move(f"docker-archive:{tmp_path}/a.tar", f"docker://{registry.address}/os/web:1")
    assert f"{json.loads(registry.manifests['1'][1])['config']['digest'][7:]}.json" == entry["Config"]


def test_docker_archives_are_replaced_whole(move, layout, tmp_path):
    file = tmp_path / "a.tar"
    move(f"oci:{layout}", f"docker-archive:{file}")
    before = file.read_bytes()
    write_layout(tmp_path / "other", BASE)
    with pytest.raises(NotWritable, match="it exists"):
        move(f"oci:{tmp_path}/other", f"docker-archive:{file}")
    spoil(layout, SPOILT["changed"])
    with pytest.raises(InvalidImage):
        move(f"oci:{layout}", f"docker-archive:{file}", replace=True)
    assert file.read_bytes() == before
    move(f"oci:{tmp_path}/other", f"docker-archive:{file}", replace=True)
    assert file.read_bytes() != before


def test_docker_archives_hold_what_the_config_says(move, tmp_path):
    docker_archive(tmp_path / "saved.tar")
    data = (tmp_path / "saved.tar").read_bytes()
    at = data.index(NOISE)
    (tmp_path / "saved.tar").write_bytes(data[:at] + b"x" + data[at + 1 :])
    with pytest.raises(InvalidImage, match="digest"):
        move(f"docker-archive:{tmp_path}/saved.tar", f"docker-archive:{tmp_path}/copy.tar")
    assert not (tmp_path / "copy.tar").exists()


def test_a_failure_ends_the_others(move, registry, layout):
    """At once, and it is told, not what became of them."""
    registry.faults["put"] = [fault.stalled(0, 100), fault.stalled(0, 100), fault.answering(403)]
    started = time.monotonic()
    with pytest.raises(Failure, match="cannot push to"):
        move(f"oci:{layout}", f"docker://{registry.address}/os/web:1", jobs=4)
    assert time.monotonic() - started < 50
    assert registry.manifests == {}


def test_a_registry_that_misbehaves_is_told_of(move, registry, layout):
    registry.faults["head"] = [fault.redirecting("/v2/os/web/blobs/x")] * 100
    with pytest.raises(NetworkFailed, match=r"cannot push to .*redirects more than"):
        move(f"oci:{layout}", f"docker://{registry.address}/os/web:1", jobs=1)


def test_the_crew_returns_in_order():
    tasks = [lambda number=number: time.sleep(0.02 * (3 - number)) or number for number in range(3)]
    assert crew.run(tasks, jobs=3, cut=lambda: None) == [0, 1, 2]
    assert crew.run([], jobs=3, cut=lambda: None) == []


def test_the_crew_stops_at_the_first_failure():
    done: list[int] = []

    def fail():
        raise ValueError("here")

    ended = threading.Event()
    tasks = [lambda: ended.wait(5), fail, *(lambda number=number: done.append(number) for number in range(50))]
    with pytest.raises(ValueError, match="here"):
        crew.run(tasks, jobs=2, cut=ended.set)
    assert len(done) < 3


def test_nothing_but_what_was_asked_for(move, registry, layout, tmp_path):
    """Files beside the image stay where they are."""
    (layout / "blobs/sha256" / ("0" * 64)).write_bytes(b"secret")
    move(f"oci:{layout}", f"oci:{tmp_path}/copy")
    assert "0" * 64 not in blobs(Path(tmp_path / "copy"))
    assert registry.seen == []
