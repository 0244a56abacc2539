import json
import os
import shutil
import tarfile

import pytest

from keelboot.failure import CannotFinish, Failure, ImageNotFound, InvalidImage
from keelboot.image import remote
from keelboot.image.documents import OCI_INDEX
from keelboot.image.layers import read_tree
from keelboot.image.reference import Reference
from keelboot.image.transports import exists, fingerprint, open_image
from keelboot.image.tree import walk


def _paths(reference, sink, **options):
    with open_image(reference, **options) as image:
        return [path for path, _ in walk(read_tree(image, sink))][1:]


def test_opens(layout, tar):
    descriptor = layout.image(tar.end(tar.file(b"a")), config={"config": {"Labels": {"x": "y"}}})
    with open_image(layout.reference()) as image:
        assert str(image.manifest_digest) == descriptor["digest"]
        assert len(image.manifest_bytes) == descriptor["size"]
        assert image.config.labels == {"x": "y"}
        assert json.loads(image.config_bytes)["os"] == "linux"
        assert [layer.diff_id for layer in image.layers] == list(image.config.diff_ids)
        with image.open_layer(image.layers[0]) as file:
            assert file.read(2) == b"\x1f\x8b"


def test_tags(layout, tar, sink):
    one = layout.image(tar.end(tar.file(b"one")), tag="1")
    layout.image(tar.end(tar.file(b"two")), tag="localhost/web:2")
    assert _paths(layout.reference("1"), sink) == [b"/one"]
    assert _paths(layout.reference("localhost/web:2"), sink) == [b"/two"]
    assert fingerprint(layout.reference("1")) == one["digest"] != fingerprint(layout.reference("localhost/web:2"))
    for tag in (None, "3"):
        assert not exists(layout.reference(tag))
        with pytest.raises(ImageNotFound) as failure:
            _paths(layout.reference(tag), sink)
        assert "'1', 'localhost/web:2'" in failure.value.fix


