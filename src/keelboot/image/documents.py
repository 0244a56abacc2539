"""The JSON documents of an image as frozen values: descriptor, index, manifest, config.

Formats: OCI image specification 1.1 (descriptor.md, image-index.md, manifest.md, config.md, image-layout.md) and
Docker's image manifest version 2, schema 2, which differ in media types only. A document that could be taken for one
of another kind is refused (CVE-2021-41190), and so are foreign layers, artifacts and schema 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import new as new_hash
from typing import Final

from keelboot.image.compression import Compression
from keelboot.image.digest import Digest
from keelboot.image.refusal import ForOthers, Refused
from keelboot.image.strictjson import DOCUMENT_MAX, Members, parse

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
REF_NAME: Final = "org.opencontainers.image.ref.name"

_LAYERS = {
    OCI_LAYER: Compression.NONE,
    OCI_LAYER + "+gzip": Compression.GZIP,
    OCI_LAYER + "+zstd": Compression.ZSTD,
    DOCKER_LAYER: Compression.NONE,
    DOCKER_LAYER + ".gzip": Compression.GZIP,
    DOCKER_LAYER + ".zstd": Compression.ZSTD,
}
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    "armv7l": "arm",
    "ppc64el": "ppc64le",
}
# The variant a machine of the architecture has at least.
_BASE_VARIANTS = {"amd64": "v1", "arm64": "v8", "arm": "v7"}
_DESCRIPTOR_NAMES = ("mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform")
_PLATFORM_NAMES = ("architecture", "os", "os.version", "os.features", "variant", "features")
_NAMES = (
    "schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations",
    "fsLayers", "history", "signatures",
)  # fmt: skip
_CONFIG_NAMES = ("created", "author", "architecture", "os", "os.version", "variant", "config", "rootfs", "history")
_RUN_NAMES = ("Env", "Labels", "Cmd", "Entrypoint", "User", "WorkingDir", "Volumes", "ExposedPorts", "StopSignal")


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in OCI's (that is Go's) words: linux, amd64."""

    os: str
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Names a blob: its type, the digest and the length (in bytes) it must turn out to have."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None

    @property
    def compression(self) -> Compression:
        """How the layer it names is compressed. Raises KeyError for what is no layer."""
        return _LAYERS[self.media_type]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests: one image for several platforms, or what a layout holds."""

    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a manifest or an index leads to, of whatever kind: other documents, and blobs."""

    documents: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """What an image says about itself. `diff_ids` are the digests of the layers when not compressed, lowest first."""

    architecture: str
    os: str
    variant: str | None
    created: str | None  # RFC 3339, as written
    labels: Mapping[str, str]
    env: tuple[str, ...]
    diff_ids: tuple[Digest, ...]
    history: int  # number of entries, those that made no layer included


def verified(data: bytes, descriptor: Descriptor) -> bytes:
    """DATA, which must be the document DESCRIPTOR names: the bytes that were hashed are the bytes to parse.

    Raises Refused.
    """
    if len(data) != descriptor.size:
        raise Refused(f"it has {len(data)} bytes, its descriptor says {descriptor.size}")
    if new_hash(descriptor.digest.algorithm, data).hexdigest() != descriptor.digest.hex:
        raise Refused(f"its digest is not {descriptor.digest}")
    return data


def normal_architecture(name: str) -> str:
    """OCI's word for the architecture NAME, which may be the kernel's (x86_64)."""
    return _ARCHITECTURES.get(name, name)


def is_index(media_type: str) -> bool:
    """Whether MEDIA_TYPE is that of an index (Docker: manifest list)."""
    return media_type in (OCI_INDEX, DOCKER_INDEX)


def is_manifest(media_type: str) -> bool:
    """Whether MEDIA_TYPE is that of an image manifest."""
    return media_type in (OCI_MANIFEST, DOCKER_MANIFEST)


def parse_index(data: bytes, media_type: str | None) -> Index:
    """The index DATA is. MEDIA_TYPE is what names it; None for the index.json of a layout, which nothing names.

    Raises Refused.
    """
    members = _document(data, media_type or OCI_INDEX, typed=media_type is not None)
    for name in ("config", "layers"):
        if name in members:
            raise Refused(f"it is an index and has {name}, as a manifest has")
    if "manifests" not in members:
        raise Refused("it is an index without manifests")
    manifests = tuple(parse_descriptor(item, path) for path, item in members.items("manifests"))
    return Index(manifests, members.mapping("annotations"))


def parse_manifest(data: bytes, media_type: str) -> Manifest:
    """The image manifest DATA is; MEDIA_TYPE is what its descriptor says. Raises Refused."""
    members = _document(data, media_type, typed=media_type == DOCKER_MANIFEST)
    if "manifests" in members:
        raise Refused("it is a manifest and has manifests, as an index has")
    if "artifactType" in members:
        raise Refused(f"it is an artifact ({members.text('artifactType')!a}), not an image")
    if "subject" in members:
        parse_descriptor(members.value("subject"), "subject")
    config = parse_descriptor(members.value("config"), "config")
    if config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
        raise Refused(f"its config is {config.media_type!a}: it is not an image")
    layers = tuple(parse_descriptor(item, path) for path, item in members.items("layers"))
    if not layers:
        raise Refused("it has no layers")
    for layer in layers:
        if layer.media_type not in _LAYERS:
            raise Refused(f"a layer is of the unsupported type {layer.media_type!a}")
    return Manifest(media_type, config, layers, members.mapping("annotations"))


