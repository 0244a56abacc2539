"""keelboot store: images in a store, where contents are kept once and named by what the kernel checks."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.image.reference import Reference
    from keelboot.store.check import Finding, Report
    from keelboot.store.garbage import Garbage
    from keelboot.store.pull import Pulled

SUMMARY = "keep images in a store: pull, list, remove, check, mend"
EXAMPLES = """\
  keelboot store pull localhost/web --store /srv/store
  keelboot store ls --store /srv/store
  keelboot store rm localhost/web --store /srv/store
  keelboot store gc --store /srv/store --dry-run
  keelboot store fsck --store /srv/store
  keelboot store fsck --store /srv/store --repair-from oci-archive:web.tar
"""
_IMAGE = "containers-storage:NAME, oci:DIR, oci-archive:FILE, docker-archive:FILE, docker://NAME"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be done with a store, and the options of each."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        own = actions.add_parser(name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}.")
        own.add_argument("--store", metavar="DIR", type=Path, required=True, help="the store's directory")
        # Not given here, what stands before ACTION holds.
        own.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
        own.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="print only the result")
        return own

    pull = action("pull", "put an image into the store, which is made where there is none")
    pull.add_argument("image", metavar="IMAGE", help=_IMAGE)
    _add_jobs(pull)
    action("ls", "list the images in the store")
    remove = action("rm", "forget an image; gc then removes what only it needed")
    remove.add_argument("image", metavar="IMAGE", help="as `keelboot store ls` shows it")
    collect = action("gc", "remove what no image in the store needs")
    collect.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
    check = action("fsck", "read all of the store and tell what is wrong; exit 1 if anything is")
    check.add_argument("--repair-from", metavar="IMAGE", help=f"mend it from {_IMAGE}, or another store's directory")
    _add_jobs(check)


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Do what was asked for."""
    code: int = {"pull": _pull, "ls": _ls, "rm": _rm, "gc": _gc, "fsck": _fsck}[arguments.action](arguments, terminal)
    return code


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", metavar="N", type=_jobs, default=2, help="processes at work; 1 is this one alone (default: 2)"
    )


