"""The door of this package: a reference in, an image out; the registry is asked for the name once."""

import platform
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final

from keelboot import __version__
from keelboot.failure import AccessDenied, Failure, ImageNotFound, InvalidImage, NetworkFailed
from keelboot.image.documents import Descriptor, choose, is_index, is_manifest, normal_architecture, parse_index
from keelboot.image.opened import Image, open_manifest
from keelboot.image.reference import Reference
from keelboot.image.refusal import Refused, refusing
from keelboot.registry.authorization import Access
from keelboot.registry.bookmark import Bookmarks, no_bookmarks
from keelboot.registry.client import Client, Document
from keelboot.registry.configuration import Place
from keelboot.registry.connections import Connections
from keelboot.registry.endpoint import Clock, Endpoint
from keelboot.registry.name import Name
from keelboot.registry.patience import Patience
from keelboot.registry.places import Places
from keelboot.registry.publisher import Publisher
from keelboot.registry.settings import Settings
from keelboot.registry.throttle import Throttle

# Registries look for `bootc/` when they count who uses an image as a host's.
AGENT: Final = f"keelboot/{__version__} bootc/ compatible"
_LATEST: Final = "latest"


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name stood for when it was first asked for, and the place that said so."""

    name: Name
    client: Client
    document: Document


class Registries:
    """All registries, as one process sees them: `keelboot.image.remote.Remote` for the transport `docker:`.

    A name is resolved when it is first used, and means the same image for as long as this value lives; so an operation
    has one of its own. Methods raise ImageNotFound, InvalidImage, NetworkFailed, AccessDenied, and Failure for
    settings that cannot be used.
    """

    def __init__(
        self,
        places: Places,
        *,
        patience: Patience | None = None,
        clock: Clock | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        self._patience, self._clock, self._throttle = patience or Patience(), clock or Clock(), throttle
        self._settings = Settings(places)
        self._connections = self._connected(self._patience)
        self._written = self._connected(self._patience.for_writing)
        self._resolved: dict[Reference, Resolved] = {}

    def name(self, reference: Reference) -> Name:
        """The full name that REFERENCE, whose name may be short, stands for: what signatures and policies speak of."""
        return Name.parse(reference.location, self._settings.configuration.aliases)

    @contextmanager
    def open(self, reference: Reference, *, architecture: str | None) -> Iterator[Image]:
        """The image REFERENCE names; see keelboot.image.transports.open_image."""
        try:
            with refusing(reference, "its documents"):
                client, chosen = self._chosen(reference, architecture)
                image = open_manifest(reference, chosen, client, architecture=architecture)
            yield image
        finally:
            self.close()

    def fingerprint(self, reference: Reference, *, architecture: str | None) -> str:
        """The digest of the image's manifest."""
        with refusing(reference, "its documents"):
            return str(self._chosen(reference, architecture)[1].digest)

    def close(self) -> None:
        """Close the connections that are kept; names stay resolved, and the next use connects again."""
        self._connections.close()
        self._written.close()

    def cut(self) -> None:
        """End at once what other threads do with registries: they raise Cut, or a failure of the network."""
        self._connections.cut()
        self._written.cut()

    def publisher(
        self, reference: Reference, *, mounting: Collection[str] = (), bookmarks: Bookmarks = no_bookmarks
    ) -> Publisher:
        """What writes to the repository that REFERENCE names, and may take blobs from those MOUNTING there.

        Where uploads got to is kept in BOOKMARKS. Mirrors are for reading. The caller closes.
        """
        name = self.name(reference)
        own = self._settings.configuration.places(name, by_digest=True)[-1]
        access = Access(writes=True, also=tuple(mounting))
        patience = self._patience.for_writing
        endpoint = Endpoint(own, self._settings, self._written, patience, self._clock, access=access)
        return Publisher(endpoint, bookmarks)

    def _connected(self, patience: Patience) -> Connections:
        settings = self._settings
        return Connections(
            lambda origin, led_by, insecure: settings.tls(origin, led_by, insecure=insecure),
            settings.places.proxies.choose,
            patience,
            agent=AGENT,
            throttle=self._throttle,
        )

    def resolve(self, reference: Reference) -> Resolved:
        """What REFERENCE stands for: a manifest, or an index of several. Raises Refused too."""
        if reference not in self._resolved:
            self._resolved[reference] = self._resolve(reference)
        return self._resolved[reference]

    def _chosen(self, reference: Reference, architecture: str | None) -> tuple[Client, Descriptor]:
        resolved = self.resolve(reference)
        chosen = resolved.document.descriptor
        if is_index(chosen.media_type):
            index = parse_index(resolved.document.data, chosen.media_type)
            chosen = choose(index.manifests, normal_architecture(architecture or platform.machine()))
        if not is_manifest(chosen.media_type):
            raise Refused(f"it is {chosen.media_type!a}, not the manifest of an image")
        return resolved.client, chosen

    def _resolve(self, reference: Reference) -> Resolved:
        """Ask one place after another; what the last one, the registry itself, says is what the user is told."""
        name = self.name(reference)
        version = reference.digest or reference.tag or _LATEST
        *mirrors, own = self._settings.configuration.places(name, by_digest=reference.digest is not None)
        for place in mirrors:
            try:
                client = self._client(place)
                return Resolved(name, client, client.resolve(version))
            except (ImageNotFound, InvalidImage, NetworkFailed, AccessDenied, Refused):
                continue
        client = self._client(own)
        try:
            return Resolved(name, client, client.resolve(version))
        except ImageNotFound as error:
            raise _not_found(reference, client, error) from error

    def _client(self, place: Place) -> Client:
        patience = self._patience
        if place.mirror:  # there is another place to ask
            patience = replace(patience, tries=min(patience.tries, 2), first_tries=1)
        return Client(Endpoint(place, self._settings, self._connections, patience, self._clock))


def _not_found(reference: Reference, client: Client, error: Failure) -> ImageNotFound:
    tags = client.tags() if reference.digest is None else ()
    if not tags:
        return ImageNotFound(
            f"cannot open {reference}",
            why=error.why,
            fix="Check the name; a registry may also hide from strangers what it has: "
            f"`podman login {client.endpoint.name.host}`.",
        )
    near = get_close_matches(reference.tag or _LATEST, tags, n=5, cutoff=0.4) or list(tags[-5:])
    shown = ", ".join(ascii(tag)[1:-1] for tag in near)
    return ImageNotFound(f"cannot open {reference}", why="the repository has no such tag", fix=f"It has {shown}.")
