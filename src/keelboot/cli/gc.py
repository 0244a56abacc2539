"""keelboot gc: versions that nothing keeps go, and all that only they needed."""

import argparse
from typing import TYPE_CHECKING

from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.host.garbage import Collected

SUMMARY = "remove versions that nothing keeps, and what only they needed"
EXAMPLES = """\
  keelboot gc --dry-run
  keelboot gc
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be removed")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Remove it."""
    from keelboot.cli.upgrade import publish
    from keelboot.host import garbage, namespace

    namespace.require_root()
    booted = namespace.require_booted()
    with namespace.changing(terminal.progress) as sysroot:
        found = garbage.collect(sysroot, booted, dry_run=arguments.dry_run, progress=terminal.progress)
        if not arguments.dry_run:
            publish(sysroot, changed=not found.nothing)
    if terminal.json_wanted:
        terminal.json(_value(found) | {"dryRun": arguments.dry_run})
        return 0
    verb = "would remove" if arguments.dry_run else "removed"
    for title, names in (
        ("version", found.deployments),
        ("boot entry", found.entries),
        ("kernel", found.kernels),
        ("boot record", found.boots),
    ):
        for name in names:
            terminal.out(f"{verb} {title} {name}")
    store = found.store
    terminal.out(
        f"{verb} {len(store.objects)} objects, {store.size / 1_000_000:.1f} MB; "
        f"{len(store.images)} images, {len(store.layers)} layers, {len(store.drafts)} drafts"
    )
    for one in found.kept:
        terminal.note(f"kept {one.digest.hex[:12]}: {one.why}")
    return 0


def _value(found: "Collected") -> dict[str, object]:
    return {
        "kept": [{"composefs": one.digest.hex, "why": one.why} for one in found.kept],
        "deployments": list(found.deployments),
        "entries": list(found.entries),
        "kernels": list(found.kernels),
        "boots": list(found.boots),
        "objects": len(found.store.objects),
        "images": list(found.store.images),
        "layers": list(found.store.layers),
        "size": found.store.size,
    }
