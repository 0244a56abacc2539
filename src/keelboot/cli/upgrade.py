"""keelboot upgrade: the newest version of the image that this machine follows, staged for the next boot."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keelboot.cli import trusting
from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.host.sysroot import Sysroot
    from keelboot.host.upgrade import Offer, Outcome, Wish
    from keelboot.image.tree import ObjectId
    from keelboot.progress import Progress

SUMMARY = "stage the newest version of the image that this machine follows"
EXAMPLES = """\
  keelboot upgrade --check
  keelboot upgrade --apply
  keelboot upgrade --download-only
  keelboot upgrade --from-downloaded --apply
  keelboot upgrade --tag v2
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--check", action="store_true", help="only tell whether there is a newer version")
    kinds.add_argument("--download-only", action="store_true", help="fetch it; what boots next does not change")
    kinds.add_argument("--from-downloaded", action="store_true", help="stage what was fetched; no network is needed")
    kinds.add_argument("--automatic", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--tag", metavar="TAG", help="follow this tag of the image from now on")
    add_staging(parser)


def add_staging(parser: argparse.ArgumentParser) -> None:
    """Declare what upgrade and switch have in common."""
    parser.add_argument("--apply", action="store_true", help="restart into it")
    parser.add_argument(
        "--soft-reboot",
        metavar="WHEN",
        choices=("auto", "required"),
        help="restart the userspace alone: auto, where the kernel stays the same; required, or fail",
    )
    trusting.add_exceptions(parser)
    parser.add_argument("--retry-failed", action="store_true", help="stage it even if it failed on this machine before")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    parser.add_argument("--progress-fd", metavar="N", type=int, help="write progress to this pipe, as JSON lines")
    parser.add_argument("--jobs", metavar="N", type=int, choices=range(1, 65), default=2, help=argparse.SUPPRESS)


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Stage the next version."""
    from dataclasses import replace

    from keelboot.cli.values import BadValue
    from keelboot.host import namespace, records, signatures, upgrade

    if arguments.check and (arguments.apply or arguments.soft_reboot):
        raise BadValue("cannot use --check with --apply", why="--check changes nothing", fix="Leave one of them out.")
    if arguments.download_only and (arguments.apply or arguments.soft_reboot):
        raise BadValue(
            "cannot use --download-only with --apply",
            why="what is only downloaded does not boot",
            fix="`keelboot upgrade --from-downloaded --apply` follows it.",
        )
    if arguments.from_downloaded and arguments.tag:
        raise BadValue(
            "cannot use --from-downloaded with --tag", why="it is fetched already", fix="Leave one of them out."
        )
    namespace.require_root()
    booted = namespace.require_booted()
    if arguments.automatic:
        return _automatic(arguments, terminal, booted)
    with namespace.changing(terminal.progress) as sysroot:
        if arguments.from_downloaded:
            terms = trusting.terms(arguments, terminal, strict=records.settings(sysroot).strict)
            if arguments.dry_run:
                record = upgrade.require_downloaded(sysroot)
                admitted = signatures.admit_downloaded(sysroot, booted, record, terms)
                offer = replace(upgrade.offered(record, changed=True), verification=admitted.verification)
                show_offer(terminal, offer)
                return 0
            progress = progress_of(arguments, terminal, "downloaded")
            outcome = upgrade.from_downloaded(sysroot, booted, terms=terms, var=Path("/var"), progress=progress)
            return finish(arguments, terminal, sysroot, booted, outcome, progress=progress)
        wish = _wish(arguments, terminal, sysroot, booted)
        if arguments.check or arguments.dry_run:
            return look(arguments, terminal, sysroot, booted, wish)
        progress = progress_of(arguments, terminal, str(wish.source))
        outcome = upgrade.update(sysroot, booted, wish, progress=progress)
        return finish(arguments, terminal, sysroot, booted, outcome, progress=progress)


def look(
    arguments: argparse.Namespace, terminal: Terminal, sysroot: "Sysroot", booted: "ObjectId", wish: "Wish"
) -> int:
    """Tell what WISH's source has: remembered for `status`, but not by a dry run, which changes nothing."""
    from keelboot.host import upgrade

    show_offer(terminal, upgrade.check(sysroot, booted, wish, rehearse=arguments.dry_run))
    if not arguments.dry_run:
        publish(sysroot, changed=False)
    return 0


def progress_of(arguments: argparse.Namespace, terminal: Terminal, image: str) -> "Progress":
    """Where progress goes. Raises BadValue."""
    if arguments.progress_fd is None:
        return terminal.progress
    from keelboot.cli.progress_lines import to_descriptor

    return to_descriptor(arguments.progress_fd, image)


def finish(
    arguments: argparse.Namespace,
    terminal: Terminal,
    sysroot: "Sysroot",
    booted: "ObjectId",
    outcome: "Outcome",
    *,
    progress: "Progress",
) -> int:
    """Tidy up, tell what was done, and restart if that was asked for."""
    from keelboot.host import restart, upgrade

    changed = outcome.result in (upgrade.Result.STAGED, upgrade.Result.DOWNLOADED)
    if changed:
        trouble = upgrade.tidy(sysroot, booted, progress)
        if trouble:
            terminal.note(trouble)
        restart.forget_soft()
    publish(sysroot, changed=changed)
    show(terminal, outcome)
    if arguments.apply or arguments.soft_reboot:
        if restart.is_queued(sysroot, booted):
            restart_now(arguments.soft_reboot, terminal, sysroot, booted, apply=arguments.apply)
        else:
            terminal.note("Nothing waits for a restart.")
    return 0


def restart_now(soft: str | None, terminal: Terminal, sysroot: "Sysroot", booted: "ObjectId", *, apply: bool) -> None:
    """Restart as asked for: SOFT is auto, required or None; without APPLY a soft reboot is only prepared.

    Raises Failure where a soft reboot was required and is not possible.
    """
    from keelboot.host import restart

    target = restart.soft_target(sysroot, booted) if soft else None
    if soft == "required" and target is None:
        raise restart.refuse_soft("the next version has another kernel, initramfs or kernel arguments")
    if target:
        restart.prepare_soft(sysroot, target)
        terminal.note("Restarting the userspace." if apply else "Restart the userspace with: systemctl soft-reboot")
    if apply:
        if not target:
            terminal.note("Restarting.")
        (restart.soft_reboot if target else restart.reboot)()


def show(terminal: Terminal, outcome: "Outcome") -> None:
    """Tell what came of it, in the words that Ansible's module for bootc looks for."""
    from keelboot.host.status import verification
    from keelboot.host.upgrade import Result

    record = outcome.record
    image = record.image if record else ""
    if terminal.json_wanted:
        terminal.json(
            {
                "result": outcome.result.value,
                "image": image or None,
                "version": record.image_version if record else None,
                "manifestDigest": record.manifest_digest if record else None,
                "composefs": record.digest.hex if record else None,
                "verification": verification(record.verification) if record else None,
                "remarks": list(outcome.remarks),
                "changedOnBothSides": [f"/etc/{path}" for path in outcome.both],
            }
        )
        return
    match outcome.result:
        case Result.STAGED:
            terminal.out(f"Queued for next boot: {image}")
        case Result.DOWNLOADED:
            terminal.out(f"Downloaded: {image}")
        case Result.UNCHANGED:
            terminal.out(f"No changes in {image}")
        case Result.REFUSED:
            terminal.out("No changes in what boots next.")
    if record and outcome.result in (Result.STAGED, Result.DOWNLOADED):
        if record.image_version:
            terminal.out(f"  Version: {record.image_version}")
        terminal.out(f"  Digest: {record.manifest_digest}")
        terminal.out(f"  Composefs: {record.digest.hex}")
        terminal.out(f"  Signed: {trusting.told(record.verification)}")
    for remark in outcome.remarks:
        terminal.note(remark)
    if outcome.both:
        shown = ", ".join(f"/etc/{path}" for path in outcome.both[:5])
        more = f" and {len(outcome.both) - 5} more" if len(outcome.both) > 5 else ""
        terminal.note(f"Changed here and in the image, this machine's stay: {shown}{more}. See: keelboot etc diff")
    if outcome.result is Result.STAGED:
        terminal.note("Boot it with: systemctl reboot")
    elif outcome.result is Result.DOWNLOADED:
        terminal.note("Stage it with: keelboot upgrade --from-downloaded")


def show_offer(terminal: Terminal, offer: "Offer") -> None:
    """Tell what the source has."""
    if terminal.json_wanted:
        terminal.json(_offer(offer))
        return
    if not offer.changed:
        terminal.out(f"No changes in {offer.image}")
        return
    terminal.out(f"Update available for: {offer.image}")
    if offer.version:
        terminal.out(f"  Version: {offer.version}")
    terminal.out(f"  Digest: {offer.manifest_digest}")
    if offer.timestamp:
        terminal.out(f"  Made: {offer.timestamp}")
    terminal.out(
        f"  To fetch: {offer.missing_layers} of {offer.layers} layers, {offer.missing_size / 1_000_000:.1f} MB"
    )
    if offer.verification:
        terminal.out(f"  Signed: {trusting.told(offer.verification)}")
    if offer.refusal:
        terminal.note(f"It would be refused: {offer.refusal}")
    if offer.remark:
        terminal.note(offer.remark)


def publish(sysroot: "Sysroot", *, changed: bool = True) -> None:
    """Let ordinary users and fleet agents know."""
    from keelboot.host import facts

    facts.publish(sysroot, changed=changed)


def _offer(offer: "Offer") -> dict[str, Any]:
    from keelboot.host.status import verification

    return {
        "image": offer.image,
        "changed": offer.changed,
        "version": offer.version or None,
        "manifestDigest": offer.manifest_digest,
        "timestamp": offer.timestamp or None,
        "layers": offer.layers,
        "missingLayers": offer.missing_layers,
        "missingSize": offer.missing_size,
        "remark": offer.remark or None,
        "verification": verification(offer.verification),
        "refusal": offer.refusal or None,
    }


def _wish(arguments: argparse.Namespace, terminal: Terminal, sysroot: "Sysroot", booted: "ObjectId") -> "Wish":
    from dataclasses import replace

    from keelboot.cli.surroundings import scratch
    from keelboot.cli.values import BadValue
    from keelboot.host import records, upgrade

    source = upgrade.require_followed(sysroot, booted)
    if arguments.tag:
        try:
            source = replace(source, tag=arguments.tag, digest=None)
        except ValueError as error:
            raise BadValue(
                f"cannot use the tag {arguments.tag!a}", why=str(error), fix="Tags are like v2, 1.4 or latest."
            ) from error
    return upgrade.Wish(
        source=source,
        terms=trusting.terms(arguments, terminal, strict=records.settings(sysroot).strict),
        retry_failed=arguments.retry_failed,
        automatic=arguments.automatic,
        download_only=arguments.download_only,
        jobs=arguments.jobs,
        scratch=scratch(),
        var=Path("/var"),
    )


def _automatic(arguments: argparse.Namespace, terminal: Terminal, booted: "ObjectId") -> int:
    """What keelboot-update.service runs: how far to go is set in update.toml."""
    from datetime import datetime

    from keelboot.host import automatic, namespace, restart, upgrade
    from keelboot.host.autoupdate import Mode, decide

    settings = automatic.settings()
    with namespace.changing(terminal.progress) as sysroot:
        arguments.download_only = settings.mode is Mode.DOWNLOAD
        wish = _wish(arguments, terminal, sysroot, booted)
        if settings.mode is Mode.CHECK or arguments.dry_run:
            return look(arguments, terminal, sysroot, booted, wish)
        outcome = upgrade.update(sysroot, booted, wish, progress=terminal.progress)
        finish(arguments, terminal, sysroot, booted, outcome, progress=terminal.progress)
        # Fetching took its time: the window may have closed since. keelboot-update-window.timer waits for the next one.
        allowed = decide(datetime.now(), settings).reboot  # noqa: DTZ005 - windows are in local time
        if settings.mode is Mode.APPLY and allowed and restart.staged(sysroot, booted):
            restart_now("auto" if arguments.soft_reboot else None, terminal, sysroot, booted, apply=True)
    return 0
