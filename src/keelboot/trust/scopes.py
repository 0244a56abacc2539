"""Which part of a policy is about an image: the scopes of containers-policy.json(5), most specific first."""

import posixpath
import re
from typing import Final

from keelboot.image.refusal import Refused
from keelboot.trust.identity import Asked

# "" stands for the whole transport, and every transport has it.
TRANSPORTS: Final = (
    "atomic", "containers-storage", "dir", "docker", "docker-archive", "docker-daemon", "oci", "oci-archive", "sif",
    "tarball",
)  # fmt: skip
_BY_PATH = ("dir", "oci", "oci-archive", "sif")
_BY_NAME = ("atomic", "docker", "docker-daemon")
_WILDCARD = re.compile(r"\*\.[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_NAME = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]*(/[a-z0-9._-]+)*(:[\w][\w.-]*)?(@[a-z0-9]+:[0-9a-f]+)?", re.ASCII)


def scopes(image: Asked) -> list[str]:
    """The scopes that IMAGE is in, most specific first; the last is that of the whole transport."""
    found: list[str] = []
    if image.named is not None:
        if image.named.bare:
            raise ValueError(f"neither a tag nor a digest: {image.named}")
        found.append(str(image.named))
        name = image.named.repository
        found.append(name)
        while "/" in name:
            name = name.rpartition("/")[0]
            found.append(name)
        host = name.partition(":")[0]
        while "." in host:
            host = host.partition(".")[2]
            found.append(f"*.{host}")
    elif image.transport in _BY_PATH:
        path = image.path
        while path not in ("", "/"):
            found.append(path)
            path = posixpath.dirname(path)
    return [*found, ""]


def check_scope(transport: str, scope: str, path: str) -> None:
    """Refuse SCOPE where it could never match an image of TRANSPORT: it would be a rule that is not kept.

    Raises Refused.
    """
    if not scope:
        return
    if transport in _BY_PATH:
        if not scope.startswith("/") or scope == "/" or posixpath.normpath(scope) != scope or scope.startswith("//"):
            raise Refused(f'{path}: it must be an absolute path without "." and "..", and not /')
    elif transport in _BY_NAME:
        if not (_WILDCARD.fullmatch(scope) if "*" in scope else _NAME.fullmatch(scope)):
            raise Refused(f"{path}: it is no image, repository, namespace, host, or *.domain")
    elif transport == "containers-storage":
        if not scope.startswith("["):
            raise Refused(f"{path}: it must begin with the place of the store, in brackets")
    else:
        raise Refused(f"{path}: {transport} has no scope but the empty one")
