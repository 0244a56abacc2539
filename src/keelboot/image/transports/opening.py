"""The door of this package: a reference in, an image out."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from keelboot.failure import Failure, ImageNotFound
from keelboot.image import remote
from keelboot.image.opened import Image
from keelboot.image.reference import Reference, Transport
from keelboot.image.refusal import Refused, refusing
from keelboot.image.transports import folder
from keelboot.image.transports.dockerarchive import DockerArchive
from keelboot.image.transports.layout import Layout


@contextmanager
def open_image(
    reference: Reference, *, architecture: str | None = None, scratch: Path | None = None
) -> Iterator[Image]:
    """The image REFERENCE names, readable until the context is left.

    ARCHITECTURE (amd64 or x86_64) picks one of an image for several, and is the only one accepted; None picks this
    machine's and accepts any image that is for one only. SCRATCH is where a copy from podman's store may lie. Raises
    ImageNotFound, InvalidImage, MissingTool, OutOfSpace, NotWritable, CommandFailed; for registries NetworkFailed,
    AccessDenied, and Failure where `remote` knows no way to them.
    """
    with ExitStack() as stack:
        with refusing(reference, "its documents"):
            if reference.transport is Transport.STORAGE:
                from keelboot.image.transports import storage  # noqa: PLC0415 - it needs what runs programs, a tenth of the start of a pull

                saved = storage.open_saved(reference, architecture=architecture, scratch=scratch)
                image = stack.enter_context(saved)
            elif reference.transport is Transport.REGISTRY:
                image = stack.enter_context(_remote(reference).open(reference, architecture=architecture))
            else:
                image = stack.enter_context(_stored(reference)).open(reference, architecture)
        yield image


def exists(reference: Reference) -> bool:
    """Whether an image is there under this name. Raises InvalidImage, MissingTool, CommandFailed, and Failure."""
    if reference.transport is Transport.STORAGE:
        from keelboot.image.transports import storage  # noqa: PLC0415 - as in `open_image`

        return storage.exists(reference)
    try:
        fingerprint(reference)
    except ImageNotFound:
        return False
    return True


def fingerprint(reference: Reference, *, architecture: str | None = None) -> str:
    """What changes when REFERENCE comes to name another image: an id or a digest, found without reading layers.

    Raises as `open_image` does.
    """
    if reference.transport is Transport.STORAGE:
        from keelboot.image.transports import storage  # noqa: PLC0415 - as in `open_image`

        return storage.image_id(reference)
    if reference.transport is Transport.REGISTRY:
        return _remote(reference).fingerprint(reference, architecture=architecture)
    with refusing(reference, "its documents"), _stored(reference) as place:
        if isinstance(place, DockerArchive):
            return place.fingerprint(reference)
        return str(place.find(reference, architecture).digest)


@contextmanager
def open_layout(reference: Reference) -> Iterator[Layout]:
    """The image layout that REFERENCE, of a directory or an archive, names an image in. Raises as `open_image` does."""
    with ExitStack() as stack:
        with refusing(reference, "its documents"):
            place = stack.enter_context(_stored(reference))
            if not isinstance(place, Layout):
                raise Refused("it is not an image layout")
        yield place


@contextmanager
def _stored(reference: Reference) -> Iterator[Layout | DockerArchive]:
    """The directory or archive that REFERENCE names an image in."""
    path = Path(reference.location)
    match reference.transport:
        case Transport.OCI:
            with folder.directory(path, shown=reference) as files:
                yield Layout(files)
        case Transport.OCI_ARCHIVE:
            with folder.archive_file(path, shown=reference) as files:
                yield Layout(files)
        case Transport.DOCKER_ARCHIVE:
            with folder.archive_file(path, shown=reference) as files:
                yield DockerArchive(files)
        case _:
            raise ValueError(f"not a transport of files: {reference.transport}")


def _remote(reference: Reference) -> remote.Remote:
    provided = remote.provided()
    if provided is None:
        raise Failure(
            f"cannot open {reference}",
            why="this program does not fetch images from registries",
            fix=f"Run `podman pull {reference.name}` first, then use containers-storage:{reference.name}.",
        )
    return provided
