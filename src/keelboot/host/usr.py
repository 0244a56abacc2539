"""A writable /usr until the next boot: an overlay in memory above it. Nothing of it reaches the store.

The root is an overlay already, so this is the second; the kernel stacks no third (Linux, FILESYSTEM_MAX_STACK_DEPTH).
"""

from pathlib import Path
from typing import Final

from keelboot import command
from keelboot.failure import Failure
from keelboot.host import mounts

SOURCE: Final = "keelboot-usr-overlay"
_LAYERS: Final = Path("/run/keelboot/usr-overlay")


def mounted(mountinfo: str) -> str | None:
    """The access mode of the overlay that MOUNTINFO (proc_pid_mountinfo(5)) has over /usr; None where there is none."""
    return mounts.usr_overlay(mounts.parse(mountinfo))


def overlay(*, read_only: bool, layers: Path = _LAYERS, usr: Path = Path("/usr")) -> None:
    """Mount an overlay over /usr, with its layer in memory. READ_ONLY can be undone by a remount in a namespace.

    Raises Failure where there is one already, and CommandFailed.
    """
    if mounted(Path("/proc/self/mountinfo").read_text(errors="surrogateescape")):
        raise Failure(
            "cannot mount an overlay over /usr",
            why="there is one already",
            fix="It goes at the next boot; `keelboot status` tells whether it is writable.",
        )
    purpose = f"mount an overlay over {usr}"
    layers.mkdir(mode=0o700, parents=True, exist_ok=True)
    command.run(["mount", "-t", "tmpfs", "-o", "mode=0755,nodev", SOURCE, layers], purpose=purpose)
    try:
        for name in ("upper", "work"):
            (layers / name).mkdir(mode=0o755)
        options = f"lowerdir={usr},upperdir={layers / 'upper'},workdir={layers / 'work'}"
        command.run(
            ["mount", "-t", "overlay", "-o", f"ro,{options}" if read_only else options, SOURCE, usr], purpose=purpose
        )
    finally:
        # The overlay holds its layers; a path to them would only be a way to change them below it.
        command.run(["umount", "--lazy", layers], purpose=purpose)
