"""A policy for the machine that is being made: from `--key` or `--policy`, and the files of its /etc that hold it.

They are changes that this machine made to /etc, so every later version gets them. A policy's file of a key is taken
from beside the policy where one has its name there, and otherwise from where the policy says.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from keelboot.failure import Failure, InvalidSettings
from keelboot.host import policies
from keelboot.host.policies import File, Files, Policies
from keelboot.image.reference import Reference, Transport
from keelboot.image.refusal import Refused
from keelboot.image.strictjson import parse

KEYS: Final = "/etc/keelboot/keys"
_NAME = re.compile("[a-z0-9][a-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Given:
    """What it says, and its files: their paths on the machine, all below /etc, with their bytes."""

    policies: Policies
    files: Mapping[str, bytes] = field(default_factory=dict)


def from_keys(paths: Sequence[Path], target: Reference, repository: str) -> Given:
    """The policy that whoever has one of the keys in PATHS signs REPOSITORY, which TARGET is in, and nothing else runs.

    Raises Failure.
    """
    from keelboot.trust.keys import read_keys  # noqa: PLC0415 - it loads what verifies signatures

    if target.transport is not Transport.REGISTRY:
        raise Failure(
            "cannot use --key",
            why=f"the machine would follow {target}, and only images in registries have signatures",
            fix="Say with --target-imgref which image in a registry the machine follows.",
        )
    files, names = dict[str, bytes](), list[str]()
    for path in paths:
        for key in read_keys(_bytes(path), str(path)):
            name = _free(path.stem.lower(), names)
            names.append(name)
            files[f"{KEYS}/{name}.pub"] = key.pem.encode()
    document = {
        "version": 1,
        "keys": {name: {"path": f"{KEYS}/{name}.pub", "repositories": [repository]} for name in names},
        "images": {repository: {"keys": names}},
        "otherwise": "reject",
    }
    files[policies.OWN] = json.dumps(document, indent=2).encode() + b"\n"
    return _loaded(Files(own=File(policies.OWN, files[policies.OWN])), files)


def from_policy(path: Path) -> Given:
    """The policy in the file PATH, of either kind, for the machine. Raises InvalidSettings, Failure."""
    content = _bytes(path)
    try:
        value = parse(content)
    except Refused as error:
        raise InvalidSettings(
            f"the policy {path} cannot be used",
            why=str(error),
            fix="See docs/formats/trust-policy.md, or containers-policy.json(5).",
        ) from error
    found = {policies.CONTAINERS if isinstance(value, dict) and "default" in value else policies.OWN: content}

    def read(name: str) -> bytes:
        beside = path.parent / Path(name).name
        data = (beside if beside.is_file() else Path(name)).read_bytes()
        if name.startswith("/etc/"):
            found[name] = data
        elif not name.startswith("/usr/"):
            raise Refused(f"{name} would not be on the machine: say that it is below /etc, or in the image's /usr")
        return data

    [(place, _)] = found.items()
    file = File(str(path), content)
    files = Files(containers=file) if place == policies.CONTAINERS else Files(own=file)
    return Given(_with_ours(policies.load(files, read)), found)


def _loaded(files: Files, there: Mapping[str, bytes]) -> Given:
    return Given(_with_ours(policies.load(files, lambda name: there[name])), there)


def _with_ours(given: Policies) -> Policies:
    """GIVEN, and containers-policy.json(5) of the machine that installs, which is the user's own."""
    if given.containers:
        return given
    here = policies.find()
    ours = policies.load(Files(containers=here.containers), lambda name: Path(name).read_bytes())
    return Policies(given.own, ours.containers, given.names)


def _free(wanted: str, taken: Sequence[str]) -> str:
    name = wanted if _NAME.fullmatch(wanted) else "key"
    number = 1
    while name in taken:
        number += 1
        name = f"{wanted if _NAME.fullmatch(wanted) else 'key'}-{number}"
    return name


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Failure(
            f"cannot read {path}", why=error.strerror or str(error), fix="Name a file that this user may read."
        ) from error
