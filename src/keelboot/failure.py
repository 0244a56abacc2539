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


class NotAHost(Failure):
    """The machine does not run a deployment: it has nothing to upgrade or to roll back."""

    exit_code = 14


class NotPermitted(Failure):
    """Only root may do this."""

    exit_code = 15


class EtcConflict(Failure):
    """A path in /etc is a directory on this machine and a file in the new image, or the other way round."""

    exit_code = 16


class Unhealthy(Failure):
    """A required health check did not pass."""

    exit_code = 19


class SignatureRefused(Failure):
    """An image's signatures do not satisfy the policy; `reasons` has one line for each that does not count."""

    exit_code = 20

    def __init__(self, what: str, *, why: str, fix: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(what, why=why, fix=fix)
        self.reasons = reasons


class DeviceInUse(Failure):
    """A block device is mounted, or held by something above it: it is never written over."""

    exit_code = 21


class DeviceNotEmpty(Failure):
    """There is data where an installation would go, and nobody said that it may go."""

    exit_code = 22


class NoVerity(Failure):
    """A filesystem, or the kernel, has no fs-verity, and nobody said that it may go without."""

    exit_code = 23


class NetworkFailed(Failure):
    """A registry cannot be reached, is too slow, or does not answer as one, however often it is asked."""

    exit_code = 24


class AccessDenied(Failure):
    """A registry does not let the user in, or the credentials that would be needed may not go where it wants them."""

    exit_code = 25


class InvalidSettings(Failure):
    """A settings file of keelboot's own cannot be used."""

    exit_code = 27
