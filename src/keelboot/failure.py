"""What the user is told when a command cannot go on: what failed, why, and what to do next.

Every class has a fixed exit code; `docs/exit-codes.md` is the table and a test compares the two.
"""


class Failure(Exception):  # noqa: N818 - it is the word the user sees
    """Something the user can act on. Anything else that escapes is a bug and keeps its traceback."""

    exit_code = 1

    def __init__(self, what: str, *, why: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        return f"{self.what}: {self.why}\n{self.fix}"


class MissingTool(Failure):
    """A program this step needs is not installed, or too old."""

    exit_code = 3


class ImageNotFound(Failure):
    """Nothing is stored under the given reference."""

    exit_code = 4


class InvalidImage(Failure):
    """What is stored there is not an image, or is damaged: refused before anything is named."""

    exit_code = 5


class CannotFinish(Failure):
    """The image cannot be made bootable, or is not bootable where it has to be."""

    exit_code = 6


class UnsupportedDistribution(Failure):
    """No adapter knows the image's distribution."""

    exit_code = 7


class OutOfSpace(Failure):
    """The disk asked for is too small, or the filesystem written to is full."""

    exit_code = 8


class NotWritable(Failure):
    """An output cannot be written where it was asked for."""

    exit_code = 9


class PortInUse(Failure):
    """A port to forward is taken."""

    exit_code = 10


class BuildFailed(Failure):
    """podman or buildah could not build the image; its own output says why."""

    exit_code = 11


class BootFailed(Failure):
    """The machine did not come up."""

    exit_code = 12


class CommandFailed(Failure):
    """A program of another project failed in a way no other class names."""

    exit_code = 13
