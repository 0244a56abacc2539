"""What people type as sizes, keys and kernel arguments, checked."""

import re
from pathlib import Path

from keelboot.failure import Failure

_SIZE = re.compile(r"(?P<number>[0-9]{1,15})(?P<unit>[KMGT]?)(?:iB|B)?", re.IGNORECASE)
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_KEY_TYPES = ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-", "sk-ssh-ed25519", "sk-ecdsa-sha2-")


class BadValue(Failure):
    """An option's value cannot be used."""

    exit_code = 2


def size_in_bytes(text: str) -> int:
    """Read `20G`, `512MiB`, `1048576`; units are powers of 1024. Raises BadValue."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise BadValue(
            f"cannot use the size {text!r}", why="it is not a number with a unit", fix="Write it like 20G or 512M."
        )
    return int(match["number"]) * _FACTORS[match["unit"].upper()]


def public_keys(file: Path) -> list[str]:
    """The keys in FILE, one a line as ssh writes them. Raises BadValue, also for a private key."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise BadValue(
            f"cannot read the SSH key {file}", why=why or str(error), fix="Name a file like ~/.ssh/id_ed25519.pub."
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if "PRIVATE KEY" in text:
        raise BadValue(
            f"cannot use the SSH key {file}", why="it is a private key", fix=f"Name the public one: {file}.pub."
        )
    if not keys or not all(key.startswith(_KEY_TYPES) for key in keys):
        raise BadValue(
            f"cannot use the SSH key {file}",
            why="there is no public key in it",
            fix="Make a pair with `ssh-keygen -t ed25519`.",
        )
    return keys


def kernel_argument(word: str) -> str:
    """WORD, if it is one kernel argument. Raises BadValue."""
    from keelboot.boot.kernel_arguments import check

    try:
        check(word)
    except ValueError as error:
        raise BadValue(
            "cannot add the kernel argument", why=str(error), fix="Write one NAME=VALUE per --karg."
        ) from error
    return word
