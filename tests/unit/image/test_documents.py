import hashlib
import json

import pytest

from keelboot.image.compression import Compression
from keelboot.image.digest import Digest
from keelboot.image.documents import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    choose,
    parse_config,
    parse_index,
    parse_manifest,
    verified,
)  # fmt: skip
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def manifest(**changes):
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG),
        "layers": [descriptor(OCI_LAYER + "+gzip")],
    } | changes
    return {key: item for key, item in value.items() if item is not ...}


def descriptor(media_type=OCI_LAYER, **changes):
    value = {"mediaType": media_type, "digest": A, "size": 7} | changes
    return {key: item for key, item in value.items() if item is not ...}


def config(**changes):
    value = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [A]}} | changes
    return {key: item for key, item in value.items() if item is not ...}


def index(**changes):
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(OCI_MANIFEST)]} | changes
    return {key: item for key, item in value.items() if item is not ...}


def layer(**changes):
    return manifest(layers=[descriptor(OCI_LAYER, **changes)])


MANIFESTS = {
    "D01 with manifests": manifest(manifests=[]),
    "D01 index offered as manifest": index(),
    "D01 with fsLayers": manifest(fsLayers=[]),
    "D01 with history": manifest(history=[]),
    "D02 another mediaType": manifest(mediaType=OCI_INDEX),
    "D02 Docker's mediaType": manifest(mediaType=DOCKER_MANIFEST),
    "D02 mediaType is no string": manifest(mediaType=2),
    "D04 Layers": manifest(Layers=[]),
    "D04 layers and a space": manifest() | {"layers ": []},
    "D04 folded in a descriptor": layer() | {"config": descriptor(OCI_CONFIG, Digest=B)},
    "D04 the long s folds to s": manifest() | {"layer\u017f": []},
    "D06 size 1.5": layer(size=1.5),
    "D06 size -1": layer(size=-1),
    "D06 size 2**63": layer(size=2**63),
    "D06 size true": layer(size=True),
    "D06 size as text": layer(size="7"),
    "D06 no size": layer(size=...),
    "D08 path in digest": layer(digest="sha256:../../x"),
    "D08 63 digits": layer(digest=A[:-1]),
    "D08 65 digits": layer(digest=A + "a"),
    "D08 upper case": layer(digest=A[:7] + "A" * 64),
    "D08 md5": layer(digest="md5:" + "a" * 32),
    "D08 sha512 of 64 digits": layer(digest="sha512:" + "a" * 64),
    "D08 no digest": layer(digest=...),
    "D11 urls": layer(urls=["https://example.org/layer"]),
    "D11 foreign layer": manifest(layers=[descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]),
    "D11 nondistributable layer": manifest(
        layers=[descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")]
    ),
    "D16 schema 1": {"schemaVersion": 1, "name": "x", "fsLayers": [], "history": [], "signatures": []},
    "D16 schema 3": manifest(schemaVersion=3),
    "D16 no schema": manifest(schemaVersion=...),
    "D17 artifactType": manifest(artifactType="application/x"),
    "D17 empty config": manifest(config=descriptor("application/vnd.oci.empty.v1+json")),
    "D17 signature layer": manifest(layers=[descriptor("application/vnd.dev.cosign.simplesigning.v1+json")]),
    "D17 layer of unknown compression": manifest(layers=[descriptor(OCI_LAYER + "+xz")]),
    "no layers": manifest(layers=[]),
    "layers is an object": manifest(layers={}),
    "a layer is a string": manifest(layers=["x"]),
    "no config": manifest(config=...),
    "a list": [manifest()],
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_refuses_manifest(case):
    with pytest.raises(Refused):
        parse_manifest(json.dumps(MANIFESTS[case]).encode(), OCI_MANIFEST)


INDEXES = {
    "D01 with layers": index(layers=[]),
    "D01 with config": index(config=descriptor(OCI_CONFIG)),
    "D01 manifest offered as index": manifest(),
    "D02 another mediaType": index(mediaType=OCI_MANIFEST),
    "D02 no mediaType": index(mediaType=...),
    "D04 Manifests": index(Manifests=[]),
    "D11 urls": index(manifests=[descriptor(OCI_MANIFEST, urls=["https://example.org"])]),
    "no manifests": index(manifests=...),
}


@pytest.mark.parametrize("case", INDEXES)
def test_refuses_index(case):
    with pytest.raises(Refused):
        parse_index(json.dumps(INDEXES[case]).encode(), OCI_INDEX)


CONFIGS = {
    "D14 rootfs of another type": config(rootfs={"type": "x", "diff_ids": [A]}),
    "D14 no rootfs": config(rootfs=...),
    "D14 history longer than layers": config(history=[{}, {}]),
    "D14 history that is no list": config(history={}),
    "D14 empty_layer that is no flag": config(history=[{"empty_layer": "true"}]),
    "D08 diff_id": config(rootfs={"type": "layers", "diff_ids": ["sha256:x"]}),
    "D04 rootFS": config(rootFS={"type": "layers", "diff_ids": [B]}),
    "D04 labels": config(config={"labels": {"a": "b"}}),
    "no architecture": config(architecture=...),
    "no os": config(os=...),
    "a label that is a number": config(config={"Labels": {"a": 1}}),
    "a variable that is a number": config(config={"Env": [1]}),
    "config is a list": config(config=[]),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_refuses_config(case):
    with pytest.raises(Refused):
        parse_config(json.dumps(CONFIGS[case]).encode())


TEXTS = {
    "D03 name twice": b'{"a": 1, "a": 1}',
    "D03 name twice, deep": b'{"a": [{"b": {"c": 1, "c": 2}}]}',
    "D03 name twice, once escaped": b'{"a": 1, "\\u0061": 2}',
    "D05 NUL": b'{"a": "\\u0000"}',
    "D05 NUL in a name": b'{"a\\u0000": 1}',
    "D05 raw NUL": b'{"a": "\0"}',
    "D05 lone surrogate": b'{"a": "\\ud800"}',
    "D05 surrogates in the wrong order": b'["\\udc00\\ud800"]',
    "D05 not UTF-8": b'{"a": "\xff"}',
    "D05 surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "D05 byte order mark": b"\xef\xbb\xbf{}",
    "D05 UTF-16": '{"a": 1}'.encode("utf-16"),
    "D06 NaN": b'{"a": NaN}',
    "D06 Infinity": b"[-Infinity]",
    "D06 a number of 5000 digits": b"[" + b"1" * 5000 + b"]",
    "D07 20 000 deep": b"[" * 20_000 + b"]" * 20_000,
    "D07 20 000 objects deep": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "D07 deep after quotes": b'["\\"[", "' + b'\\\\", ' + b"[" * 40 + b"]" * 41,
    "D07 1 M elements": b"[" + b"0," * 1_000_000 + b"0]",
    "D07 over 4 MiB": b'["' + b"x" * (4 << 20) + b'"]',
    "D07 quotes without an end": b'["' + b'\\"' * 2_000_000,
    "D15 second document": b"{}{}",
    "D15 text after": b"{} x",
    "D15 nothing": b"",
    "comment": b"{} // x",
    "trailing comma": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
    "raw newline in a string": b'{"a": "\n"}',
}


@pytest.mark.parametrize("case", TEXTS)
def test_refuses_text(case):
    """At once: what is not linear in these sizes takes hours."""
    with pytest.raises(Refused) as refusal:
        parse(TEXTS[case])
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b' {"a": [1, -2.5, true, null, "\\u00e9\\ud83d\\ude00"]}\n', {"a": [1, -2.5, True, None, "\u00e9\U0001f600"]}),
        (b'["[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "\\"[", "\\\\"]', ["[" * 40, '"[', "\\"]),
    ],
)
def test_reads_text(text, value):
    assert parse(text) == value


