"""Gathering what may be signatures of an image, from wherever they may be: bounded, and nothing is verified yet.

Where they are is behind a port, `Shelf`: a registry, or a directory in tests. At most `OBJECTS_MAX` manifests and
blobs are fetched for one image, and as many signatures looked at, each of at most `OBJECT_MAX` bytes, all before one
deadline. An object that breaks a rule is noted and passed over: it cannot spoil another one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from keelboot.failure import ImageNotFound, InvalidImage
from keelboot.image.digest import Digest
from keelboot.image.documents import OCI_MANIFEST, Descriptor, verified
from keelboot.image.refusal import Refused
from keelboot.registry.referrers import Artifact, parse_artifact
from keelboot.trust import bundle
from keelboot.trust.artifact import (
    CREATED,
    PREDICATE_TYPE,
    attestation_tag,
    bundles,
    described,
    envelopes,
    payloads,
    signature_tag,
)
from keelboot.trust.statement import SIGNATURE

OBJECTS_MAX: Final = 50
TAG_MAX: Final = 30  # of them at the tag: what is among the referrers has to be found too
OBJECT_MAX: Final = 1 << 20  # bytes


class Shelf(Protocol):
    """Where things attached to the images of one repository are.

    Methods read at most LIMIT bytes and raise Refused for more, ImageNotFound for what is missing; failures of the
    network go through, as nobody can say then whether an image is signed.
    """

    def tagged(self, tag: str, limit: int) -> bytes | None:
        """The manifest or index that TAG names; None where there is no such tag."""

    def fetch(self, descriptor: Descriptor, limit: int) -> bytes:
        """The manifest or blob that DESCRIPTOR names; its digest need not be checked here."""

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """What refers to DIGEST: by the registry's interface, or by the index that clients keep where it has none."""


@dataclass(frozen=True, slots=True)
class Simple:
    """What may be a signature of cosign 2: bytes that were signed, and the annotations that say how."""

    where: str
    payload: bytes = field(repr=False)
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Bundled:
    """What may be a signature, or an attestation, of cosign 3: a bundle's bytes."""

    where: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Enveloped:
    """What may be an attestation of cosign 2: an envelope's bytes, and the annotations beside it."""

    where: str
    data: bytes = field(repr=False)
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Collected:
    """What was found; `notes` say of the rest why it was passed over, each with where it was."""

    simple: tuple[Simple, ...] = ()
    bundles: tuple[Bundled, ...] = ()
    notes: tuple[str, ...] = ()
    envelopes: tuple[Enveloped, ...] = ()


def collect(
    shelf: Shelf, image: Descriptor, late: Callable[[], bool] = lambda: False, *, attestations: bool = False
) -> Collected:
    """All signatures that SHELF has for IMAGE, within the limits; or, where ATTESTATIONS are wanted, those.

    Of what is in bundles nobody knows yet which it is. LATE tells whether the deadline is over.
    """
    collector = _Collector(shelf, image, late)
    with _within_limits(collector.notes):
        collector.by_tag(attestation_tag(image.digest) if attestations else signature_tag(image.digest))
    with _within_limits(collector.notes):
        collector.referrers()
    return Collected(
        tuple(collector.simple), tuple(collector.bundles), tuple(collector.notes), tuple(collector.envelopes)
    )


class _EnoughError(Exception):
    """A limit is reached."""


