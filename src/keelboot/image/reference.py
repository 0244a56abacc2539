"""How a user names an image: the references of containers-transports(5).

    containers-storage:NAME     what podman built or pulled, in the calling user's own store
    oci:DIR[:TAG]               a directory in OCI's image layout
    oci-archive:FILE[:TAG]      the same in one tar file
    docker-archive:FILE[:TAG]   what `docker save` or `podman save` writes
    docker://NAME               an image in a registry

Without a transport, a name whose first part is a registry's host (it has a dot or a port) is in that registry; any
other (`web`, `web:1`, `localhost/web`) is in the user's own store.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from keelboot.failure import Failure
from keelboot.image.digest import Digest


class Transport(StrEnum):
    """Where an image is kept; the values are the words users type."""

    STORAGE = "containers-storage"
    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    REGISTRY = "docker"


_PATHS = (Transport.OCI, Transport.OCI_ARCHIVE, Transport.DOCKER_ARCHIVE)
_UNSUPPORTED = ("dir", "docker-daemon", "ostree", "ostree-image-signed", "ostree-unverified-registry", "sif", "tarball")
_ALNUM = "[a-z0-9]+"
_COMPONENT = rf"{_ALNUM}(?:(?:\.|_|__|-+){_ALNUM})*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:]+\])"
# The grammar of github.com/distribution/reference, which all container tools share.
_NAME = re.compile(rf"(?:{_HOST}(?::[0-9]+)?/)?{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_NAME_MAX = 255


@dataclass(frozen=True, slots=True)
class Reference:
    """A transport, and what it calls the image; `str` gives the text that names it again.

    `location` is a path for layouts and archives, else a name without tag and digest, or an image's id.
    """

    transport: Transport
    location: str
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if not self.location or "\0" in self.location:
            raise ValueError("a reference without a location")
        if self.transport not in _PATHS:
            if not _NAME.fullmatch(self.location) or len(self.location) > _NAME_MAX:
                raise ValueError(f"not the name of an image: {self.location}")
            if self.tag is not None and not _TAG.fullmatch(self.tag):
                raise ValueError(f"not a tag: {self.tag}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reference TEXT is. Raises Failure."""
        for transport in Transport:
            prefix = f"{transport}://" if transport is Transport.REGISTRY else f"{transport}:"
            if text.startswith(prefix):
                rest = text.removeprefix(prefix)
                return cls._path(text, transport, rest) if transport in _PATHS else cls._named(text, transport, rest)
        if _is_path(text):
            kinds = ["oci-archive", "docker-archive"] if _is_file(text) else ["oci", "oci-archive"]
            raise Failure(
                f"{text!a} does not say what kind of image it is",
                why="it is a path, and images are kept in files of several kinds",
                fix="Write " + " or ".join(f"{kind}:{text}" for kind in kinds) + ".",
            )
        transport_word = text.partition(":")[0]
        if transport_word in _UNSUPPORTED and ":" in text:
            raise Failure(
                f"cannot use {text!a}",
                why=f"the transport {transport_word} is not supported",
                fix="Copy the image, for example with `skopeo copy`, to an oci-archive: or containers-storage: one.",
            )
        host, slash, _ = text.partition("/")
        remote = slash and ("." in host or ":" in host)
        return cls._named(text, Transport.REGISTRY if remote else Transport.STORAGE, text)

    @classmethod
    def _path(cls, text: str, transport: Transport, rest: str) -> Self:
        # A path ends at the first colon, as containers-transports(5) has it; a name after it may have more.
        path, _, tag = rest.partition(":")
        try:
            return cls(transport, path, tag or None)
        except ValueError as error:
            raise _malformed(text, f"{transport}: needs a path") from error

    @classmethod
    def _named(cls, text: str, transport: Transport, rest: str) -> Self:
        # The form containers-storage:[DRIVER@ROOT]NAME picks another store than the user's own, so it is not taken.
        name, at, digest = rest.partition("@")
        last = name.rpartition("/")[2]
        tag = last.partition(":")[2] if ":" in last else None
        if tag is not None:
            name = name[: -len(tag) - 1]
        try:
            return cls(transport, name, tag, Digest.parse(digest) if at else None)
        except ValueError as error:
            raise _malformed(text, str(error)) from error

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        slashes = "//" if self.transport is Transport.REGISTRY else ""
        return f"{self.transport}:{slashes}{self.location}{tag}{digest}"

    @property
    def name(self) -> str:
        """The text without its transport, as the transport's own tools take it."""
        return str(self).partition(":")[2].removeprefix("//")


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~")) or text in (".", "..") or _is_file(text)


def _is_file(text: str) -> bool:
    return text.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst", ".oci"))


def _malformed(text: str, why: str) -> Failure:
    return Failure(
        f"{text!a} names no image",
        why=why,
        fix="Names are lower case, like web:1, localhost/web, registry.example.org/web:1, oci:DIR, oci-archive:FILE.",
    )
