"""keelboot switch: another image for this machine, staged for the next boot and followed from then on."""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from keelboot.cli import trusting
from keelboot.cli.terminal import Terminal
from keelboot.cli.upgrade import add_staging, finish, look, progress_of, restart_now

if TYPE_CHECKING:
    from keelboot.assembly.settings import Settings
    from keelboot.host.sysroot import Sysroot
    from keelboot.image.reference import Reference

SUMMARY = "stage another image, and follow that from now on"
EXAMPLES = """\
  keelboot switch registry.example.org/web:2
  keelboot switch localhost/web:2 --apply
  keelboot switch --transport oci /srv/web
"""
_TRANSPORTS = ("registry", "oci", "oci-archive", "docker-archive", "docker-daemon", "containers-storage")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "image", metavar="IMAGE", help="docker://NAME, containers-storage:NAME, oci:DIR, oci-archive:FILE"
    )
    parser.add_argument(
        "--transport", choices=_TRANSPORTS, metavar="KIND", help=f"where IMAGE is: {', '.join(_TRANSPORTS)}"
    )
    parser.add_argument("--retain", action="store_true", help="nothing: what runs now is kept in any case")
    parser.add_argument(
        "--enforce-container-sigpolicy",
        action=argparse.BooleanOptionalAction,
        help="want a policy, now and at every upgrade; kept until it is taken back",
    )
    parser.add_argument("--no-signature-verification", action="store_true", help=argparse.SUPPRESS)
    add_staging(parser)


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Stage the image."""
    from keelboot.cli.surroundings import scratch
    from keelboot.host import namespace, records, restart, upgrade

    source = reference(arguments.image, arguments.transport)
    namespace.require_root()
    booted = namespace.require_booted()
    with namespace.changing(terminal.progress) as sysroot:
        settings = records.settings(sysroot)
        wanted = arguments.enforce_container_sigpolicy
        # It is the machine's and not one command's, so that a `switch` that does not say it does not undo it.
        strict = settings.strict if wanted is None else wanted
        if str(source) == upgrade.followed(sysroot, booted):
            if terminal.json_wanted:
                terminal.json({"result": "unchanged", "image": str(source)})
            else:
                terminal.out("Image specification is unchanged.")
            if not arguments.dry_run:
                _remember(sysroot, settings, strict=strict)
            if arguments.apply and not arguments.dry_run and restart.is_queued(sysroot, booted):
                restart_now(arguments.soft_reboot, terminal, sysroot, booted, apply=True)
            return 0
        wish = upgrade.Wish(
            source=source,
            switching=True,
            terms=trusting.terms(arguments, terminal, strict=strict),
            retry_failed=arguments.retry_failed,
            jobs=arguments.jobs,
            scratch=scratch(),
            var=Path("/var"),
        )
        if arguments.dry_run:
            return look(arguments, terminal, sysroot, booted, wish)
        progress = progress_of(arguments, terminal, str(source))
        outcome = upgrade.update(sysroot, booted, wish, progress=progress)
        _remember(sysroot, settings, strict=strict)
        return finish(arguments, terminal, sysroot, booted, outcome, progress=progress)


def _remember(sysroot: "Sysroot", settings: "Settings", *, strict: bool) -> None:
    from keelboot.host import records

    if strict != settings.strict:
        records.write_settings(sysroot, replace(settings, strict=strict))


def reference(text: str, transport: str | None) -> "Reference":
    """The image TEXT names, by its own word or by TRANSPORT, bootc's; with a whole path. Raises Failure."""
    from keelboot.failure import Failure
    from keelboot.image.reference import Reference, Transport

    if transport == "docker-daemon":
        raise Failure(
            f"cannot switch to {text}",
            why="images are not taken from Docker's daemon",
            fix="Save it with `docker save -o FILE NAME`, then use --transport docker-archive FILE.",
        )
    if transport:
        prefix = "docker://" if transport == "registry" else f"{transport}:"
        text = text if text.startswith(prefix) else prefix + text
    found = Reference.parse(text)
    if found.transport in (Transport.OCI, Transport.OCI_ARCHIVE, Transport.DOCKER_ARCHIVE):
        # It is followed from any directory, and after the next boot.
        return replace(found, location=os.path.abspath(found.location))  # noqa: PTH100 - links in it may change
    return found
