"""keelboot doctor: what is here, what is missing, and what to type."""

import argparse
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keelboot.cli import surroundings
from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.cli.tools import Found

SUMMARY = "check this machine's tools, and tell what installs missing ones"
EXAMPLES = """
keelboot doctor
keelboot doctor --json
"""
_ROOM = 5 << 30  # bytes: two images of half a gigabyte in the store, their disk, and what builds leave between
_IDS = 65536


@dataclass(frozen=True, slots=True)
class Check:
    """Something about the machine. A check that is not NEEDED only tells what will be slower or absent."""

    name: str
    good: bool
    detail: str
    fix: str = ""
    needed: bool = True


def arguments(_: argparse.ArgumentParser) -> None:
    """There are no options of its own."""


def execute(_: argparse.Namespace, terminal: Terminal) -> int:
    """Look at everything; 0 if nothing needed is missing, else the exit code of MissingTool."""
    from keelboot.cli import tools
    from keelboot.failure import MissingTool

    root = os.geteuid() == 0
    found = [tools.look(tool) for tool in tools.TOOLS if not (root and tool.ordinary_user_only)]
    packages = list(dict.fromkeys(one.tool.package for one in found if not one.good))
    checks = list(_checks(found, root=root))
    if any(check.name == "UEFI firmware" and not check.good for check in checks):
        packages.append("ovmf")
    commands = tools.install(packages, root=root)
    sound = not packages and all(check.good for check in checks if check.needed)
    if terminal.json_wanted:
        terminal.json({"ok": sound, "tools": [_row(one) for one in found], "checks": [_facts(c) for c in checks],
                       "missingPackages": packages, "install": commands})  # fmt: skip
    else:
        _show(terminal, found, checks, packages, commands, sound=sound)
    return 0 if sound else MissingTool.exit_code


def _show(
    terminal: Terminal,
    found: "list[Found]",
    checks: list[Check],
    packages: list[str],
    commands: list[str],
    *,
    sound: bool,
) -> None:
    for one in found:
        wanted = (
            f", {'.'.join(map(str, one.tool.oldest))} or later is needed" if not one.good and one.tool.oldest else ""
        )
        state = "missing" if one.path is None else one.version or "there"
        used_by = ", ".join(one.tool.verbs)
        terminal.out(f"{_mark(good=one.good)} {one.tool.program:<20} {state:<10} for {used_by}{wanted}")
    terminal.out()
    for check in checks:
        terminal.out(f"{_mark(good=check.good, needed=check.needed)} {check.name:<20} {check.detail}")
        if check.fix and not check.good:
            terminal.out(f"  {'':<20} {check.fix}")
    if packages:
        terminal.out(
            "\nTo install what is missing:" if commands else f"\nInstall, by Debian's names: {' '.join(packages)}"
        )
        for command in commands:
            terminal.out(f"  {command}")
    terminal.out("\nEverything needed is here." if sound else "\nNot everything needed is here.")


def _mark(*, good: bool, needed: bool = True) -> str:
    return "+" if good else "-" if needed else "~"


def _row(one: "Found") -> dict[str, object]:
    return {
        "program": one.tool.program, "package": one.tool.package, "verbs": one.tool.verbs, "path": one.path,
        "version": one.version or None, "needs": ".".join(map(str, one.tool.oldest)) or None, "ok": one.good,
    }  # fmt: skip


def _facts(check: Check) -> dict[str, object]:
    return {
        "name": check.name, "ok": check.good, "needed": check.needed, "detail": check.detail,
        "fix": check.fix if not check.good else None,
    }  # fmt: skip


def _checks(found: "list[Found]", *, root: bool) -> Iterable[Check]:
    there = {one.tool.program: one for one in found if one.path}
    if not root:
        yield _subordinate_ids()
        yield _namespaces()
    yield _firmware()
    if "qemu-system-x86_64" in there:
        yield _kvm(Path(there["qemu-system-x86_64"].path or ""))
    if "podman" in there:
        yield _store()
    yield _space(surroundings.scratch())


def _subordinate_ids() -> Check:
    import pwd

    user = pwd.getpwuid(os.geteuid()).pw_name
    short = [file for file in ("/etc/subuid", "/etc/subgid") if _granted(Path(file), user) < _IDS]
    return Check(
        "subordinate ids",
        not short,
        f"{user} has none in {' and '.join(short)}" if short else f"{user} has {_IDS} or more",
        f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}   # or another free range",
    )


def _granted(file: Path, user: str) -> int:
    """How many ids subuid(5) FILE gives USER."""
    try:
        rows = [line.split(":") for line in file.read_text().splitlines()]
    except OSError:
        return 0
    names = {user, str(os.geteuid())}
    return sum(int(row[2]) for row in rows if len(row) == 3 and row[0] in names and row[2].isdigit())


def _namespaces() -> Check:
    from keelboot import command

    argv = ["unshare", "--user", "--map-root-user", "true"]
    tried = command.run(argv, purpose="try a user namespace", accept=range(256))
    return Check(
        "user namespaces",
        tried.returncode == 0,
        "an ordinary user may make them" if tried.returncode == 0 else tried.stderr.decode(errors="replace").strip(),
        "An administrator allows them: sysctl kernel.unprivileged_userns_clone, or AppArmor's restriction on Ubuntu.",
    )


def _firmware() -> Check:
    from keelboot.failure import MissingTool
    from keelboot.vm.firmware import find_firmware

    try:
        return Check("UEFI firmware", good=True, detail=str(find_firmware().code))
    except MissingTool as missing:
        return Check("UEFI firmware", good=False, detail=missing.why, fix="its package is ovmf")


def _kvm(program: Path) -> Check:
    from keelboot.vm.acceleration import why_no_kvm

    why = why_no_kvm(program)
    return Check(
        "KVM", not why, f"{why}: machines boot without it, some ten times slower" if why else "usable", needed=False
    )


def _store() -> Check:
    from keelboot import command
    from keelboot.build import driver as storage

    if storage.unmade(user=os.geteuid()):
        return Check("container store", good=True, detail="none yet; the first build makes it", needed=False)
    argv = ["podman", "info", "--format", "{{.Store.GraphDriverName}} {{.Store.GraphRoot}}"]
    info = command.run(argv, purpose="look at podman's store", accept=range(256))
    if info.returncode != 0:
        why = info.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return Check(
            "container store", good=False, detail=why[0] if why else "podman info failed", fix="Try `podman info`."
        )
    driver, _, root = info.stdout.decode().strip().partition(" ")
    return Check(
        "container store",
        driver != "vfs",
        f"{root}, driver {driver}" + (", which copies every layer" if driver == "vfs" else ""),
        "`podman system reset` empties the store; `keelboot build` then sets it up with overlay",
        needed=False,
    )


def _space(directory: Path) -> Check:
    free = shutil.disk_usage(directory).free
    fix = "Free some, or set TMPDIR."
    return Check(
        "free space", free >= _ROOM, f"{free / (1 << 30):.0f} GiB in {directory}, of {_ROOM >> 30} wanted", fix
    )
