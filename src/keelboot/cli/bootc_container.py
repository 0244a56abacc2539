"""bootc container: what a root asks of the machine that will boot it, seen while its image is being built."""

import argparse
import sys
from pathlib import Path
from typing import Any

from keelboot.cli.terminal import Terminal

SUMMARY = "look at a root while its image is being built"
EXAMPLES = """\
  keelboot container inspect
  keelboot container inspect --rootfs /target --json
"""
_HUMAN, _YAML, _JSON = "humanreadable", "yaml", "json"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # machine -> as OCI spells it


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be done with a root, and the options of each."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    inspect = actions.add_parser("inspect", help="tell its kernel and the kernel arguments it asks for")
    inspect.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="the same as --format json")
    inspect.add_argument(
        "--format", choices=(_HUMAN, _YAML, _JSON), help=f"default: {_HUMAN} on a terminal, otherwise {_YAML}"
    )
    lint = actions.add_parser("lint", help="not available yet")
    lint.add_argument("--fatal-warnings", action="store_true", help=argparse.SUPPRESS)
    lint.add_argument("--list", action="store_true", help=argparse.SUPPRESS)
    lint.add_argument("--skip", metavar="NAME", action="append", help=argparse.SUPPRESS)
    lint.add_argument("--no-truncate", action="store_true", help=argparse.SUPPRESS)
    for action in (inspect, lint):
        action.add_argument("--rootfs", metavar="DIR", type=Path, default=Path("/"), help="the root (default: /)")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Look at the root and say what is there."""
    from keelboot.failure import Failure

    if arguments.action == "lint":
        raise Failure(
            "cannot lint the root",
            why="keelboot has no lint yet; `keelboot inspect IMAGE` tells whether an image boots, and why not",
            fix="Leave this step out of the Containerfile.",
        )
    if not arguments.rootfs.is_dir():
        raise Failure(
            f"cannot inspect {arguments.rootfs}", why="it is no directory", fix="Name a root with --rootfs DIR."
        )
    kargs, kernel = _kargs(arguments.rootfs), _kernel(arguments.rootfs)
    found = {"kargs": kargs, "kernel": kernel}
    form = arguments.format or (_JSON if arguments.json else _HUMAN if sys.stdout.isatty() else _YAML)
    if form == _JSON:
        terminal.json(found)
    elif form == _YAML:
        from keelboot.cli.yaml_text import yaml_text

        terminal.out(yaml_text(found).removesuffix("\n"))
    else:
        unified = " (unified kernel image)" if kernel and kernel["unified"] else ""
        terminal.out(f"kernel     {kernel['version'] + unified if kernel else 'none'}")
        terminal.out(f"arguments  {' '.join(kargs) or 'none'}")
    return 0


def _kargs(root: Path) -> list[str]:
    import platform

    from keelboot.boot.kernel_arguments import of_image

    directory = root / "usr/lib/bootc/kargs.d"
    files = {path.name: path.read_bytes() for path in sorted(directory.glob("*.toml"))}
    machine = platform.machine()
    return list(of_image(files, _ARCHITECTURES.get(machine, machine)))


def _kernel(root: Path) -> dict[str, Any] | None:
    """A unified kernel image comes before a kernel beside its initramfs, as it does for the loader."""
    for image in sorted((root / "boot/EFI/Linux").glob("*.efi")):
        return {"version": image.stem, "unified": True}
    for kernel in sorted((root / "usr/lib/modules").glob("*/vmlinuz")):
        return {"version": kernel.parent.name, "unified": False}
    return None
