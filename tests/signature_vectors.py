"""The signature vectors of ../shared, as a registry would serve them; and how each is asked about."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from keelboot.image.digest import Digest
from keelboot.image.documents import Descriptor
from keelboot.image.reference import Reference
from keelboot.registry.name import Name
from keelboot.registry.referrers import fallback_tag
from keelboot.trust.artifact import signature_tag
from keelboot.trust.base64text import decode
from keelboot.trust.collecting import Collected, Simple
from keelboot.trust.decision import Question
from keelboot.trust.identity import Asked, MatchRepository, asked, parse_identity
from keelboot.trust.keys import parse_keys
from keelboot.trust.policy import Policy, Reject, Ruling, Signed, TrustedKey
from signed_images import MemoryShelf

VECTORS = Path(__file__).resolve().parents[2] / "shared/vectors/signatures"
NOW = datetime(2026, 11, 27, tzinfo=UTC)
needs_vectors = pytest.mark.skipif(not VECTORS.exists(), reason=f"{VECTORS} is missing")


def name(data: bytes) -> Digest:
    return Digest("sha256", sha256(data).hexdigest())


def ask(text: str) -> Asked:
    reference = Reference.parse(f"docker://{text}")
    return asked(reference, Name.parse(reference.location))


def question(image: str, manifest: bytes, **more: Any) -> Question:
    media_type = json.loads(manifest)["mediaType"]
    return Question(
        ask(image), Descriptor(media_type, more.pop("digest", name(manifest)), len(manifest)), manifest, NOW, **more
    )


def policy(*requirements: Signed) -> Policy:
    return Policy("test", (Reject(),), {("docker", ""): Ruling("test", requirements)}, "sha256:0")


@dataclass
class Case:
    """One case of cosign/; `files` may be changed before it is judged."""

    stated: dict[str, Any]
    files: dict[str, bytes]

    @classmethod
    def load(cls, stated: dict[str, Any]) -> "Case":
        folder = VECTORS / "cosign" / stated["name"]
        return cls(stated, {path.name: path.read_bytes() for path in sorted(folder.iterdir())})

    @cached_property
    def manifest(self) -> bytes:
        return self.files["image-manifest.json"]

    def question(self, **more: Any) -> Question:
        return question(self.stated["reference"], self.manifest, **more)

    def policy(self, **more: Any) -> Policy:
        """What the case states. Bundles name no repository, so the key is bound to the one that was asked for."""
        names = self.stated.get("keys") or [self.stated["key"]]
        stated = self.stated["identity"]
        kind = {"type": stated} if isinstance(stated, str) else stated
        identity = MatchRepository() if "none" in str(stated) else parse_identity(kind, "identity")
        repository = ask(self.stated["reference"]).named.repository
        keys = tuple(
            TrustedKey(key, (repository,))
            for one in names
            for key in parse_keys((VECTORS / "cosign" / one).read_bytes())
        )
        return policy(
            Signed(**{"keys": keys, "identity": identity, "threshold": self.stated.get("threshold", 1), **more})
        )

    def shelf(self, image: Digest | None = None) -> MemoryShelf:
        """The files where a registry has them: by place, so that a lie about a digest is one."""
        image = image or name(self.manifest)
        shelf = MemoryShelf()
        if "sig-manifest.json" in self.files:
            shelf.tags[signature_tag(image)] = self.files["sig-manifest.json"]
            self._place(shelf, self.files["sig-manifest.json"], "layers", "payload")
        if "referrers-index.json" in self.files:
            shelf.tags[fallback_tag(image)] = self.files["referrers-index.json"]
            for number, data in enumerate(
                self._place(shelf, self.files["referrers-index.json"], "manifests", "referrer"), 1
            ):
                self._place(shelf, data, "layers", "bundle", number)
        return shelf

    def _place(self, shelf: MemoryShelf, data: bytes, member: str, stem: str, first: int = 1) -> list[bytes]:
        try:
            digests = [Digest.parse(one["digest"]) for one in json.loads(data)[member]]
        except (ValueError, KeyError, TypeError):
            return []
        placed = []
        for number, digest in enumerate(digests, first):
            served = self.files.get(f"{stem}-{number}.json", self.files.get(f"{stem}-1.json"))
            if served is not None:
                shelf.objects.setdefault(digest, served)
                placed.append(served)
        return placed


def cases() -> list[dict[str, Any]]:
    if not VECTORS.exists():
        return []
    return json.loads((VECTORS / "cosign/cases.json").read_text())


def dir_signature(path: Path) -> Collected:
    """What a `signature-N` of a `dir:` image holds."""
    document = json.loads(path.read_bytes().removeprefix(b"\0sigstore-json\n"))
    if document["mimeType"] != "application/vnd.dev.cosign.simplesigning.v1+json":
        return Collected(notes=(f"{path.name}: it is {document['mimeType']!a}",))
    return Collected(simple=(Simple(path.name, decode(document["payload"], "payload"), document["annotations"]),))
