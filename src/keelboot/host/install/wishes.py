"""What the operator asked of an installation, and what that and the image together come to. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keelboot.assembly.settings import Settings
from keelboot.failure import CannotFinish, Failure, NoVerity
from keelboot.host.install.configuration import Configuration
from keelboot.host.install.plan import VERIFYING
from keelboot.image.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is common to all ways to install. TARGET is what upgrades follow, if it is not IMAGE itself.

    ETC are files below /etc, by path, that the machine gets as changes of its own; STRICT has it enforce a policy.
    A mount spec is what mount(8) takes as a source, like UUID=...; "" asks for no argument, None leaves it to keelboot.
    """

    image: Reference
    target: Reference | None = None
    arguments: tuple[str, ...] = ()
    arguments_deleted: tuple[str, ...] = ()
    ssh_keys: tuple[str, ...] = ()
    etc: Mapping[str, bytes] = field(default_factory=dict)
    strict: bool = False
    allow_missing_verity: bool = False
    root_mount_spec: str | None = None
    boot_mount_spec: str | None = None


def settings(wishes: Wishes, configuration: Configuration, own: Sequence[str]) -> Settings:
    """The machine's settings: OWN arguments, by which the root is found, the image's for installing, the user's."""
    boot = wishes.boot_mount_spec if wishes.boot_mount_spec is not None else configuration.boot_mount_spec
    mounts = [f"systemd.mount-extra={boot}:/boot:auto:defaults"] if boot else []
    return Settings(
        kargs=tuple(dict.fromkeys((*own, *mounts, *configuration.arguments, *wishes.arguments))),
        kargs_deleted=tuple(dict.fromkeys((*configuration.arguments_deleted, *wishes.arguments_deleted))),
        strict=wishes.strict or configuration.strict,
    )


def root_arguments(wishes: Wishes, configuration: Configuration, found: Sequence[str]) -> list[str]:
    """By what the initramfs finds the store: what was asked for, else what was FOUND."""
    spec = wishes.root_mount_spec if wishes.root_mount_spec is not None else configuration.root_mount_spec
    if spec is None:
        return list(found)
    others = [word for word in found if not word.startswith("root=")]
    return [f"root={spec}", *others] if spec else others


def refuse_block_setup(asked: str | None, configuration: Configuration) -> None:
    """Raise Failure for anything but a plain partition."""
    chosen = asked or (configuration.block[0] if configuration.block else "direct")
    if chosen != "direct":
        where = "" if asked else ", as the image's bootc/install/*.toml asks for"
        raise Failure(
            "cannot encrypt the disk",
            why=f"--block-setup {chosen}{where} is not available",
            fix="Make LUKS by hand, mount it, and use `keelboot install to-filesystem`; or say --block-setup direct.",
        )


def refuse_unverified(filesystem: str, *, kernel_has_it: bool, allowed: bool) -> bool:
    """Whether the root will be verified on each read. Raises NoVerity where it cannot be and that is not ALLOWED."""
    if filesystem in VERIFYING and kernel_has_it:
        return True
    if allowed:
        return False
    why = (
        f"the kernel that runs here has no fs-verity for {filesystem}, so it cannot seal what it writes"
        if filesystem in VERIFYING
        else f"{filesystem} has no fs-verity: nothing would notice a changed file"
    )
    raise NoVerity(
        "cannot install a verified root",
        why=why,
        fix=("Run this from a live system whose kernel has it, like Debian's" if filesystem in VERIFYING else
             "Take ext4 or btrfs") + ", or add --allow-missing-verity to go without verification.",
    )  # fmt: skip


def remark(image: str, *, agent: bool) -> str:
    """What to tell of an image without keelboot in it; empty where it has it."""
    if agent:
        return ""
    return f"{image} has no keelboot in it: the machine will boot, and cannot upgrade itself"


def refuse_changed(wanted: str, got: str | None, image: str) -> None:
    """Raise CannotFinish where the image is not what it was when it was looked at."""
    if wanted != got:
        raise CannotFinish(
            f"cannot install {image}",
            why="it changed while it was being installed",
            fix="Run the same command again.",
        )
