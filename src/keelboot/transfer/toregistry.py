"""Copies into a repository of a registry."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Final

from keelboot.failure import Failure, NetworkFailed
from keelboot.image.digest import Digest
from keelboot.image.documents import Descriptor
from keelboot.image.reference import Reference
from keelboot.image.refusal import Refused
from keelboot.registry.bookmark import Bookmarks, no_bookmarks
from keelboot.registry.opening import Registries
from keelboot.registry.outcome import How
from keelboot.transfer.destination import Advance
from keelboot.transfer.parcel import Document

_LATEST: Final = "latest"


class ToRegistry:
    """The repository that REFERENCE names; SOURCES has, by blob, paths of repositories there that may have it.

    BOOKMARKS has what an earlier process began to send.
    """

    def __init__(
        self,
        reference: Reference,
        registries: Registries,
        sources: Mapping[Digest, str],
        bookmarks: Bookmarks = no_bookmarks,
    ) -> None:
        self._reference, self._sources = reference, sources
        mounting = tuple(sorted(set(sources.values())))
        self.publisher = registries.publisher(reference, mounting=mounting, bookmarks=bookmarks)

    def has(self, blob: Descriptor) -> bool:
        with self._blamed():
            return self.publisher.has(blob)

    def mounts(self, blob: Descriptor) -> bool:
        return blob.digest in self._sources

    def put(self, blob: Descriptor, open_blob: Callable[[], BinaryIO], advance: Advance) -> How:
        source = self._sources.get(blob.digest)
        return self.publisher.put_blob(blob, open_blob, advance=advance, mount_from=source)

    def commit(self, documents: Sequence[Document]) -> None:
        *inner, (top, data) = documents
        digest, tag = self._reference.digest, self._reference.tag
        if digest is not None and digest != top.digest:
            raise Failure(
                f"cannot push to {self._reference}",
                why=f"the image has the digest {top.digest}",
                fix="Leave the digest out, or name a tag.",
            )
        with self._blamed():
            for descriptor, content in inner:
                if not self.publisher.has_manifest(descriptor):
                    self.publisher.put_manifest(descriptor, content)
            if digest is not None and tag is None:
                self.publisher.put_manifest(top, data)
            elif self.publisher.tagged(tag or _LATEST) != top.digest:
                self.publisher.put_manifest(top, data, tag or _LATEST)

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """Tell of answers that a registry should not give as what they are: not the image's fault."""
        try:
            yield
        except Refused as error:
            raise NetworkFailed(
                f"cannot push to {self._reference}",
                why=str(error),
                fix="The registry does not follow the OCI distribution specification; its administrator can tell why.",
            ) from error


def mountable(
    blobs: Collection[Digest], path: str, *, origin: str | None, known: Callable[[Digest], Sequence[str]]
) -> dict[Digest, str]:
    """By blob, the repository of the same registry, other than PATH, that BLOBS are to be taken from.

    ORIGIN is where they come from, if it is there; KNOWN tells where they were seen.
    """
    found = {}
    for blob in blobs:
        others = [other for other in ([origin] if origin else known(blob)) if other != path]
        if others:
            found[blob] = others[0]
    return found
