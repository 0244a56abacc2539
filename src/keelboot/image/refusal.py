"""Input that breaks a rule: raised where the rule is known, told to the user where the image is known.

The modules that read bytes (documents, compression, archive, layers) do not know which image they read. They raise
`Refused` with the reason alone; whoever knows the image wraps them in `refusing`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from keelboot.failure import CannotFinish, InvalidImage


class Refused(Exception):  # noqa: N818 - it is what happened to the input
    """The input is not what its format allows, or is larger than the limits; the text says why."""


class ForOthers(Refused):
    """The input is whole, and for machines of another kind."""


@contextmanager
def refusing(image: object, part: str) -> Iterator[None]:
    """Turn a refusal of PART (a noun phrase: "layer 2") of IMAGE into the failure the user sees.

    Raises InvalidImage, and CannotFinish for an image that is fine on other machines.
    """
    try:
        yield
    except ForOthers as error:
        raise CannotFinish(
            f"cannot use {image}",
            why=str(error),
            fix="Name an image for this architecture, or build one: `keelboot build --platform linux/ARCHITECTURE`.",
        ) from error
    except Refused as error:
        raise InvalidImage(
            f"cannot use {image}",
            why=f"{part}: {error}",
            fix="Nothing was kept of it. Build, pull or save the image again, and compare its digest with its origin.",
        ) from error
