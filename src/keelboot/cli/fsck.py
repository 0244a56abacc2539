"""keelboot fsck: all that the machine boots from is read and compared with what it must be."""

import argparse
from typing import TYPE_CHECKING

from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.store.check import Finding

SUMMARY = "read all that this machine boots from, and tell what is wrong"
EXAMPLES = """\
  keelboot fsck
  keelboot fsck --repair
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--repair", action="store_true", help="mend it from the images that the versions came from")
    parser.add_argument("--dry-run", action="store_true", help="with --repair: only tell what is wrong")
    parser.add_argument("--jobs", metavar="N", type=int, choices=range(1, 65), default=2, help="threads (default: 2)")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Check, and mend; exit 1 if something is wrong after that."""
    from keelboot.cli.upgrade import publish
    from keelboot.host import namespace, soundness

    namespace.require_root()
    booted = namespace.require_booted()
    with namespace.changing(terminal.progress) as sysroot:
        mending = arguments.repair and not arguments.dry_run
        act = soundness.mend if mending else soundness.examine
        found = act(sysroot, booted, jobs=arguments.jobs, progress=terminal.progress)
        if mending:
            publish(sysroot, changed=bool(found.mended))
    store = found.store
    if terminal.json_wanted:
        terminal.json(
            {
                "sound": found.sound,
                "findings": [_finding(one) for one in found.findings],
                "store": [_finding(one) for one in store.findings],
                "mended": [_finding(one) for one in found.mended],
                "objects": store.objects,
                "size": store.size,
                "fsVerity": store.sealed,
                "remarks": list(found.remarks),
            }
        )
        return 0 if found.sound else 1
    for one in found.mended:
        terminal.out(f"mended {one.path}: {one.why}")
    for one in (*found.findings, *store.findings):
        needed = f" (needed by {', '.join(one.references)})" if one.references else ""
        terminal.out(f"{one.path}: {one.why}{needed}")
    count = len(found.findings) + len(store.findings)
    terminal.out(f"{store.objects} objects, {store.size / 1_000_000:.1f} MB: {f'{count} faults' if count else 'sound'}")
    for remark in found.remarks:
        terminal.note(remark)
    if count:
        terminal.note(
            "What is left cannot be mended from the images that the versions came from. `keelboot rollback` boots "
            "another version; `keelboot switch IMAGE` makes a new one."
            if arguments.repair
            else "Mend it with: keelboot fsck --repair"
        )
    return 0 if found.sound else 1


def _finding(finding: "Finding") -> dict[str, object]:
    return {"path": finding.path, "why": finding.why, "references": list(finding.references)}
