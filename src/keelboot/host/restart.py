"""The machine restarts: through the firmware, or userspace alone where the kernel that runs is the next one's too."""

from pathlib import Path

from keelboot import command
from keelboot.boot import esp
from keelboot.failure import Failure
from keelboot.host import kept, nextroot, retention
from keelboot.host.sysroot import Sysroot
from keelboot.image.tree import ObjectId

# What is not the version's: which deployment, and what loaders add by themselves.
_PASSED_OVER = ("composefs", "composefs.digest", "initrd", "BOOT_IMAGE")


def same_kernel(running: esp.Listed | None, other: esp.Listed | None, command_line: str) -> bool:
    """Whether OTHER needs no other kernel, initramfs or arguments than those that run with COMMAND_LINE."""
    if running is None or other is None or running.boot_digest != other.boot_digest:
        return False
    return _words(command_line) == _words(other.entry.options)


def soft_target(sysroot: Sysroot, booted: ObjectId) -> ObjectId | None:
    """The deployment that boots next, if restarting the userspace is enough for it; None where it is not."""
    entries = kept.newest_entries(sysroot)
    following = next((one for one in esp.entries(sysroot.esp) if one.usable), None)
    if following is None or following.digest == booted:
        return None
    command_line = Path("/proc/cmdline").read_text()
    return following.digest if same_kernel(entries.get(booted), following, command_line) else None


def is_queued(sysroot: Sysroot, booted: ObjectId) -> bool:
    """Whether another deployment than BOOTED boots next."""
    following = next((one for one in esp.entries(sysroot.esp) if one.usable), None)
    return following is not None and following.digest != booted


def staged(sysroot: Sysroot, booted: ObjectId) -> ObjectId | None:
    """The deployment that waits for its first boot."""
    found = retention.staged(kept.held(sysroot), booted)
    return found.digest if found else None


def reboot() -> None:
    """Restart the machine. Raises CommandFailed."""
    command.run(["systemctl", "reboot"], purpose="restart the machine")


def prepare_soft(sysroot: Sysroot, target: ObjectId) -> None:
    """Have the next restart be one of the userspace alone, into TARGET. Raises CommandFailed."""
    trial = any(one.on_trial for one in esp.entries(sysroot.esp) if one.digest == target)
    _outside("prepare", target.hex, *(["trial"] if trial else []))


def forget_soft() -> None:
    """What boots next has changed: a root that was prepared for a soft reboot is not it any more."""
    if nextroot.is_prepared():
        _outside("forget")


def soft_reboot() -> None:
    """Restart the userspace into what was prepared. Raises CommandFailed."""
    command.run(["systemctl", "soft-reboot"], purpose="restart the userspace")


def refuse_soft(why: str) -> Failure:
    """The failure where a soft reboot was required and is not possible."""
    return Failure(
        "cannot restart the userspace alone", why=why, fix="Leave --soft-reboot=required out, and restart the machine."
    )


def _outside(*words: str) -> None:
    """Run keelboot.host.nextroot among the mounts of the system manager: this process has its own by now."""
    command.run(
        ["nsenter", "--mount=/proc/1/ns/mnt", "--", "python3", "-I", "-m", "keelboot.host.nextroot", *words],
        purpose="prepare the next root",
    )


def _words(command_line: str) -> list[str]:
    return [word for word in command_line.split() if word.partition("=")[0] not in _PASSED_OVER]
