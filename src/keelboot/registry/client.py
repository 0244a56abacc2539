"""What a registry keeps, by the OCI distribution specification 1.1: manifests, blobs, tags, referrers; for reading."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import new as new_hash
from io import BytesIO
from typing import BinaryIO, Final

from keelboot.failure import Failure, ImageNotFound
from keelboot.image.digest import Digest
from keelboot.image.documents import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    is_index,
    is_manifest,
    verified,
)
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import DOCUMENT_MAX, Members, parse
from keelboot.registry.answers import Again, read_body
from keelboot.registry.blob import BlobStream
from keelboot.registry.connections import Answer
from keelboot.registry.endpoint import Endpoint
from keelboot.registry.origin import Origin, redirected
from keelboot.registry.referrers import LISTED_MAX, Artifact, fallback_tag, parse_artifact, parse_referrers

IMAGES: Final = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX)
_PAGES_MAX: Final = 20
# The specification has 404 only.
_NO_REFERRERS: Final = (400, 404, 405, 501)
_NEXT = re.compile(r'<([^<>]{1,8000})>\s*;[^,]*\brel="?next"?')


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or an index, as the registry gave it: `descriptor` names exactly these bytes."""

    descriptor: Descriptor
    data: bytes = field(repr=False)


class Client:
    """The Resumable blobs of one repository at one place.

    Methods raise NetworkFailed, AccessDenied, Failure and Refused.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._documents: dict[Digest, Document] = {}

    def resolve(self, version: Digest | str) -> Document:
        """What the tag or digest VERSION names now: after this, everything goes by digest.

        Raises ImageNotFound.
        """
        document = self.fetch(version, IMAGES)
        self._documents[document.descriptor.digest] = document
        return document

    def fetch(self, version: Digest | str, media_types: Collection[str]) -> Document:
        """The manifest of one of MEDIA_TYPES that the tag or digest VERSION names. Raises ImageNotFound."""
        answer, data = self._whole(f"manifests/{version}", f"{self.endpoint.name}:{version}", ", ".join(media_types))
        media_type = (answer.header("Content-Type") or "").partition(";")[0].strip()
        if media_type not in media_types:
            raise Refused(f"its type is {media_type[:100]!a}, and not that of an image")
        digest = version if isinstance(version, Digest) else Digest.of(data)
        for one in (digest, _stated(answer.header("Docker-Content-Digest"))):
            if one is not None and new_hash(one.algorithm, data).hexdigest() != one.hex:
                raise Refused(f"its digest is not {one}, as the registry says")
        return Document(Descriptor(media_type, digest, len(data)), data)

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
        return self.resume_blob(descriptor, 0)

    def resume_blob(self, descriptor: Descriptor, offset: int) -> BinaryIO:
        """As keelboot.image.opened.Resumable has it."""
        stream = BlobStream(self.endpoint, descriptor, offset=offset)
        stream.start()  # what is missing is told before anything is done about it
        return stream

    def tags(self) -> tuple[str, ...]:
        """The first tags of the repository; none where it has none, or does not tell."""
        try:
            _, data = self._whole("tags/list?n=1000", f"the tags of {self.endpoint.name}", None)
            return Members(parse(data), "", ("name", "tags")).texts("tags")
        except (Refused, Failure):
            return ()

    def read_blob(self, descriptor: Descriptor, *, limit: int = DOCUMENT_MAX) -> bytes:
        """The blob, of LIMIT bytes at most, compared with its digest."""
        if descriptor.size > limit:
            raise Refused(f"the blob {descriptor.digest} has {descriptor.size} bytes, more than {limit}")
        with BlobStream(self.endpoint, descriptor) as stream:
            return verified(stream.read(), descriptor)

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        """What the registry, or the list that clients keep in its place, says refers to SUBJECT: to be looked at."""
        found: tuple[Descriptor, ...] = ()
        path, what = f"referrers/{subject}", f"what refers to {subject}"
        for _ in range(_PAGES_MAX):
            try:
                answer, data = self._whole(path, what, OCI_INDEX, (200, *_NO_REFERRERS))
            except ImageNotFound:
                return self.listed(fallback_tag(subject))
            found = (*found, *parse_referrers(data))
            if len(found) > LISTED_MAX:
                raise Refused(f"more than {LISTED_MAX} documents refer to it")
            following = _NEXT.search(answer.header("Link") or "")
            if following is None:
                return found
            path = redirected(answer.url, following[1])
            if Origin.of(path) != self.endpoint.origin:
                raise Refused(f"the list of what refers to it goes on at {Origin.of(path)}, another host")
        raise Refused(f"the list of what refers to it has more than {_PAGES_MAX} pages")

    def listed(self, tag: str) -> tuple[Descriptor, ...]:
        """What the index TAG lists; nothing where there is none."""
        try:
            return parse_referrers(self.fetch(tag, (OCI_INDEX,)).data)
        except ImageNotFound:
            return ()

    def attached(self, subject: Digest, *, limit: int = 50) -> tuple[list[Artifact], list[str]]:
        """The first LIMIT manifests that are attached to SUBJECT, and why others that are listed do not count."""
        found, wrong = [], []
        listed = self.referrers(subject)
        for one in listed[:limit]:
            try:
                document = self.fetch(one.digest, (OCI_MANIFEST,))
                artifact = parse_artifact(verified(document.data, one), document.descriptor)
                if artifact.subject is None or artifact.subject.digest != subject:
                    raise Refused("it refers to something else")  # noqa: TRY301 - told with the others
            except (Refused, ImageNotFound) as error:
                wrong.append(f"{one.digest}: {error.why if isinstance(error, Failure) else error}")
            else:
                found.append(artifact)
        if len(listed) > limit:
            wrong.append(f"{len(listed) - limit} more are listed, which were not looked at")
        return found, wrong

    def _whole(
        self, path: str, what: str, accept: str | None, expected: Collection[int] = (200,)
    ) -> tuple[Answer, bytes]:
        """The answer at PATH and its body, which is a document. ImageNotFound for others of the EXPECTED statuses."""
        failures = 0
        while True:
            answer = self.endpoint.get(path, accept=accept)
            if answer.status != 200 and answer.status in expected:
                answer.close()
                raise ImageNotFound(f"cannot open {what}", why=f"it answered {answer.status}", fix="Check the name.")
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