def test_reads_a_manifest():
    value = manifest(
        layers=[descriptor(OCI_LAYER + "+zstd"), descriptor(OCI_LAYER, digest=B, data="AAAA")],
        annotations={"a": "b"},
        unknown={"x": 1},
    )
    read = parse_manifest(json.dumps(value).encode(), OCI_MANIFEST)
    assert [layer.compression for layer in read.layers] == [Compression.ZSTD, Compression.NONE]
    assert (read.config.digest, read.config.size) == (Digest.parse(A), 7)
    assert read.layers[1].digest == Digest.parse(B)
    assert read.annotations == {"a": "b"}


def test_reads_dockers_manifest_and_one_without_type():
    value = manifest(
        mediaType=DOCKER_MANIFEST,
        config=descriptor(DOCKER_CONFIG),
        layers=[descriptor(DOCKER_LAYER + ".gzip")],
    )
    read = parse_manifest(json.dumps(value).encode(), DOCKER_MANIFEST)
    assert read.layers[0].compression is Compression.GZIP
    del value["mediaType"]
    with pytest.raises(Refused, match="does not state"):
        parse_manifest(json.dumps(value).encode(), DOCKER_MANIFEST)
    parse_manifest(json.dumps(manifest(mediaType=...)).encode(), OCI_MANIFEST)