def parse_contents(data: bytes, media_type: str) -> Contents:
    """What the manifest or index DATA leads to, an image's or not. Raises Refused."""
    if is_index(media_type):
        return Contents(parse_index(data, media_type).manifests, ())
    members = _document(data, media_type, typed=media_type == DOCKER_MANIFEST)
    if "manifests" in members:
        raise Refused("it is a manifest and has manifests, as an index has")
    config = parse_descriptor(members.value("config"), "config")
    return Contents((), (config, *(parse_descriptor(item, path) for path, item in members.items("layers"))))


def _document(data: bytes, media_type: str, *, typed: bool) -> Members:
    """What index and manifest share. TYPED says that the document has to name its own type."""
    members = Members(parse(data), "", _NAMES)
    if members.value("schemaVersion") == 1 or any(name in members for name in ("fsLayers", "history", "signatures")):
        raise Refused("it is in schema 1, which is not supported")
    if members.integer("schemaVersion") != 2:
        raise Refused("its schemaVersion is not 2")
    stated = members.text("mediaType")
    if stated is None and typed:
        raise Refused("it does not state its mediaType")
    if stated is not None and stated != media_type:
        raise Refused(f"it says it is {stated!a}, its descriptor says {media_type!a}")
    return members


def parse_descriptor(value: object, path: str) -> Descriptor:
    """The descriptor VALUE is, at PATH of its document. Raises Refused."""
    members = Members(value, path, _DESCRIPTOR_NAMES)
    if members.items("urls"):
        raise Refused(f"{path} has its content elsewhere (urls), which is not supported")
    try:
        digest = Digest.parse(members.required_text("digest"))
    except ValueError as error:
        raise Refused(f"{members.where('digest')} is not a digest") from error
    return Descriptor(
        members.required_text("mediaType"),
        digest,
        members.integer("size"),
        _platform(members.value("platform"), members.where("platform")),
        members.mapping("annotations"),
        members.text("artifactType"),
    )


def _platform(value: object, path: str) -> Platform | None:
    if value is None:
        return None
    members = Members(value, path, _PLATFORM_NAMES)
    return Platform(members.text("os") or "", members.text("architecture") or "", members.text("variant") or None)


def parse_config(data: bytes) -> Config:
    """The image config DATA is. Raises Refused."""
    members = Members(parse(data), "", _CONFIG_NAMES)
    rootfs = Members(members.value("rootfs"), "rootfs", ("type", "diff_ids"))
    if rootfs.text("type") != "layers":
        raise Refused("its rootfs is not made of layers")
    try:
        diff_ids = tuple(Digest.parse(text) for text in rootfs.texts("diff_ids"))
    except ValueError as error:
        raise Refused("rootfs.diff_ids has something that is not a digest") from error
    history = members.items("history")
    layers = sum(not Members(item, path, ("empty_layer",)).flag("empty_layer") for path, item in history)
    if layers > len(diff_ids):
        raise Refused(f"its history tells of {layers} layers, and it has {len(diff_ids)}")
    run = Members({} if members.value("config") is None else members.value("config"), "config", _RUN_NAMES)
    return Config(
        architecture=members.required_text("architecture"),
        os=members.required_text("os"),
        variant=members.text("variant") or None,
        created=members.text("created"),
        labels=run.mapping("Labels"),
        env=run.texts("Env"),
        diff_ids=diff_ids,
        history=len(history),
    )


def choose(manifests: Sequence[Descriptor], architecture: str) -> Descriptor:
    """The one of MANIFESTS for Linux on ARCHITECTURE (OCI's word).

    A manifest that states no platform is taken when it is the only one. Of several variants the one that every
    machine of the architecture runs is taken. Raises Refused when that leaves none, or more than one.
    """
    images = [one for one in manifests if is_index(one.media_type) or is_manifest(one.media_type)]
    if len(images) == 1 and images[0].platform is None:
        return images[0]
    fitting = [
        one
        for one in images
        if one.platform and one.platform.os == "linux" and one.platform.architecture == architecture
    ]
    base = _BASE_VARIANTS.get(architecture)
    basic = [one for one in fitting if one.platform and one.platform.variant in (None, base)]
    chosen = basic if len(fitting) > 1 else fitting
    if len(chosen) == 1:
        return chosen[0]
    offered = ", ".join(sorted({str(one.platform) for one in images if one.platform and one.platform.os != "unknown"}))
    if not chosen:
        raise ForOthers(f"it has no image for linux/{architecture}; it has {offered or 'none that says its platform'}")
    raise Refused(f"it has {len(chosen)} images for linux/{architecture}")


__all__ = [
    "DOCKER_CONFIG", "DOCKER_INDEX", "DOCKER_LAYER", "DOCKER_MANIFEST", "DOCUMENT_MAX", "OCI_CONFIG", "OCI_INDEX",
    "OCI_LAYER", "OCI_MANIFEST", "REF_NAME", "Config", "Contents", "Descriptor", "Index", "Manifest", "Platform",
    "choose", "is_index", "is_manifest", "normal_architecture", "parse_config", "parse_contents", "parse_descriptor",
    "parse_index", "parse_manifest", "verified",
]  # fmt: skip
