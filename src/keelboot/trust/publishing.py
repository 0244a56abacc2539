"""What is attached to an image in a registry: signatures, attestations, lists of packages.

The image is resolved once, at the registry itself and not at a mirror. Blobs go before the manifest that names them,
and a manifest that readers find goes last: a cut before that leaves what nothing names, and the same command again
finishes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

from keelboot.failure import Failure, ImageNotFound, NetworkFailed
from keelboot.image.digest import Digest
from keelboot.image.documents import OCI_MANIFEST, Descriptor
from keelboot.image.reference import Reference
from keelboot.image.refusal import Refused, refusing
from keelboot.registry.client import Document
from keelboot.registry.opening import Registries
from keelboot.registry.publisher import Publisher
from keelboot.registry.referrers import Artifact, encoded, parse_artifact
from keelboot.trust.artifact import Stored, described
from keelboot.trust.identity import Named
from keelboot.trust.signing import ToStore
from keelboot.trust.simplesigning import go_json

_TRIES: Final = 3
_LATEST: Final = "latest"
_EMPTY: Final = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True, slots=True)
class Subject:
    """An image, or an index, in a registry, that something is attached to; `identity` is the name to sign for it."""

    reference: Reference
    identity: Named
    document: Document
    publisher: Publisher = field(repr=False)

    @property
    def descriptor(self) -> Descriptor:
        """Names the bytes that `reference` stood for."""
        return self.document.descriptor


def subject(registries: Registries, reference: Reference, digest: Digest | None = None) -> Subject:
    """What REFERENCE names, or the image DIGEST in its repository.

    The name to sign has the tag that was typed, `latest` where neither tag nor digest was. Raises Failure.
    """
    publisher = registries.publisher(reference)
    wanted = digest or reference.digest
    tag = reference.tag or (None if reference.digest else _LATEST)
    with refusing(reference, "its documents"):
        document = publisher.client.resolve(wanted or tag or _LATEST)
    return Subject(reference, Named(str(registries.name(reference)), tag), document, publisher)


def publish(to: Subject, one: ToStore) -> None:
    """Have ONE, which has no tag, among the referrers of TO. Raises Failure."""
    if one.tag is not None:
        raise ValueError(f"it goes to the tag {one.tag}: publish_tagged")
    with _blamed(to.reference):
        _put_blobs(to.publisher, one)
        to.publisher.attach(parse_artifact(one.manifest.data, one.manifest.descriptor))


def publish_tagged(to: Subject, make: Callable[[Artifact | None], ToStore]) -> ToStore:
    """Have what MAKE makes of what its tag names now, None for nothing, under that tag. Raises Failure.

    Registries have no lock for tags. So it is looked at afterwards, and done again if someone else's took its place.
    """
    tag = make(None).tag
    assert tag is not None
    for _ in range(_TRIES):
        with _blamed(to.reference):
            one = make(tagged(to, tag))
            _put_blobs(to.publisher, one)
            to.publisher.put_manifest(one.manifest.descriptor, one.manifest.data, tag)
            after = tagged(to, tag)
        ours = parse_artifact(one.manifest.data, one.manifest.descriptor).layers[-1]
        if after is not None and ours in after.layers:  # with its signature: others may sign the same payload
            return one
    raise Failure(
        f"cannot sign {to.reference}",
        why=f"others keep changing {to.identity.repository}:{tag} at the same time",
        fix="Run the same command again.",
    )


def tagged(to: Subject, tag: str) -> Artifact | None:
    """The manifest of signatures that TAG names; None where there is none. Raises Refused."""
    try:
        data = to.publisher.client.fetch(tag, (OCI_MANIFEST,)).data
    except ImageNotFound:
        return None
    return parse_artifact(data, described(data, OCI_MANIFEST))


def plain_referrer(to: Descriptor, data: bytes, media_type: str, *, created: str | None) -> ToStore:
    """DATA, of MEDIA_TYPE, as what refers to the image TO, unsigned; CREATED (RFC 3339) is when the data were made.

    The manifest is that of an artifact (OCI image specification 1.1, "Guidelines for Artifact Usage").
    """
    config, layer = described(b"{}", _EMPTY), described(data, media_type)
    manifest = go_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": media_type,
            "config": encoded(config),
            "layers": [encoded(layer)],
            "subject": encoded(Descriptor(to.media_type, to.digest, to.size)),
            **({"annotations": {"org.opencontainers.image.created": created}} if created else {}),
        }
    )
    return ToStore(
        (Stored(layer, data), Stored(config, b"{}")), Stored(described(manifest, OCI_MANIFEST), manifest), None
    )


def _put_blobs(publisher: Publisher, one: ToStore) -> None:
    for blob in one.blobs:
        if not publisher.has(blob.descriptor):
            publisher.put_blob(blob.descriptor, lambda blob=blob: _opened(blob))  # type: ignore[misc]


def _opened(blob: Stored) -> BytesIO:
    return BytesIO(blob.data)


@contextmanager
def _blamed(reference: Reference) -> Iterator[None]:
    """Tell of what a registry gave and should not have given."""
    try:
        yield
    except Refused as error:
        raise NetworkFailed(
            f"cannot attach anything to {reference}",
            why=str(error),
            fix="Someone put something else where signatures are kept, or the registry does not follow the OCI "
            "distribution specification. Its administrator can tell, and remove it.",
        ) from error
