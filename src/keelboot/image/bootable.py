"""Whether an image can be booted as it is, and if not, why: bootc's conventions for images, judged on the tree.

/usr/lib/modules/KVER/{vmlinuz,initramfs.img}    exactly one kernel version
/boot                                            empty, but for EFI
/sysroot                                         a directory
/sbin/init or /usr/lib/systemd/systemd           an executable file
label containers.bootc=1 (or ostree.bootable)
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keelboot.image.tree import Directory, Node, Regular, resolve

LABELS = ("containers.bootc", "ostree.bootable")
MODULES = "/usr/lib/modules"
KERNEL, INITRAMFS = b"vmlinuz", b"initramfs.img"
_INITS = ("/sbin/init", "/usr/lib/systemd/systemd")


@dataclass(frozen=True, slots=True)
class Bootability:
    """What was found. `reasons` are clauses that say why the image cannot be booted; none means that it can."""

    kernel_versions: tuple[str, ...]  # versions with a kernel and an initramfs, sorted
    reasons: tuple[str, ...]

    @property
    def bootable(self) -> bool:
        """Whether nothing is missing."""
        return not self.reasons


def examine(root: Directory, labels: Mapping[str, str]) -> Bootability:
    """Judge the image whose tree is ROOT and whose config has LABELS."""
    complete, reasons = _kernels(root)
    boot = resolve(root, "/boot")
    if not isinstance(boot, Directory):
        reasons.append("/boot is not a directory")
    elif left := sorted(name for name in boot.children if name.lower() != b"efi"):
        named = ", ".join(_shown(name) for name in left[:3]) + (", ..." if len(left) > 3 else "")
        reasons.append(f"/boot is not empty ({named}): its content would not follow upgrades")
    if not isinstance(resolve(root, "/sysroot", follow=False), Directory):
        reasons.append("/sysroot is not a directory")
    if not any(_is_program(resolve(root, path)) for path in _INITS):
        reasons.append("it has no init (/sbin/init or /usr/lib/systemd/systemd)")
    if not any(labels.get(name) in ("1", "true") for name in LABELS):
        reasons.append("it does not have the label containers.bootc=1")
    return Bootability(tuple(complete), tuple(reasons))


def _kernels(root: Directory) -> tuple[list[str], list[str]]:
    """The versions that are complete, and what is wrong with the kernels."""
    modules = resolve(root, MODULES)
    versions = sorted(modules.children.items()) if isinstance(modules, Directory) else []
    complete: list[str] = []
    reasons: list[str] = []
    for name, node in versions:
        if not isinstance(node, Directory) or not _is_content(root, name, KERNEL):
            continue
        if _is_content(root, name, INITRAMFS):
            complete.append(_shown(name))
        else:
            reasons.append(f"the kernel {_shown(name)} has no {MODULES}/{_shown(name)}/initramfs.img")
    if len(complete) > 1:
        reasons.append(f"it has more than one kernel ({', '.join(complete)})")
    if not complete and not reasons:
        reasons.append(f"it has no kernel ({MODULES}/VERSION/vmlinuz)")
    return complete, reasons


def _is_content(root: Directory, version: bytes, name: bytes) -> bool:
    # Links lead nowhere once the file is copied to the boot partition by its path.
    node = resolve(root, b"/".join((MODULES.encode(), version, name)), follow=False)
    return isinstance(node, Regular) and node.size > 0


def _is_program(node: Node | None) -> bool:
    return isinstance(node, Regular) and node.permissions & 0o111 != 0 and node.size > 0


def _shown(name: bytes) -> str:
    return ascii(name.decode("utf-8", "backslashreplace"))[1:-1]
