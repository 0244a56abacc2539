"""What a registry is given, by the OCI distribution specification 1.1: blobs, manifests, tags, referrers."""

from collections.abc import Callable
from typing import BinaryIO

from keelboot.failure import AccessDenied, Failure, ImageNotFound, NetworkFailed
from keelboot.image.digest import Digest
from keelboot.image.documents import OCI_INDEX, Descriptor
from keelboot.image.refusal import Refused
from keelboot.registry import upload
from keelboot.registry.bookmark import Bookmarks, no_bookmarks
from keelboot.registry.client import IMAGES, Client
from keelboot.registry.endpoint import Ask, Endpoint
from keelboot.registry.outcome import How
from keelboot.registry.referrers import Artifact, fallback_tag, with_referrer
from keelboot.registry.upload import Advance, Upload

_TRIES = 3  # to change the list of referrers while others change it too


class Publisher:
    """One repository at one place, for any number of threads. BOOKMARKS has what another process began to send there.

    Methods raise NetworkFailed, AccessDenied, Failure and Refused. `client` reads the same place.
    """

    def __init__(self, endpoint: Endpoint, bookmarks: Bookmarks = no_bookmarks) -> None:
        self.endpoint, self._bookmarks = endpoint, bookmarks
        self.client = Client(endpoint)

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the repository has the blob."""
        there = upload.has(self.endpoint, descriptor)
        if there and descriptor.size > upload.CHUNK:
            with self._bookmarks(self.endpoint.name, descriptor.digest) as bookmark:
                bookmark.remove()  # it came another way
        return there

    def has_manifest(self, descriptor: Descriptor) -> bool:
        """Whether the repository has the manifest or index, by its digest."""
        headers = {"Accept": descriptor.media_type}
        answer = self.endpoint.ask(f"manifests/{descriptor.digest}", Ask(method="HEAD", headers=headers))
        answer.close()
        return answer.status == 200

    def tagged(self, tag: str) -> Digest | None:
        """What TAG means there, as far as the registry says without being asked for the manifest."""
        headers = {"Accept": ", ".join(IMAGES)}
        answer = self.endpoint.ask(f"manifests/{tag}", Ask(method="HEAD", headers=headers))
        answer.close()
        try:
            return Digest.parse(answer.header("Docker-Content-Digest") or "") if answer.status == 200 else None
        except ValueError:
            return None

    def put_blob(
        self,
        descriptor: Descriptor,
        open_blob: Callable[[], BinaryIO],
        *,
        advance: Advance = lambda _: None,
        mount_from: str | None = None,
    ) -> How:
        """Have the blob, which OPEN_BLOB opens from its start, in the repository. The caller has asked `has`.

        MOUNT_FROM is the path of a repository of the same registry that may have it. ADVANCE is told of the bytes.
        """
        location = None
        if mount_from is not None and mount_from != self.endpoint.name.path:
            mounted, location = self._mount(descriptor, mount_from)
            if mounted:
                return How.MOUNTED
        Upload(self.endpoint, descriptor, open_blob, advance, bookmarks=self._bookmarks).run(location)
        return How.SENT

    def _mount(self, descriptor: Descriptor, source: str) -> tuple[bool, str | None]:
        """Whether the blob was taken over from SOURCE; if not, where an upload was begun instead, if there was."""
        path = f"blobs/uploads/?mount={descriptor.digest}&from={source}"
        try:
            answer = self.endpoint.ask(path, Ask(method="POST"))
        except (AccessDenied, NetworkFailed):
            return False, None  # sending it tells what is wrong, if anything is
        if answer.status == 202:
            session = upload.Session(self.endpoint, descriptor)
            session.accept(answer)
            return False, session.location
        answer.close()
        return answer.status == 201 and self.has(descriptor), None

    def put_manifest(self, descriptor: Descriptor, data: bytes, tag: str | None = None) -> bool:
        """Have the manifest or index DATA, whose blobs are there, under its digest, or under TAG (and its digest).

        Returns whether the registry says that it lists it among the referrers of its subject.
        """
        version = tag or str(descriptor.digest)
        ask = Ask(method="PUT", headers={"Content-Type": descriptor.media_type}, body=data)
        answer = self.endpoint.ask(f"manifests/{version}", ask)
        if answer.status not in (200, 201, 202):
            raise self._not_taken(self.endpoint.failure(answer, f"the manifest {version}"))
        answer.close()
        stated = answer.header("Docker-Content-Digest")
        if stated is not None and stated != str(descriptor.digest) and descriptor.digest.algorithm == "sha256":
            raise Refused(f"the registry made {stated[:100]!a} of the manifest {descriptor.digest}")
        return answer.header("OCI-Subject") is not None

    def _not_taken(self, failure: Failure) -> Failure:
        if isinstance(failure, NetworkFailed):  # it answered, and there is nothing wrong with the network
            return Failure(
                f"cannot push to {self.endpoint.name}",
                why=f"the registry does not take the manifest: {failure.why}",
                fix="It may not allow this type of image, or not allow a tag to be moved; its administrator can tell.",
            )
        return failure

    def attach(self, artifact: Artifact) -> None:
        """Have ARTIFACT, whose blobs are there, and have it found among the referrers of its subject."""
        if artifact.subject is None:
            raise ValueError("it is attached to nothing")
        if not self.put_manifest(artifact.descriptor, artifact.data):
            self._list(artifact, artifact.subject.digest)

    def _list(self, artifact: Artifact, subject: Digest) -> None:
        """Put ARTIFACT into the list that clients keep where the registry keeps none."""
        tag = fallback_tag(subject)
        for _ in range(_TRIES):
            try:
                found = self.client.fetch(tag, (OCI_INDEX,))
            except ImageNotFound:
                found = None
            index = with_referrer(found.data if found else None, artifact)
            if index is None:
                return
            self.put_manifest(Descriptor(OCI_INDEX, Digest.of(index), len(index)), index, tag)
            # Another client may have done the same at the same time: the specification has no lock for it.
        listed = self.client.listed(tag)
        if all(one.digest != artifact.descriptor.digest for one in listed):
            raise Failure(
                f"cannot attach anything to {subject}",
                why=f"others keep changing {self.endpoint.name}:{tag} at the same time",
                fix="Run the same command again.",
            )
