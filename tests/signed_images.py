"""An image, its signatures as they are pushed, and a registry's repository in memory to push them to."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime

from keelboot.failure import ImageNotFound
from keelboot.image.digest import Digest
from keelboot.image.documents import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor
from keelboot.registry.referrers import fallback_tag, parse_artifact, parse_referrers, with_referrer
from keelboot.trust.artifact import described
from keelboot.trust.decision import Question
from keelboot.trust.identity import Asked, parse_named
from keelboot.trust.policy import Policy, Reject, Ruling
from keelboot.trust.signing import ToStore

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def write_manifest(text: str = "an image") -> bytes:
    config, layer = (described(f"{text} {kind}".encode(), kind) for kind in (OCI_CONFIG, OCI_LAYER))
    written = [{"mediaType": one.media_type, "digest": str(one.digest), "size": one.size} for one in (config, layer)]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": written[0], "layers": [written[1]]}
    return json.dumps(document).encode()


WEB = Asked("docker", parse_named("example.org/os/web:1"))
REPOSITORY = parse_named("example.org/os/web")
MANIFEST = write_manifest()
IMAGE = described(MANIFEST, OCI_MANIFEST)


@dataclass
class MemoryShelf:
    """A repository. Counts what it is asked for."""

    tags: dict[str, bytes] = field(default_factory=dict)
    objects: dict[Digest, bytes] = field(default_factory=dict)
    fetched: int = 0

    def push(self, *everything: ToStore, subject: Descriptor = IMAGE) -> "MemoryShelf":
        for one in everything:
            for stored in (*one.blobs, one.manifest):
                self.objects[stored.descriptor.digest] = stored.data
            if one.tag is not None:
                self.tags[one.tag] = one.manifest.data
            else:
                tag = fallback_tag(subject.digest)
                new = with_referrer(self.tags.get(tag), parse_artifact(one.manifest.data, one.manifest.descriptor))
                self.tags[tag] = new or self.tags[tag]
        return self

    def tagged(self, tag: str, limit: int) -> bytes | None:  # noqa: ARG002 - the limit is judged by who asks
        self.fetched += 1
        return self.tags.get(tag)

    def fetch(self, descriptor: Descriptor, limit: int) -> bytes:  # noqa: ARG002
        self.fetched += 1
        if descriptor.digest not in self.objects:
            raise ImageNotFound("x", why="the registry has no such object", fix="x")
        return self.objects[descriptor.digest]

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        self.fetched += 1
        index = self.tags.get(fallback_tag(digest))
        return () if index is None else parse_referrers(index)


def ask(**more) -> Question:
    return Question(**{"image": WEB, "descriptor": IMAGE, "manifest": MANIFEST, "now": NOW, **more})


def rules(*requirements, **more) -> Policy:
    ruling = Ruling("rule", requirements, **more)
    return Policy("policy", (Reject(),), {("docker", "example.org"): ruling}, "sha256:0")
