"""What a registry keeps, by the OCI distribution specification 1.1: manifests, blobs, tags; for reading."""

from dataclasses import dataclass, field
from hashlib import new as new_hash
from hashlib import sha256
from io import BytesIO
from typing import BinaryIO, Final

from keelboot.failure import Failure
from keelboot.image.digest import Digest
from keelboot.image.documents import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    is_index,
    is_manifest,
)
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import DOCUMENT_MAX, Members, parse
from keelboot.registry.blob import BlobStream
from keelboot.registry.connections import Answer
from keelboot.registry.endpoint import Again, Endpoint, read_body

_ACCEPT: Final = f"{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_MANIFEST}, {DOCKER_INDEX}"


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or an index, as the registry gave it: `descriptor` names exactly these bytes."""

    descriptor: Descriptor
    data: bytes = field(repr=False)


class Client:
    """The Blobs of one repository at one place. Methods raise NetworkFailed, AccessDenied, Failure and Refused."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._documents: dict[Digest, Document] = {}

    def resolve(self, version: Digest | str) -> Document:
        """What the tag or digest VERSION names now: after this, everything goes by digest.

        Raises ImageNotFound.
        """
        answer, data = self._whole(f"manifests/{version}", f"{self.endpoint.name}:{version}")
        media_type = (answer.header("Content-Type") or "").partition(";")[0].strip()
        if not is_index(media_type) and not is_manifest(media_type):
            raise Refused(f"its type is {media_type[:100]!a}, and not that of an image")
        digest = version if isinstance(version, Digest) else Digest("sha256", sha256(data).hexdigest())
        for one in (digest, _stated(answer.header("Docker-Content-Digest"))):
            if one is not None and new_hash(one.algorithm, data).hexdigest() != one.hex:
                raise Refused(f"its digest is not {one}, as the registry says")
        document = Document(Descriptor(media_type, digest, len(data)), data)
        self._documents[digest] = document
        return document

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """As keelboot.image.opened.Blobs has it; manifests are found as well."""
        if descriptor.digest in self._documents:
            return BytesIO(self._documents[descriptor.digest].data)
        if is_manifest(descriptor.media_type) or is_index(descriptor.media_type):
            found = self.resolve(descriptor.digest)
            if found.descriptor.media_type != descriptor.media_type:
                raise Refused(
                    f"its type is {found.descriptor.media_type!a}, its descriptor says {descriptor.media_type!a}"
                )
            return BytesIO(found.data)
        stream = BlobStream(self.endpoint, descriptor)
        stream.start()  # what is missing is told before anything is done about it
        return stream

    def tags(self) -> tuple[str, ...]:
        """The first tags of the repository; none where it has none, or does not tell."""
        try:
            _, data = self._whole("tags/list?n=1000", f"the tags of {self.endpoint.name}")
            return Members(parse(data), "", ("name", "tags")).texts("tags")
        except (Refused, Failure):
            return ()

    def _whole(self, path: str, what: str) -> tuple[Answer, bytes]:
        """The answer at PATH and its body, which is a document."""
        failures = 0
        while True:
            answer = self.endpoint.get(path, accept=_ACCEPT)
            if answer.status != 200:
                raise self.endpoint.failure(answer, what)
            if answer.length is not None and answer.length > DOCUMENT_MAX:
                answer.close()
                raise Refused(f"it has {answer.length} bytes, more than {DOCUMENT_MAX}")
            try:
                return answer, read_body(answer, DOCUMENT_MAX)
            except Again as again:
                failures += 1
                self.endpoint.wait(again, failures)


def _stated(header: str | None) -> Digest | None:
    if header is None:
        return None
    try:
        return Digest.parse(header)
    except ValueError as error:
        raise Refused(f"the registry says its digest is {header[:100]!a}, which is none") from error
