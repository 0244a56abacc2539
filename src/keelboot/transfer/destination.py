"""Where copies go. Each kind of place is a module: toregistry, tolayout, toarchive, tostorage."""

from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

from keelboot.image.documents import Descriptor
from keelboot.registry.outcome import How
from keelboot.transfer.parcel import Document

Advance = Callable[[int], None]


class Destination(Protocol):
    """A place for one image. Until `commit`, nobody who looks there sees anything of it. Methods raise Failure."""

    def has(self, blob: Descriptor) -> bool:
        """Whether it has BLOB already, to be called by any thread."""

    def mounts(self, blob: Descriptor) -> bool:
        """Whether it will try to take BLOB from elsewhere, without its bytes coming from here."""

    def put(self, blob: Descriptor, open_blob: Callable[[], BinaryIO], advance: Advance) -> How:
        """Have BLOB there, by any thread; OPEN_BLOB opens it from its start. Raises Refused where it is not that."""

    def commit(self, documents: Sequence[Document]) -> None:
        """Have DOCUMENTS there, in this order, and let the last one be what the image's name means."""