def _jobs(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 64:
        raise ValueError(text)
    return number


def _reference(text: str) -> "Reference":
    """The image TEXT names, with a whole path, so that it is the same image from everywhere."""
    import os
    from dataclasses import replace

    from keelboot.image.reference import Reference, Transport

    found = Reference.parse(text)
    if found.transport in (Transport.OCI, Transport.OCI_ARCHIVE, Transport.DOCKER_ARCHIVE):
        return replace(found, location=os.path.abspath(found.location))  # noqa: PTH100 - links in it may change
    return found


def _pull(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from keelboot.store.pull import pull

    started = time.monotonic()
    pulled = pull(arguments.store, _reference(arguments.image), jobs=arguments.jobs, progress=terminal.progress)
    seconds = round(time.monotonic() - started, 2)
    if terminal.json_wanted:
        terminal.json(_pulled(pulled) | {"seconds": seconds})
        return 0
    record = pulled.record
    if record.composefs:
        terminal.out(f"composefs {record.composefs.object.hex}")
    else:
        terminal.out(f"composefs none: {record.unsealed}")
        terminal.note(f"It cannot boot. Make it bootable with: keelboot build --from {arguments.image} -t NAME")
    if pulled.unchanged:
        terminal.out(f"unchanged: the store had all of {pulled.reference}")
        return 0
    terminal.out(
        f"{sum(pulled.layers_reused)} of {len(pulled.layers_reused)} layers were there; "
        f"{pulled.objects_added} objects added, {_size(pulled.bytes_added)}, in {seconds} s"
    )
    if pulled.objects_healed:
        terminal.note(f"{pulled.objects_healed} objects were damaged and have been replaced.")
    if pulled.sealed is False:
        terminal.note("The store's filesystem has no fs-verity (ext4 and btrfs can): nothing checks reads there.")
    return 0


def _pulled(pulled: "Pulled") -> dict[str, object]:
    record = pulled.record
    layers = zip(record.diff_ids, pulled.layers_reused, strict=True)
    return {
        "reference": pulled.reference,
        "manifestDigest": str(record.manifest_digest),
        "composefs": record.composefs.object.hex if record.composefs else None,
        "unsealed": record.unsealed or None,
        "unchanged": pulled.unchanged,
        "layers": [{"diffId": str(diff_id), "reused": reused} for diff_id, reused in layers],
        "objectsAdded": pulled.objects_added,
        "bytesAdded": pulled.bytes_added,
        "objectsHealed": pulled.objects_healed,
        "fsVerity": pulled.sealed,
    }


def _ls(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from keelboot.store.references import listing

    found = listing(arguments.store)
    if terminal.json_wanted:
        terminal.json(
            [
                {
                    "reference": one.reference,
                    "damaged": one.record is None,
                    "manifestDigest": str(one.record.manifest_digest) if one.record else None,
                    "composefs": one.record.composefs.object.hex if one.record and one.record.composefs else None,
                    "layers": len(one.record.diff_ids) if one.record else None,
                    "objects": one.objects,
                    "size": one.size,
                    "fsVerity": one.sealed,
                }
                for one in found
            ]
        )
        return 0
    width = max([len(one.reference) for one in found], default=0)
    for one in found:
        if one.record is None:
            terminal.out(f"{one.reference:{width}}  damaged: run `keelboot store fsck --store {arguments.store}`")
        else:
            composefs = one.record.composefs.object.hex[:16] if one.record.composefs else "cannot be booted"
            terminal.out(f"{one.reference:{width}}  {composefs:16}  {_size(one.size):>10}")
    if not found:
        terminal.note("There is no image in the store. Put one in with: keelboot store pull IMAGE --store DIR")
    return 0


def _rm(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from keelboot.store.references import drop

    reference = str(_reference(arguments.image))
    drop(arguments.store, reference, progress=terminal.progress)
    if terminal.json_wanted:
        terminal.json({"removed": reference})
    else:
        terminal.out(f"removed {reference}")
        terminal.note(f"Free what only it needed with: keelboot store gc --store {arguments.store}")
    return 0


def _gc(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from keelboot.store.garbage import clean

    garbage = clean(arguments.store, dry_run=arguments.dry_run, progress=terminal.progress)
    if terminal.json_wanted:
        terminal.json(_garbage(garbage) | {"dryRun": arguments.dry_run})
        return 0
    if arguments.dry_run:
        for path in _paths(garbage):
            terminal.out(path)
    terminal.out(
        f"{'would remove' if arguments.dry_run else 'removed'} {len(garbage.objects)} objects, {_size(garbage.size)}; "
        f"{len(garbage.images)} images, {len(garbage.layers)} layers, {len(garbage.drafts)} drafts"
    )
    return 0


def _paths(garbage: "Garbage") -> list[str]:
    return [
        *(f"images/{file}" for file in garbage.images),
        *(f"layers/{file}" for file in garbage.layers),
        *(f"objects/{one.object.path}" for one in garbage.objects),
        *garbage.drafts,
    ]


def _garbage(garbage: "Garbage") -> dict[str, object]:
    return {
        "images": list(garbage.images),
        "layers": list(garbage.layers),
        "objects": [one.object.hex for one in garbage.objects],
        "drafts": list(garbage.drafts),
        "size": garbage.size,
    }


def _fsck(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from keelboot.store.check import check
    from keelboot.store.repair import repair
    from keelboot.store.repository import Lock, opened

    healed: tuple[Finding, ...] = ()
    cloned = 0
    if arguments.repair_from is None:
        with opened(arguments.store, Lock.SHARED, progress=terminal.progress) as repository:
            report = check(repository, jobs=arguments.jobs, progress=terminal.progress)
    else:
        other = Path(arguments.repair_from)
        source = other if (other / "meta.json").exists() else _reference(arguments.repair_from)
        done = repair(arguments.store, source, jobs=arguments.jobs, progress=terminal.progress)
        report, healed, cloned = done.after, done.healed, done.cloned
    if terminal.json_wanted:
        terminal.json(_report(report) | {"healed": [_finding(one) for one in healed], "cloned": cloned})
        return 1 if report.findings else 0
    for title, findings in (("healed ", healed), ("", report.findings)):
        for one in findings:
            needed = f" (needed by {', '.join(one.references)})" if one.references else ""
            terminal.out(f"{title}{one.path}: {one.why}{needed}")
    terminal.out(
        f"{report.objects} objects, {_size(report.size)}, {report.references} images: "
        + (f"{len(report.findings)} faults" if report.findings else "sound")
        + (f"; {len(healed)} healed" if healed else "")
    )
    if report.findings:
        if not any(one.references for one in report.findings):
            terminal.note(f"No image needs what is damaged. Try: keelboot store gc --store {arguments.store}")
        elif arguments.repair_from is None:
            terminal.note(f"Mend it with: keelboot store fsck --store {arguments.store} --repair-from IMAGE")
        else:
            terminal.note(f"{arguments.repair_from} does not have what is left; try another image.")
    elif report.unneeded or report.drafts:
        terminal.note(
            f"{report.unneeded} objects and {report.drafts} drafts are not needed: keelboot store gc removes them."
        )
    return 1 if report.findings else 0


def _report(report: "Report") -> dict[str, object]:
    return {
        "sound": not report.findings,
        "findings": [_finding(one) for one in report.findings],
        "objects": report.objects,
        "size": report.size,
        "references": report.references,
        "unneeded": report.unneeded,
        "drafts": report.drafts,
        "fsVerity": report.sealed,
    }


def _finding(finding: "Finding") -> dict[str, object]:
    return {"path": finding.path, "why": finding.why, "references": list(finding.references)}


def _size(count: int) -> str:
    return f"{count / 1_000_000:.1f} MB"
