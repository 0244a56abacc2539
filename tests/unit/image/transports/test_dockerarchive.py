import gzip
import hashlib
import io
import json
import tarfile

import pytest

from keelboot.failure import ImageNotFound, InvalidImage
from keelboot.image.compression import Compression
from keelboot.image.layers import read_tree
from keelboot.image.reference import Reference
from keelboot.image.transports import exists, fingerprint, open_image
from keelboot.image.tree import walk


def _sha(data):
    return hashlib.sha256(data).hexdigest()


class Saved:
    """Writes what `docker save` writes."""

    def __init__(self, path):
        self.path = path
        self.members = []  # (name, content) or (name, content, target of the link)
        self.images = []

    def image(self, tags, layers, *, files=None, config_name=None, **changes):
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": ["sha256:" + _sha(layer) for layer in layers]},
            }
            | changes
        ).encode()
        name = config_name or _sha(config) + ".json"
        self.members.append((name, config))
        if files is None:
            files = [_sha(layer) + ".tar" for layer in layers]
            self.members.extend(zip(files, layers, strict=True))
        self.images.append({"Config": name, "RepoTags": tags, "Layers": files})
        return _sha(config)

    def write(self):
        with tarfile.open(self.path, "w") as archive:
            for name, content, *target in [*self.members, ("manifest.json", json.dumps(self.images).encode())]:
                info = tarfile.TarInfo(name)
                if target:
                    info.type, info.linkname = tarfile.SYMTYPE, target[0]
                else:
                    info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    def reference(self, tag=None):
        return Reference.parse(f"docker-archive:{self.path}" + (f":{tag}" if tag else ""))


@pytest.fixture
def saved(tmp_path):
    return Saved(tmp_path / "x.tar")


def _paths(reference, sink):
    with open_image(reference) as image:
        return [path for path, _ in walk(read_tree(image, sink))][1:]


def test_opens(saved, tar, sink):
    config = saved.image(["localhost/web:1"], [tar.end(tar.file(b"a", b"x" * 1000)), tar.end(tar.file(b"b"))])
    saved.write()
    assert _paths(saved.reference(), sink) == [b"/a", b"/b"]
    assert fingerprint(saved.reference()) == config
    with open_image(saved.reference()) as image:
        assert str(image.manifest.config.digest) == f"sha256:{config}"
        assert str(image.manifest_digest) == "sha256:" + _sha(image.manifest_bytes)
        first = image.manifest_bytes
    with open_image(saved.reference()) as image:
        assert image.manifest_bytes == first


def test_compressed_layers(saved, tar, sink):
    layer = tar.end(tar.file(b"a", b"x" * 1000))
    saved.image(["x:1"], [layer], files=["layer.tar.gz"])
    saved.members.append(("layer.tar.gz", gzip.compress(layer)))
    saved.write()
    assert _paths(saved.reference(), sink) == [b"/a"]
    with open_image(saved.reference()) as image:
        assert image.layers[0].compression is Compression.GZIP
        assert str(image.layers[0].descriptor.digest) == "sha256:" + _sha(gzip.compress(layer))


def test_layers_that_are_links(saved, tar, sink):
    layer = tar.end(tar.file(b"a"))
    saved.image(["x:1"], [layer, layer], files=["1/layer.tar", "2/layer.tar"])
    saved.members.append(("1/layer.tar", layer))
    saved.members.append(("2/layer.tar", b"", "../1/layer.tar"))
    saved.write()
    assert _paths(saved.reference(), sink) == [b"/a"]


def test_tags(saved, tar, sink):
    saved.image(["localhost/web:1"], [tar.end(tar.file(b"one"))])
    saved.image(["localhost/web:2", "docker.io/library/web:3"], [tar.end(tar.file(b"two"))])
    saved.write()
    assert _paths(saved.reference("web:1"), sink) == [b"/one"]
    assert _paths(saved.reference("localhost/web:2"), sink) == [b"/two"]
    assert _paths(saved.reference("web:3"), sink) == [b"/two"]
    for tag in (None, "web:4"):
        assert not exists(saved.reference(tag))
        with pytest.raises(ImageNotFound) as failure:
            _paths(saved.reference(tag), sink)
        assert "'localhost/web:1'" in failure.value.fix


def _config_of_another_name(saved, layer):
    saved.image(["x:1"], [layer], config_name="0" * 64 + ".json")


def _layer_missing(saved, layer):
    saved.image(["x:1"], [layer], files=["no.tar"])


def _layer_outside(saved, layer):
    saved.image(["x:1"], [layer], files=["l.tar"])
    saved.members.append(("l.tar", b"", "/etc/passwd"))


def _link_to_itself(saved, layer):
    saved.image(["x:1"], [layer], files=["l.tar"])
    saved.members.append(("l.tar", b"", "l.tar"))


def _too_few_layers(saved, layer):
    saved.image(["x:1"], [layer], files=[])


def _layer_of_other_content(saved, layer):
    saved.image(["x:1"], [layer], files=["l.tar"])
    saved.members.append(("l.tar", layer + bytes(512)))


@pytest.mark.parametrize(
    "make",
    [
        _config_of_another_name, _layer_missing, _layer_outside, _link_to_itself, _too_few_layers,
        _layer_of_other_content,
    ],
)  # fmt: skip
def test_refuses(make, saved, tar, sink):
    make(saved, tar.end(tar.file(b"a")))
    saved.write()
    with pytest.raises(InvalidImage):
        _paths(saved.reference(), sink)


@pytest.mark.parametrize("text", [b"{}", b"[1]", b'[{"Config": 1}]', b'[{"Layers": []}]', b"[", b'[{"a":1,"a":2}]'])
def test_refuses_manifest(text, saved, sink):
    saved.members.append(("manifest.json", text))
    with tarfile.open(saved.path, "w") as archive:
        info = tarfile.TarInfo("manifest.json")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    with pytest.raises(InvalidImage):
        _paths(saved.reference(), sink)
