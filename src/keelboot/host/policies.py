"""The policies that hold on a machine: which files they are, and what these say. Read anew for each decision.

/etc/keelboot/trust.json            the machine's own; in its place /usr/lib/keelboot/trust.json, which the image brings
/etc/containers/policy.json         containers-policy.json(5), where it is there

Where both kinds are there, both hold. Nothing of `trust` is imported before a policy has to be understood: it loads
the library that verifies signatures, which takes longer than all the rest of `status`.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from keelboot.failure import InvalidSettings, MissingTool
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import DOCUMENT_MAX

if TYPE_CHECKING:
    from keelboot.trust.decision import Rules
    from keelboot.trust.identity import Asked
    from keelboot.trust.policy import Policy

OWN: Final = "/etc/keelboot/trust.json"
CARRIED: Final = "/usr/lib/keelboot/trust.json"
CONTAINERS: Final = "/etc/containers/policy.json"


@dataclass(frozen=True, slots=True)
class File:
    """A policy's file: its path on the machine, and its bytes."""

    path: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Files:
    """What is there of each kind."""

    own: File | None = None
    containers: File | None = None


@dataclass(frozen=True, slots=True)
class Policies:
    """What the files say. `names` has what keelboot's own policy calls its keys, by fingerprint."""

    own: "Policy | None" = None
    containers: "Policy | None" = None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def rules(self) -> "Rules | None":
        """All of it together; None where there is none."""
        if self.own and self.containers:
            from keelboot.trust.policy import Both  # noqa: PLC0415 - see the module

            return Both(self.own, self.containers)
        return self.own or self.containers

    @property
    def accepts_by_default(self) -> bool:
        """Whether an image that nobody wrote a rule about is accepted."""
        if self.own and not (self.own.defers and self.containers):
            return False
        return self.containers is None or _accepts(self.containers.default)

    def covers(self, image: "Asked") -> bool:
        """Whether somebody decided about IMAGE.

        That everything is accepted, by default or for a whole transport, was decided by nobody: distributions ship
        containers-policy.json so.
        """
        if self.rules is None:
            return False
        from keelboot.trust.scopes import scopes  # noqa: PLC0415 - see the module

        if self.own and (self.own.find(image) or not (self.own.defers and self.containers)):
            return True
        if self.containers is None:
            return False
        named = any((image.transport, scope) in self.containers.rules for scope in scopes(image) if scope)
        return named or not _accepts(self.containers.ruling(image).requirements)


def find(root: Path = Path("/")) -> Files:
    """The policies' files of the machine whose root is ROOT. Raises InvalidSettings for one that cannot be read."""
    return Files(_read(root, OWN) or _read(root, CARRIED), _read(root, CONTAINERS))


def machines(root: Path = Path("/")) -> Policies:
    """What holds now on the machine whose root is ROOT. Raises InvalidSettings, MissingTool."""
    return load(find(root), lambda path: within(root, path).read_bytes())


def load(files: Files, read: Callable[[str], bytes]) -> Policies:
    """What FILES say; READ brings what they name, or raises OSError. Raises InvalidSettings, MissingTool."""
    if files == Files():
        return Policies()
    try:
        from keelboot.trust.containerspolicy import parse_policy  # noqa: PLC0415 - see the module
        from keelboot.trust.trustpolicy import parse_trust_policy  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "cryptography":
            raise
        raise MissingTool(
            "cannot check signatures",
            why="the Python library cryptography is not installed, and there is a policy",
            fix="Install it: `apt-get install python3-cryptography`, in the image's Containerfile for a machine.",
        ) from error

    def loaded(file: File | None, parse: "Callable[[bytes, str, Callable[[str], bytes]], Policy]") -> "Policy | None":
        if file is None:
            return None
        try:
            return parse(file.content, file.path, read)
        except Refused as error:
            page = "docs/formats/trust-policy.md" if parse is parse_trust_policy else "containers-policy.json(5)"
            raise InvalidSettings(
                f"the policy {file.path} cannot be used",
                why=str(error),
                fix=f"No image is accepted until it is right: see {page}.",
            ) from error

    own, containers = loaded(files.own, parse_trust_policy), loaded(files.containers, parse_policy)
    return Policies(own, containers, _names(files.own, read) if files.own else {})


def within(root: Path, path: str) -> Path:
    """The absolute PATH of the machine whose root is ROOT."""
    return root / path.lstrip("/")


def _accepts(requirements: "tuple[object, ...]") -> bool:
    from keelboot.trust.policy import AcceptAnything  # noqa: PLC0415 - see the module

    return all(isinstance(one, AcceptAnything) for one in requirements)


def _names(file: File, read: Callable[[str], bytes]) -> dict[str, str]:
    """What FILE, which has been found right, calls its keys."""
    from keelboot.image.strictjson import Members, parse  # noqa: PLC0415 - see the module
    from keelboot.trust.keys import parse_keys  # noqa: PLC0415

    found = {}
    keys = Members(parse(file.content), "", ("keys",)).value("keys")
    for name, value in keys.items() if isinstance(keys, dict) else ():
        members = Members(value, "", ("path", "data"))
        path, data = members.text("path"), members.text("data") or ""
        with suppress(OSError, Refused):
            for key in parse_keys(read(path) if path else data.encode()):
                found[key.fingerprint] = name
    return found


def _read(root: Path, path: str) -> File | None:
    try:
        with within(root, path).open("rb") as file:
            content = file.read(DOCUMENT_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidSettings(
            f"the policy {path} cannot be read",
            why=error.strerror or str(error),
            fix="No image is accepted until it can be: mend it, or remove it.",
        ) from error
    return File(path, content)
