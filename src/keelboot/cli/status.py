"""keelboot status: what this machine runs, what is staged, what it can go back to, and what failed."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.host.mounts import Mount

SUMMARY = "tell what this machine runs, has staged and can go back to"
EXAMPLES = """\
  keelboot status
  keelboot status -v
  keelboot status --json | jq .status.booted.image.imageDigest
  keelboot status --format yaml --booted
"""
_HUMAN, _YAML, _JSON = "humanreadable", "yaml", "json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options, which are bootc's."""
    parser.add_argument("--json", action="store_true", help="the same as --format json")
    parser.add_argument(
        "--format", choices=(_HUMAN, _YAML, _JSON), help=f"default: {_HUMAN} on a terminal, otherwise {_YAML}"
    )
    parser.add_argument(
        "--format-version", type=int, choices=(0, 1), default=1, help="both are org.containers.bootc/v1"
    )
    parser.add_argument("--booted", action="store_true", help="tell only of what runs")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell people all there is, whatever room it takes")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Find out and tell. It works in every state of a machine, so it ends with 0."""
    document = _document()
    status = document["status"]
    form = arguments.format or (_JSON if arguments.json else _HUMAN if sys.stdout.isatty() else _YAML)
    if form != _HUMAN:  # people find them on the screen
        for warning in status.get("keelboot", {}).get("warnings", ()):
            terminal.note(f"warning: {warning}")
    if arguments.booted:
        from keelboot.host.status import only_booted

        document = only_booted(document)
    if form == _JSON:
        terminal.json(document)
    elif form == _YAML:
        from keelboot.cli.yaml_text import yaml_text

        terminal.out(yaml_text(document).removesuffix("\n"))
    else:
        from datetime import UTC, datetime

        from keelboot.host.shown import screen

        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        shown = screen(
            document, now=datetime.now(UTC), colour=colour, verbose=arguments.verbose, command=terminal.command
        )
        terminal.out(shown.removesuffix("\n"))
    return 0


def _document() -> dict[str, Any]:
    """What root can find out, and for others what was published last."""
    from keelboot.host import mounts

    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        seen = mounts.parse(file.read())
    if os.geteuid() != 0 or mounts.booted(seen) is None:
        return _published(seen)
    from keelboot.host import facts
    from keelboot.host.status import document

    return document(facts.collect())


def _published(seen: "list[Mount]") -> dict[str, Any]:
    from keelboot.host import mounts, published

    booted = mounts.booted(seen)
    found = published.read() if booted else None
    if booted and found and _runs(found) == booted.hex:
        # Two things that change without a word.
        overlay = mounts.usr_overlay(seen)
        found["status"]["usrOverlay"] = {"accessMode": overlay, "persistence": "transient"} if overlay else None
        found["status"].setdefault("keelboot", {})["unhealthy"] = published.unhealthy()
        return found
    from keelboot.host.status import Facts, document

    unknown = "only root can tell more: nothing was published since this machine booted"
    return document(Facts(booted=booted, warnings=(unknown,) if booted else ()))


def _runs(document: dict[str, Any]) -> str | None:
    entry = document["status"].get("booted") or {}
    return (entry.get("composefs") or {}).get("verity")
