"""Which QEMU and which UEFI firmware are here, found by the descriptors that distributions install with it.

Descriptor format: docs/interop/firmware.json of QEMU.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keelboot import command
from keelboot.failure import MissingTool
from keelboot.vm.machine import Firmware

DESCRIPTORS = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
# For distributions that install no descriptors: code, template of variables, Secure Boot.
KNOWN_PLACES = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", False),
    ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", True),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd", False),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd", False),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd", False),
)
# QEMU 7.2 ends most boots of Linux 6.12 without KVM in a double fault; with 10.0.2 none did.
_OLDEST_FOR_TCG = (10, 0)


def find_firmware(*, secure_boot: bool = False, descriptors: Sequence[Path] = DESCRIPTORS) -> Firmware:
    """The firmware for x86_64 with or without Secure Boot; its variables hold no keys yet.

    Raises MissingTool.
    """
    for descriptor in _descriptors(descriptors):
        found = _described(descriptor, secure_boot=secure_boot)
        if found is not None:
            return found
    for code, variables, secure in KNOWN_PLACES:
        if secure == secure_boot and Path(code).is_file() and Path(variables).is_file():
            return Firmware(Path(code), Path(variables), secure)
    raise MissingTool(
        "cannot boot a machine",
        why="no UEFI firmware for QEMU is installed" + (" that has Secure Boot" if secure_boot else ""),
        fix="On Debian and Ubuntu: apt install ovmf. `keelboot doctor` tells what else is missing.",
    )


def _descriptors(directories: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The descriptors in order of preference: by file name, and those of /etc before those of the same name."""
    files: dict[str, Path] = {}
    for directory in directories:
        for file in sorted(directory.glob("*.json")):
            files.setdefault(file.name, file)
    for name in sorted(files):
        try:
            document = json.loads(files[name].read_bytes())
        except (OSError, ValueError):
            continue  # an empty file of this name in /etc is how an administrator masks one
        if isinstance(document, dict):
            yield document


def _described(document: dict[str, Any], *, secure_boot: bool) -> Firmware | None:
    try:
        features, mapping = set(document["features"]), document["mapping"]
        fits = (
            "uefi" in document["interface-types"]
            and mapping["device"] == "flash"
            and mapping["executable"]["format"] == mapping["nvram-template"]["format"] == "raw"
            and any(
                target["architecture"] == "x86_64" and any("q35" in machine for machine in target["machines"])
                for target in document["targets"]
            )
        )
        code, variables = Path(mapping["executable"]["filename"]), Path(mapping["nvram-template"]["filename"])
    except (KeyError, TypeError):
        return None
    fits = fits and "enrolled-keys" not in features and ("secure-boot" in features) == secure_boot
    return Firmware(code, variables, secure_boot) if fits and code.is_file() and variables.is_file() else None


def qemu(architecture: str = "x86_64") -> Path:
    """Where the QEMU for ARCHITECTURE is; raises MissingTool."""
    return command.require(f"qemu-system-{architecture}", purpose="boot a machine")


def require_sound_tcg(program: Path) -> None:
    """See that PROGRAM is recent enough to boot current kernels without KVM; raises MissingTool."""
    version = qemu_version(command.run([program, "--version"], purpose="ask QEMU for its version").stdout.decode())
    if version < _OLDEST_FOR_TCG:
        raise MissingTool(
            "cannot boot a machine without KVM",
            why=f"{program} is QEMU {version[0]}.{version[1]}, under which current kernels crash; 10.0 is needed",
            fix="`keelboot doctor` tells how to get it. Where KVM works, this version does too.",
        )


def qemu_version(text: str) -> tuple[int, int]:
    """Major and minor number in what `qemu --version` printed; (0, 0) if it is not there."""
    match = re.search(r"version (\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)
