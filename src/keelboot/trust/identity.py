"""Whose image it is: names of images, and which signed name a policy accepts for the name that was asked for.

The six kinds are those of containers-policy.json(5), `signedIdentity`. Names are compared as a whole, in full form:
`busybox` is docker.io/library/busybox, and a host with a port is another host.
"""

import re
from dataclasses import dataclass
from typing import Final, Protocol

from keelboot.failure import Failure
from keelboot.image.digest import Digest
from keelboot.image.reference import Reference, Transport
from keelboot.image.refusal import Refused
from keelboot.registry.name import Name
from keelboot.trust.exact import Exact

_LATEST: Final = "latest"
_ID = re.compile("[0-9a-f]{64}")
_HOST_PART = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_HOST = rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PREFIX = re.compile(rf"{_HOST}(?:/{_COMPONENT})*")


@dataclass(frozen=True, slots=True)
class Named:
    """The full name of an image: repository with its host, tag, digest; either may be missing."""

    repository: str
    tag: str | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return f"{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def bare(self) -> bool:
        """Whether it has neither tag nor digest."""
        return self.tag is None and self.digest is None


@dataclass(frozen=True, slots=True)
class Asked:
    """The image that was asked for: where it is, and its name there; None where the transport has no names."""

    transport: str  # as containers-policy.json(5) writes it: docker, oci, dir
    named: Named | None
    path: str = ""  # of layouts and archives: absolute, without symbolic links

    def __str__(self) -> str:
        return str(self.named) if self.named else f"{self.transport}:{self.path}"


def asked(reference: Reference, name: Name) -> Asked:
    """What REFERENCE, an image in a registry whose full name is NAME, asks for. Without a tag it is `latest`.

    With tag and digest the digest counts, as a registry is asked for nothing else.
    """
    if reference.transport is not Transport.REGISTRY:
        raise ValueError(f"not in a registry: {reference}")
    if reference.digest is not None:
        return Asked("docker", Named(str(name), None, reference.digest))
    return Asked("docker", Named(str(name), reference.tag or _LATEST))


def parse_named(text: str) -> Named:
    """The full name of the image that TEXT names, by the grammar that all container tools share. Raises Refused."""
    if _ID.fullmatch(text):
        raise Refused(f"{text!a} is the id of an image, not a name")
    try:
        parsed = Reference.parse(f"{Transport.REGISTRY}://{text}")
    except Failure as error:
        raise Refused(f"{text[:300]!a} is not the name of an image") from error
    name = Name.parse(parsed.location)
    if not name.path or name.path != name.path.lower():
        raise Refused(f"{text[:300]!a} is not the name of an image")
    return Named(str(name), parsed.tag, parsed.digest)


class Identity(Protocol):
    """Which signed names a policy accepts."""

    def accepts(self, signed: Named, image: Asked) -> bool:
        """Whether an image that was signed as SIGNED may be used as IMAGE."""


@dataclass(frozen=True, slots=True)
class MatchExact:
    """The signed name is the one that was asked for, tag or digest included."""

    def accepts(self, signed: Named, image: Asked) -> bool:
        return image.named is not None and not signed.bare and not image.named.bare and signed == image.named


@dataclass(frozen=True, slots=True)
class MatchRepoDigestOrExact:
    """As MatchExact where a tag was asked for; any tag of the repository where a digest was."""

    def accepts(self, signed: Named, image: Asked) -> bool:
        return image.named is not None and _exact_or_by_digest(signed, image.named)


@dataclass(frozen=True, slots=True)
class MatchRepository:
    """Any tag of the repository, or none: whoever serves it may then swap the tags of signed images."""

    def accepts(self, signed: Named, image: Asked) -> bool:
        return image.named is not None and signed.repository == image.named.repository


@dataclass(frozen=True, slots=True)
class ExactReference:
    """One name, whatever was asked for."""

    name: Named

    def accepts(self, signed: Named, image: Asked) -> bool:  # noqa: ARG002
        return not signed.bare and signed == self.name


@dataclass(frozen=True, slots=True)
class ExactRepository:
    """One repository, whatever was asked for."""

    name: Named

    def accepts(self, signed: Named, image: Asked) -> bool:  # noqa: ARG002
        return signed.repository == self.name.repository


@dataclass(frozen=True, slots=True)
class RemapIdentity:
    """As MatchRepoDigestOrExact, after `prefix` of the name that was asked for was replaced by `signed_prefix`."""

    prefix: str
    signed_prefix: str

    def accepts(self, signed: Named, image: Asked) -> bool:
        if image.named is None:
            return False
        named = image.named
        if named.repository == self.prefix or named.repository.startswith(f"{self.prefix}/"):
            repository = self.signed_prefix + named.repository.removeprefix(self.prefix)
            if "/" not in repository:  # a host is not the name of an image
                return False
            named = Named(repository, named.tag, named.digest)
        return _exact_or_by_digest(signed, named)


def parse_identity(value: object, path: str) -> Identity:
    """The member `signedIdentity` VALUE, which is at PATH. Raises Refused."""
    kind = value.get("type") if isinstance(value, dict) else None
    simple: dict[str, Identity] = {
        "matchExact": MatchExact(),
        "matchRepoDigestOrExact": MatchRepoDigestOrExact(),
        "matchRepository": MatchRepository(),
    }
    if isinstance(kind, str) and kind in simple:
        Exact(value, path, ("type",))
        return simple[kind]
    if kind == "exactReference":
        members = Exact(value, path, ("type", "dockerReference"))
        named = _named(members, "dockerReference")
        if named.bare:
            raise Refused(f"{members.where('dockerReference')} has neither a tag nor a digest")
        return ExactReference(named)
    if kind == "exactRepository":
        return ExactRepository(_named(Exact(value, path, ("type", "dockerRepository")), "dockerRepository"))
    if kind == "remapIdentity":
        members = Exact(value, path, ("type", "prefix", "signedPrefix"))
        return RemapIdentity(_prefix(members, "prefix"), _prefix(members, "signedPrefix"))
    if not isinstance(value, dict):
        raise Refused(f"{path} is not an object")
    raise Refused(f"{path}.type is {kind!a}, which is no kind of identity")


def _named(members: Exact, name: str) -> Named:
    try:
        return parse_named(members.required_text(name))
    except Refused as error:
        raise Refused(f"{members.where(name)}: {error}") from error


def _prefix(members: Exact, name: str) -> str:
    text = members.required_text(name)
    if not _PREFIX.fullmatch(text):
        raise Refused(f"{members.where(name)} is {text!a}, which is no host, namespace or repository")
    return text


def _exact_or_by_digest(signed: Named, image: Named) -> bool:
    if signed.bare or image.bare:
        return False
    if image.tag is not None:
        return signed == image
    return signed.repository == image.repository
