"""What is attached to images in a registry goes along to another: signatures, provenance, lists of what is in them.

Both ways of attaching are followed: manifests that refer to the image, and the tags that cosign makes of its digest.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from keelboot.failure import Failure, ImageNotFound
from keelboot.image.digest import Digest
from keelboot.image.documents import DOCKER_MANIFEST, OCI_MANIFEST, Descriptor, parse_contents
from keelboot.image.reference import Reference, Transport
from keelboot.image.refusal import refusing
from keelboot.registry.client import Client
from keelboot.registry.publisher import Publisher
from keelboot.registry.referrers import LISTED_MAX, fallback_tag

_TAGS: Final = (".sig", ".att", ".sbom")


def refuse_ends(source: Reference, destination: Reference) -> None:
    """Refuse to take along what is attached where it cannot be. Raises Failure."""
    for end in (source, destination):
        if end.transport is not Transport.REGISTRY:
            raise Failure(
                f"cannot copy what is attached to {source}",
                why=f"{end} is not in a registry",
                fix="Leave --attached out, or copy from one registry to another.",
            )


class Attachments:
    """What is attached to images that CLIENT reads goes to PUBLISHER; MOUNT_FROM is CLIENT's repository, if there."""

    def __init__(self, client: Client, publisher: Publisher, *, mount_from: str | None = None) -> None:
        self._client, self._publisher, self._mount_from = client, publisher, mount_from

    def carry(self, subjects: Iterable[Digest], reference: Reference) -> int:
        """Copy what is attached to SUBJECTS; how much it was. REFERENCE is for messages. Raises Failure."""
        return sum(self._referrers(subject, reference) + self._tags(subject, reference) for subject in subjects)

    def _referrers(self, subject: Digest, reference: Reference) -> int:
        with refusing(reference, "what refers to it"):
            found, _ = self._client.attached(subject, limit=LISTED_MAX)
            for artifact in found:
                self._have(artifact.config, *artifact.layers)
                self._publisher.attach(artifact)
        return len(found)

    def _tags(self, subject: Digest, reference: Reference) -> int:
        count = 0
        for suffix in _TAGS:
            tag = fallback_tag(subject) + suffix
            with refusing(reference, tag), _none_there():
                document = self._client.fetch(tag, (OCI_MANIFEST, DOCKER_MANIFEST))
                self._have(*parse_contents(document.data, document.descriptor.media_type).blobs)
                self._publisher.put_manifest(document.descriptor, document.data, tag)
                count += 1
        return count

    def _have(self, *blobs: Descriptor) -> None:
        for blob in blobs:
            if not self._publisher.has(blob):
                opening = partial(self._client.open_blob, blob)
                self._publisher.put_blob(blob, opening, mount_from=self._mount_from)


@contextmanager
def _none_there() -> Iterator[None]:
    try:
        yield
    except ImageNotFound:
        return