def test_reads_a_config():
    value = config(
        variant="v8",
        created="2026-01-02T03:04:05Z",
        config={"Labels": {"containers.bootc": "1", "x": "$(reboot) ../.."}, "Env": ["PATH=/bin"], "Cmd": ["sh"]},
        history=[{"empty_layer": True}, {"created_by": "x"}, {"empty_layer": True}],
    )
    read = parse_config(json.dumps(value).encode())
    assert read.labels == {"containers.bootc": "1", "x": "$(reboot) ../.."}  # L44: data only
    assert (read.env, read.history, read.created) == (("PATH=/bin",), 3, "2026-01-02T03:04:05Z")
    assert (read.architecture, read.os, read.variant, read.diff_ids) == ("amd64", "linux", "v8", (Digest.parse(A),))


def test_a_config_may_say_little():
    read = parse_config(json.dumps(config(config={"Labels": None, "Env": None}, created=None)).encode())
    assert (dict(read.labels), read.env, read.created, read.history) == ({}, (), None, 0)


def test_d09_size_and_digest_of_a_document():
    data = b"{}"
    good = Digest("sha256", hashlib.sha256(data).hexdigest())
    assert verified(data, Descriptor(OCI_CONFIG, good, 2)) == data
    for bad in (
        Descriptor(OCI_CONFIG, good, 1),
        Descriptor(OCI_CONFIG, good, 3),
        Descriptor(OCI_CONFIG, Digest.parse(A), 2),
    ):
        with pytest.raises(Refused):
            verified(data, bad)
    long = Digest("sha512", hashlib.sha512(data).hexdigest())
    assert verified(data, Descriptor(OCI_CONFIG, long, 2)) == data


def _platforms(*names):
    """Descriptors for platforms written os/architecture[/variant]; None for one that does not say."""
    return [
        Descriptor(OCI_MANIFEST, Digest("sha256", f"{number:064x}"), 7, Platform(*name.split("/")) if name else None)
        for number, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("platforms", "chosen"),
    [
        (["linux/amd64", "linux/arm64"], 0),
        (["linux/arm64/v8", "linux/amd64"], 1),
        ([None], 0),
        (["linux/amd64/v3", "linux/amd64"], 1),
        (["linux/amd64/v2", "linux/amd64/v1"], 1),
        (["linux/amd64/v2"], 0),
        (["windows/amd64", "linux/amd64"], 1),
        (["linux/amd64", "unknown/unknown"], 0),
    ],
)
def test_d12_chooses_a_platform(platforms, chosen):
    manifests = _platforms(*platforms)
    assert choose(manifests, "amd64") is manifests[chosen]


@pytest.mark.parametrize(
    ("platforms", "why"),
    [
        ([], "none that says"),
        (["linux/arm64"], "it has linux/arm64"),
        (["freebsd/amd64"], "no image for linux/amd64"),
        (["linux/amd64", "linux/amd64"], "2 images"),
        (["linux/amd64/v1", "linux/amd64"], "2 images"),
        ([None, None], "no image for"),
        (["linux/amd64/v2", "linux/amd64/v3"], "no image for"),
    ],
)
def test_d12_refuses_to_guess(platforms, why):
    with pytest.raises(Refused, match=why):
        choose(_platforms(*platforms), "amd64")