def test_d12_platforms(layout, tar, sink):
    for name in ("amd64", "arm64"):
        platform = {"os": "linux", "architecture": name}
        layout.image(tar.end(tar.file(name.encode())), config={"architecture": name}, tag="x", platform=platform)
    nested = layout.document({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": layout.manifests}, OCI_INDEX)
    for manifests in (None, [nested]):
        layout.index(manifests)
        assert _paths(layout.reference("x" if manifests is None else None), sink, architecture="arm64") == [b"/arm64"]
        assert _paths(layout.reference(), sink, architecture="x86_64") == [b"/amd64"]
        with pytest.raises(CannotFinish, match="no image for linux/s390x; it has linux/amd64, linux/arm64"):
            _paths(layout.reference(), sink, architecture="s390x")


def test_d12_the_only_image_is_for_another_machine(layout, tar, sink):
    layout.image(tar.end(tar.file(b"a")), config={"architecture": "s390x"})
    assert _paths(layout.reference(), sink) == [b"/a"]
    with pytest.raises(CannotFinish, match="for 's390x', not for amd64"):
        _paths(layout.reference(), sink, architecture="amd64")


def test_d13_an_index_in_an_index_in_the_index(layout, tar, sink):
    layout.image(tar.end(tar.file(b"a")))
    inner = layout.document({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": layout.manifests}, OCI_INDEX)
    outer = layout.document({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [inner]}, OCI_INDEX)
    layout.index([inner])
    assert _paths(layout.reference(), sink) == [b"/a"]
    layout.index([outer])
    with pytest.raises(InvalidImage, match="not the manifest of an image"):
        _paths(layout.reference(), sink)


def test_d02_descriptor_and_document_disagree(layout, tar, sink):
    manifest = layout.image(tar.end(tar.file(b"a")))
    layout.index([manifest | {"mediaType": OCI_INDEX}])
    with pytest.raises(InvalidImage):
        _paths(layout.reference(), sink)


@pytest.mark.parametrize("change", [{"size": 1}, {"size": 10_000}, {"size": 5 << 20}, {"digest": "sha256:" + "0" * 64}])
def test_d09_descriptor_that_is_wrong(change, layout, tar, sink):
    manifest = layout.image(tar.end(tar.file(b"a")))
    layout.index([manifest | change])
    with pytest.raises(InvalidImage):
        _paths(layout.reference(), sink)


def test_d17_an_artifact(layout, tar, sink):
    layout.image(tar.end(tar.file(b"a")), manifest={"artifactType": "application/x"})
    with pytest.raises(InvalidImage, match="artifact"):
        _paths(layout.reference(), sink)


def test_another_operating_system(layout, tar, sink):
    layout.image(tar.end(tar.file(b"a")), config={"os": "windows"})
    with pytest.raises(InvalidImage, match="windows"):
        _paths(layout.reference(), sink)


@pytest.mark.parametrize("name", ["oci-layout", "index.json", "blobs"])
def test_something_missing(name, layout, tar, sink):
    layout.image(tar.end(tar.file(b"a")))
    path = layout.path / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InvalidImage, match="missing"):
        _paths(layout.reference(), sink)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_read(make, layout, tar, sink):
    descriptor = layout.image(tar.end(tar.file(b"a")))
    blob = layout.path / "blobs/sha256" / descriptor["digest"][7:]
    blob.unlink()
    make(blob)
    with pytest.raises(InvalidImage, match=r"ordinary file|cannot be read"):
        _paths(layout.reference(), sink)


def test_links_of_a_layout_are_not_followed(layout, tar, sink, tmp_path):
    descriptor = layout.image(tar.end(tar.file(b"a")))
    blob = layout.path / "blobs/sha256" / descriptor["digest"][7:]
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidImage, match="cannot be read"):
        _paths(layout.reference(), sink)


def test_layout_of_another_version(layout, tar, sink):
    layout.image(tar.end(tar.file(b"a")))
    (layout.path / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    with pytest.raises(InvalidImage, match="version"):
        _paths(layout.reference(), sink)


def test_no_directory(tmp_path):
    with pytest.raises(ImageNotFound):
        fingerprint(Reference.parse(f"oci:{tmp_path}/none"))
    assert not exists(Reference.parse(f"oci:{tmp_path}/none"))


def test_registries_are_said_to_be_unsupported():
    remote.provide(None)  # as it is until the command line says how they are opened
    with pytest.raises(Failure, match="registries") as failure, open_image(Reference.parse("quay.io/x/y:1")):
        pass
    assert "podman pull quay.io/x/y:1" in failure.value.fix


# oci-archive ---


def _archived(layout, path, mode="w"):
    with tarfile.open(path, mode) as archive:
        archive.add(layout.path, arcname=".")
    return Reference.parse(f"oci-archive:{path}")


def test_opens_an_archive(layout, tar, tmp_path, sink):
    descriptor = layout.image(tar.end(tar.file(b"a", os.urandom(500_000))), tag="localhost/x:1")
    reference = _archived(layout, tmp_path / "x.tar")
    assert _paths(reference, sink) == [b"/a"]
    assert [len(content) for content in sink.contents.values()] == [500_000]
    assert fingerprint(reference) == descriptor["digest"]
    assert _paths(Reference.parse(f"{reference}:localhost/x:1"), sink) == [b"/a"]


def test_a_compressed_archive_is_refused(layout, tar, tmp_path):
    layout.image(tar.end(tar.file(b"a")))
    with pytest.raises(InvalidImage, match="compressed as a whole"):
        fingerprint(_archived(layout, tmp_path / "x.tar", "w:gz"))


def test_an_archive_cut_short(layout, tar, tmp_path):
    layout.image(tar.end(tar.file(b"a", os.urandom(100_000))))
    reference = _archived(layout, tmp_path / "x.tar")
    size = (tmp_path / "x.tar").stat().st_size
    os.truncate(tmp_path / "x.tar", size - 40_000)
    with pytest.raises(InvalidImage, match=r"cut short|missing"):
        fingerprint(reference)


def test_an_archive_with_two_members_of_one_name(layout, tar, tmp_path):
    layout.image(tar.end(tar.file(b"a")))
    reference = _archived(layout, tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        archive.add(layout.path / "index.json", arcname="index.json")
    with pytest.raises(InvalidImage, match="two members"):
        fingerprint(reference)


@pytest.mark.parametrize("content", [b"", b"\0" * 10_240, b"not an archive" * 100])
def test_what_is_no_archive(content, tmp_path):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(InvalidImage):
        fingerprint(Reference.parse(f"oci-archive:{tmp_path}/x.tar"))


def test_a_directory_is_no_archive(tmp_path):
    with pytest.raises(ImageNotFound) as failure:
        fingerprint(Reference.parse(f"oci-archive:{tmp_path}"))
    assert f"oci:{tmp_path}" in failure.value.fix
