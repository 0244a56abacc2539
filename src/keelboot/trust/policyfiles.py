"""The files that a policy names: keys and certificates, which all must load before the policy says anything."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from keelboot.failure import InvalidSettings
from keelboot.image.refusal import Refused
from keelboot.trust.keys import PublicKey, parse_keys

Read = Callable[[str], bytes]


class PolicyFiles:
    """Reads each file once, by READ, which raises OSError. What was read is in `contents`, for the policy's hash."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.contents: dict[str, bytes] = {}

    def get(self, name: str, path: str) -> bytes:
        """The bytes of the file NAME, which the policy has at the JSON path PATH. Raises Refused."""
        if not name.startswith("/"):
            raise Refused(f"{path} is {name!a}, which is not an absolute path")
        if name not in self.contents:
            try:
                self.contents[name] = self._read(name)
            except OSError as error:
                raise Refused(f"{path}: {name}: {error.strerror or error}") from error
        return self.contents[name]


@contextmanager
def usable(source: str, manual: str) -> Iterator[None]:
    """Tell what is refused of the policy in the file SOURCE; MANUAL says how it has to be. Raises InvalidSettings."""
    try:
        yield
    except Refused as error:
        raise InvalidSettings(
            f"the policy {source} cannot be used",
            why=str(error),
            fix=f"No image is accepted until it is right: see {manual}.",
        ) from error


def one_key(data: bytes, path: str) -> PublicKey:
    """The one key that DATA, at the JSON path PATH of a policy, has. Raises Refused."""
    try:
        keys = parse_keys(data)
    except Refused as error:
        raise Refused(f"{path}: {error}") from error
    if len(keys) != 1:
        raise Refused(f"{path}: it has {len(keys)} keys; each needs an entry of its own")
    return keys[0]
