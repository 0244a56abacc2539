"""JSON objects that have the members they must have and no others: what is signed or decides may hold no surprise."""

from collections.abc import Collection

from keelboot.image.refusal import Refused
from keelboot.image.strictjson import Members


class Exact(Members):
    """The members of one JSON object: all of REQUIRED, any of OPTIONAL, no other. Raises Refused."""

    def __init__(self, value: object, path: str, required: Collection[str], optional: Collection[str] = ()) -> None:
        super().__init__(value, path, (*required, *optional))
        for name in self._value:
            if name not in required and name not in optional:
                raise Refused(f"{self.where(name)} is not known here")
        for name in required:
            if name not in self._value:
                raise Refused(f"{self.where(name)} is missing")

    def given(self, name: str) -> bool:
        """Whether member NAME is there, be it null."""
        return name in self._value

    def only(self, names: Collection[str]) -> str:
        """The one of NAMES that is there."""
        there = [name for name in names if name in self._value]
        if len(there) != 1:
            found = f"{len(there)} of these are" if there else "none is"
            raise Refused(f"{self._path or 'the document'} must have exactly one of {', '.join(names)}; {found} there")
        return there[0]
