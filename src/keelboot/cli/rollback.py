"""keelboot rollback: the previous good version boots next; a second call takes that back."""

import argparse

from keelboot.cli.terminal import Terminal
from keelboot.cli.upgrade import publish, restart_now

SUMMARY = "boot the previous version next"
EXAMPLES = """\
  keelboot rollback
  keelboot rollback --apply
  keelboot rollback --dry-run
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--apply", action="store_true", help="restart into it")
    parser.add_argument(
        "--soft-reboot",
        metavar="WHEN",
        choices=("auto", "required"),
        help="restart the userspace alone: auto, where the kernel stays the same; required, or fail",
    )
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Change what boots next."""
    from keelboot.host import namespace, records, restart, rollback

    namespace.require_root()
    booted = namespace.require_booted()
    with namespace.changing(terminal.progress) as sysroot:
        plan = rollback.plan(sysroot, booted)
        record = records.read(sysroot, plan.target)
        if not arguments.dry_run:
            rollback.rollback(sysroot, booted)
            rollback.tell_journal(record)
            restart.forget_soft()
            publish(sysroot)
        if terminal.json_wanted:
            terminal.json(
                {
                    "image": record.image,
                    "version": record.image_version or None,
                    "manifestDigest": record.manifest_digest,
                    "composefs": record.digest.hex,
                    "takenBack": plan.takes_back,
                    "dropped": plan.dropped.hex if plan.dropped else None,
                    "dryRun": arguments.dry_run,
                }
            )
        else:
            what = "Would boot next" if arguments.dry_run else "Next boot"
            why = "current deployment" if plan.takes_back else "rollback deployment"
            terminal.out(f"{what}: {why}")
            terminal.out(f"  {record.image} {record.image_version}".rstrip())
            terminal.out(f"  Composefs: {record.digest.hex}")
            if plan.dropped:
                terminal.out(
                    f"  {'Would drop' if arguments.dry_run else 'Dropped'} what was staged: {plan.dropped.hex}"
                )
        if not arguments.dry_run and (arguments.apply or arguments.soft_reboot) and not plan.takes_back:
            restart_now(arguments.soft_reboot, terminal, sysroot, booted, apply=arguments.apply)
    return 0