class _Collector:
    def __init__(self, shelf: Shelf, image: Descriptor, late: Callable[[], bool]) -> None:
        self._shelf, self._image, self._late = shelf, image, late
        self._objects, self._most = 0, TAG_MAX
        self._fetched: dict[str, bytes] = {}
        self.simple: list[Simple] = []
        self.bundles: list[Bundled] = []
        self.envelopes: list[Enveloped] = []
        self.notes: list[str] = []

    def by_tag(self, tag: str) -> None:
        """What cosign 2 keeps at TAG."""
        with _noting(self.notes, tag):
            self._spend()
            data = self._shelf.tagged(tag, OBJECT_MAX)
            if data is None:
                return
            found = parse_artifact(_bounded(data), described(data, OCI_MANIFEST))
            if found.subject is not None:
                raise Refused("it has a subject, so it is a referrer")
            self._take(found, tag)

    def referrers(self) -> None:
        """What cosign 3 attaches to the image."""
        self._most = OBJECTS_MAX
        with _noting(self.notes, "the list of referrers"):
            self._spend()
            # What the list says of its entries is a hint, so it only decides which come first within the limits:
            # cosign's own entries say less than registries' do, and who says when says it first.
            newest_first = sorted(self._shelf.referrers(self._image.digest), key=_created, reverse=True)
            for one in sorted(newest_first, key=_promise):
                where = f"referrer {one.digest}"
                with _noting(self.notes, where):
                    found = parse_artifact(self._fetch(one), one)
                    if found.subject is None or _named(found.subject) != _named(self._image):
                        raise Refused("its subject is another image")
                    self._take(found, where)

    def _take(self, found: Artifact, where: str) -> None:
        """Keep what FOUND holds; all else is passed over."""
        simple, bundled, enveloped = payloads(found), bundles(found), envelopes(found)
        if not simple and not bundled and not enveloped:
            raise Refused(f"it holds no signature: it is {found.artifact_type[:100]!a}")
        # New signatures are put behind the ones before, and an image may be signed again and again to say that it is
        # still current: within the limits the last ones count.
        for number, layer in reversed(tuple(enumerate(found.layers, 1))):
            at = f"{where}, layer {number}"
            with _noting(self.notes, at):
                if len(self.simple) + len(self.bundles) + len(self.envelopes) >= self._most:
                    raise _EnoughError(f"{at}: no more than {self._most} signatures are looked at")
                if layer in bundled:
                    self.bundles.append(Bundled(at, self._fetch(layer)))
                elif layer in simple:
                    self.simple.append(Simple(at, self._fetch(layer), layer.annotations))
                elif layer in enveloped:
                    self.envelopes.append(Enveloped(at, self._fetch(layer), layer.annotations))
                else:
                    raise Refused(f"it is {layer.media_type[:100]!a}, not a signature")

    def _fetch(self, descriptor: Descriptor) -> bytes:
        if descriptor.size > OBJECT_MAX:
            raise Refused(f"it has {descriptor.size} bytes, more than {OBJECT_MAX}")
        name = str(descriptor.digest)
        if name not in self._fetched:  # one payload may be signed several times
            self._spend()
            self._fetched[name] = verified(_bounded(self._shelf.fetch(descriptor, OBJECT_MAX)), descriptor)
        return verified(self._fetched[name], descriptor)

    def _spend(self) -> None:
        """One more object is fetched."""
        if self._late():
            raise _EnoughError("the deadline for finding signatures is over")
        if self._objects >= self._most:
            raise _EnoughError(f"no more than {self._most} objects are fetched")
        self._objects += 1


@contextmanager
def _noting(notes: list[str], where: str) -> Iterator[None]:
    """Make a note of a refusal of what is at WHERE, and go on after it."""
    try:
        yield
    except Refused as error:
        notes.append(f"{where}: {error}")
    except (ImageNotFound, InvalidImage) as error:
        notes.append(f"{where}: {error.why}")


@contextmanager
def _within_limits(notes: list[str]) -> Iterator[None]:
    """Make a note of a limit that ends what is inside."""
    try:
        yield
    except _EnoughError as end:
        notes.append(str(end))


def _named(one: Descriptor) -> tuple[str, Digest, int]:
    return one.media_type, one.digest, one.size


def _bounded(data: bytes) -> bytes:
    if len(data) > OBJECT_MAX:
        raise Refused(f"it has {len(data)} bytes, more than {OBJECT_MAX}")
    return data


def _created(one: Descriptor) -> str:
    return one.annotations.get(CREATED, "")


def _promise(one: Descriptor) -> int:
    if one.annotations.get(PREDICATE_TYPE) == SIGNATURE:
        return 0
    return 1 if one.artifact_type in (None, bundle.MEDIA_TYPE, "application/vnd.oci.empty.v1+json") else 2
