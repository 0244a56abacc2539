"""keelboot health: run the health checks now and tell what came of each."""

import argparse
from typing import TYPE_CHECKING

from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.host.health import Check

SUMMARY = "run this machine's health checks now"
EXAMPLES = """\
  keelboot health
  keelboot health --json | jq .passed
"""
_INDENT = "      "


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options: there are none of its own."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Run the checks. Raises Unhealthy where a required one did not pass."""
    from keelboot.failure import Unhealthy
    from keelboot.host import health, namespace

    namespace.require_root()
    report = health.check(done=lambda check: None if arguments.json else terminal.out(line(check)))
    if arguments.json:
        terminal.json(report.value())
    if not report.passed:
        raise Unhealthy(
            "this machine is not healthy",
            why=report.reason.splitlines()[0],
            fix="What the check printed tells more: `keelboot health`. docs/health-checks.md tells how it is run.",
        )
    return 0


def line(check: "Check") -> str:
    """A check as people read it: its result, its name, how long it took, what it printed."""
    result = "ok" if check.passed else "FAILED" if check.required else "failed (only wanted)"
    head = f"{result:6}  {check.name}, {check.seconds:.1f} s"
    return "\n".join([head, *(_INDENT + text for text in check.output.splitlines())])
