"""Makers of archives and layouts, byte by byte, so that tests can make what no archiver writes."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from keelboot.image.archive import Archive, Limits
from keelboot.image.layers import collect
from keelboot.image.reference import Reference
from keelboot.image.tree import Directory, ObjectId, walk

OCI = "application/vnd.oci.image."


class Sink:
    """Keeps contents by their SHA-256, which stands in for an fs-verity digest."""

    def __init__(self):
        self.contents = {}

    def add(self, size, chunks):
        content = b"".join(chunks)
        assert len(content) == size
        name = ObjectId(hashlib.sha256(content).hexdigest())
        self.contents[name] = content
        return name

    def read(self, node):
        return node.content if isinstance(node.content, bytes) else self.contents[node.content.object]


class Maker:
    """Makes the bytes of archives."""

    def header(self, name, kind=b"0", size=0, *, mode=0o644, uid=0, gid=0, mtime=0, link=b"", magic=b"ustar\x0000",
               major=b"", minor=b"", prefix=b"", tail=b"", checksum=None):  # fmt: skip
        """A header; numbers given as bytes are written as they are."""

        def number(value, width):
            if isinstance(value, bytes):
                return value.ljust(width, b"\0")
            text = b"%0*o\0" % (width - 1, value)
            return text if len(text) == width else b"\x80" + value.to_bytes(width - 1, "big")

        fields = [
            name.ljust(100, b"\0"), number(mode, 8), number(uid, 8), number(gid, 8), number(size, 12),
            number(mtime, 12), b" " * 8, kind, link.ljust(100, b"\0"), magic, bytes(64), number(major, 8),
            number(minor, 8), prefix.ljust(155, b"\0"), tail.rjust(12, b"\0"),
        ]  # fmt: skip
        block = b"".join(fields)
        assert len(block) == 512
        return block[:148] + (checksum or b"%06o\0 " % sum(block)) + block[156:]

    def padded(self, content):
        return content + bytes(-len(content) % 512)

    def file(self, name, content=b"", **fields):
        return self.header(name, size=fields.pop("size", len(content)), **fields) + self.padded(content)

    def dir(self, name, **fields):
        return self.header(name, b"5", mode=fields.pop("mode", 0o755), **fields)

    def link(self, name, target, **fields):
        return self.header(name, b"1", link=target, **fields)

    def symlink(self, name, target, **fields):
        return self.header(name, b"2", link=target, mode=0o777, **fields)

    def record(self, key, value):
        rest = b" " + key + b"=" + value + b"\n"
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        return str(length).encode() + rest

    def raw_pax(self, content, kind=b"x"):
        return self.header(b"PaxHeaders/x", kind, len(content)) + self.padded(content)

    def pax(self, *records, kind=b"x"):
        return self.raw_pax(b"".join(self.record(key, value) for key, value in records), kind)

    def gnu(self, kind, text):
        return self.header(b"././@LongLink", kind, len(text), magic=b"ustar  \0") + self.padded(text)

    def end(self, *parts):
        return b"".join(parts) + bytes(1024)

    def tree(self, *layers, sink=None):
        """The tree that uncompressed LAYERS, each a list of parts or bytes, add up to."""
        root = Directory(permissions=0o755)
        for layer in layers:
            data = layer if isinstance(layer, bytes) else self.end(*layer)
            collect(Archive([data]), sink or Sink()).apply(root)
        return root

    def paths(self, *layers):
        return [path for path, _ in walk(self.tree(*layers))][1:]

    def read(self, data, limits=None, block=None):
        """The (entry, content) of an archive, handed over in blocks of BLOCK bytes."""
        block = block or len(data) or 1
        pieces = [data[at : at + block] for at in range(0, len(data), block)]
        return [(entry, b"".join(content)) for entry, content in Archive(pieces, limits or Limits())]


class LayoutMaker:
    """Writes an OCI image layout."""

    def __init__(self, path: Path):
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests = []

    def blob(self, data: bytes, media_type: str, **more) -> dict:
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}

    def document(self, value, media_type: str, **more) -> dict:
        return self.blob(json.dumps(value).encode(), media_type, **more)

    def image(self, *layers: bytes, compress="gzip", tag=None, config=None, manifest=None, diff_ids=None, **more):
        """Add an image of uncompressed LAYERS and return its manifest's descriptor."""
        packed = [gzip.compress(layer, 1) if compress == "gzip" else layer for layer in layers]
        suffix = "+gzip" if compress == "gzip" else ""
        found = diff_ids or ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
        value = {
            "schemaVersion": 2,
            "mediaType": OCI + "manifest.v1+json",
            "config": self.document(
                {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": found}}
                | (config or {}),
                OCI + "config.v1+json",
            ),
            "layers": [self.blob(layer, OCI + "layer.v1.tar" + suffix) for layer in packed],
        } | (manifest or {})
        if tag is not None:
            more["annotations"] = {"org.opencontainers.image.ref.name": tag}
        descriptor = self.document(value, OCI + "manifest.v1+json", **more)
        self.manifests.append(descriptor)
        self.index()
        return descriptor

    def index(self, manifests=None, **more):
        value = {"schemaVersion": 2, "manifests": self.manifests if manifests is None else manifests} | more
        (self.path / "index.json").write_text(json.dumps(value))

    def reference(self, tag=None) -> Reference:
        return Reference.parse(f"oci:{self.path}" + (f":{tag}" if tag else ""))


@pytest.fixture
def tar() -> Maker:
    return Maker()


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def layout(tmp_path: Path) -> LayoutMaker:
    return LayoutMaker(tmp_path / "layout")


@pytest.fixture
def vectors() -> Path:
    path = Path(__file__).resolve().parents[4] / "shared/vectors/tar"
    if not path.is_dir():
        pytest.skip("the tar vectors are not beside this checkout")
    return path
