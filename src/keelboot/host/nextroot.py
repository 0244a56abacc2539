"""The root of a soft reboot: another deployment, mounted at /run/nextroot as the initramfs would mount it.

    python3 -I -m keelboot.host.nextroot prepare DIGEST [trial]
    python3 -I -m keelboot.host.nextroot forget

Runs where the system manager sees the mounts, and not in the namespace of the verb that wants it. systemd moves /run,
/dev, /proc and /sys itself (systemd-soft-reboot.service(8)).
"""

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NoReturn

from keelboot import command
from keelboot.failure import Failure, InvalidImage
from keelboot.host import mounts, records
from keelboot.host.mounting import RDONLY, bind, bind_all, detach, mount
from keelboot.host.sysroot import Sysroot
from keelboot.image.tree import ObjectId
from keelboot.store import kernel_verity

NEXT: Final = Path("/run/nextroot")
_STORE = Path("/run/keelboot/store")
_IMAGE = Path("/run/keelboot/image")
_PARENT = Path("/run/keelboot/parent")


def entry() -> NoReturn:
    """Do what the command line says."""
    try:
        _run(sys.argv[1:])
    except (Failure, OSError) as error:
        detach(NEXT)
        sys.exit(f"keelboot: {error}")  # noqa: TID251 - a program of its own
    sys.exit(0)  # noqa: TID251 - a program of its own


def is_prepared() -> bool:
    """Whether `systemctl reboot` would only restart the userspace."""
    return mounts.at(str(NEXT), mounts.parse(Path("/proc/1/mountinfo").read_text(errors="surrogateescape"))) is not None


def prepare(digest: ObjectId, *, trial: bool) -> None:
    """Mount the deployment DIGEST at /run/nextroot. Raises InvalidImage, CommandFailed, OSError."""
    forget()
    NEXT.mkdir(mode=0o755, parents=True, exist_ok=True)
    with ExitStack() as stack:
        _STORE.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What everyone sees at /sysroot is read-only, and nothing writable can be mounted out of that.
        bind(Path("/sysroot"), _STORE)
        stack.callback(detach, _STORE)
        sysroot = Sysroot(_STORE, Path("/nonexistent"))
        _open_root(sysroot, digest, NEXT)
        state = sysroot.deployment(digest)
        if not (state / "etc").is_dir():
            _first_etc(sysroot, digest)
        options = (
            f"redirect_dir=off,metacopy=off,lowerdir={NEXT}/etc,upperdir={state}/etc/upper,workdir={state}/etc/work"
        )
        mount("etc", NEXT / "etc", "overlay", 0, options)
        bind_all(Path("/var"), NEXT / "var")
        bind(Path("/sysroot"), NEXT / "sysroot", read_only=True)
    for link in ("home", "mnt", "root", "srv", "usr/local"):
        with suppress(OSError):
            target = os.readlink(NEXT / link)  # noqa: PTH115 - a text, not a path
            if "var/" in target:
                (NEXT / "var" / target.partition("var/")[2]).mkdir(parents=True, exist_ok=True)
    if trial:
        (Path("/run/keelboot") / "trial").touch()


def forget() -> None:
    """Let a restart be a whole one."""
    while is_prepared():
        detach(NEXT)


def _run(words: Sequence[str]) -> None:
    match words:
        case ["prepare", digest, *more]:
            prepare(ObjectId(digest), trial="trial" in more)
        case ["forget"]:
            forget()
        case _:
            raise Failure(
                "cannot prepare a soft reboot", why="nobody said which", fix="Use `keelboot upgrade --apply`."
            )


def _open_root(sysroot: Sysroot, digest: ObjectId, target: Path) -> None:
    """Mount the verified root of DIGEST at TARGET, as mount-root.sh of the initramfs does."""
    verified = "composefs=?" not in Path("/proc/cmdline").read_text()
    image = sysroot.store / "images" / digest.hex
    if verified:
        fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        try:
            measured = kernel_verity.measured(fd)
        finally:
            os.close(fd)
        if measured != digest:
            raise InvalidImage(
                "cannot restart into the next version",
                why=f"the image {digest.hex} is not what its name says",
                fix="`keelboot fsck --repair` mends the store.",
            )
    for directory in (_IMAGE, target):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    command.run(["mount", "-t", "erofs", "-o", "ro,X-mount.noloop", image, _IMAGE], purpose="mount the next root")
    options = f"metacopy=on,redirect_dir=on,lowerdir={_IMAGE}::{sysroot.store}/objects"
    try:
        mount(f"composefs:{digest.hex}", target, "overlay", RDONLY, options + (",verity=require" if verified else ""))
    finally:
        detach(_IMAGE)


def _first_etc(sysroot: Sysroot, digest: ObjectId) -> None:
    """The deployment's own /etc from its parent's, made aside and renamed."""
    state = sysroot.deployment(digest)
    draft = state / "etc.draft"
    shutil.rmtree(draft, ignore_errors=True)
    parent = records.read(sysroot, digest).parent
    upper = sysroot.deployment(parent) / "etc/upper" if parent else None
    if parent is None or upper is None or not upper.is_dir():
        (draft / "upper").mkdir(parents=True)
        (draft / "work").mkdir()
    else:
        with ExitStack() as stack:
            _open_root(sysroot, parent, _PARENT)
            stack.callback(detach, _PARENT)
            for source, place in ((Path("/run"), "run"), (Path("/proc"), "proc"), (Path("/dev"), "dev")):
                bind_all(source, NEXT / place)
                stack.callback(detach, NEXT / place)
            program = ("chroot", NEXT, "/usr/bin/python3", "-I", "-m", "keelboot.host.carryover")
            command.run(
                [
                    *program,
                    "--parent-etc",
                    _PARENT / "etc",
                    "--parent-upper",
                    upper,
                    "--image-etc",
                    "/etc",
                    "--target",
                    draft,
                ],
                purpose="carry /etc over",
            )
    command.run(["sync", "-f", draft], purpose="sync /etc")
    draft.rename(state / "etc")
    command.run(["sync", state], purpose="sync /etc")


if __name__ == "__main__":
    entry()
