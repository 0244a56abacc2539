"""keelboot etc: what this machine changed in /etc, the image's own files, and the way back to them."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.host.etc import Change
    from keelboot.host.etcdiff import Difference

SUMMARY = "tell what changed in /etc, show the image's files, reset to them"
EXAMPLES = """\
  keelboot etc diff
  keelboot etc diff --name-only
  keelboot etc diff /etc/nginx
  keelboot etc show /etc/nginx/nginx.conf
  keelboot etc reset /etc/nginx/nginx.conf
  keelboot etc reset --all --dry-run
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be done with /etc."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        own = actions.add_parser(
            name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}.", allow_abbrev=False
        )
        own.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
        own.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="print only the result")
        return own

    diff = action("diff", "tell what is not as in the image, and what changed on both sides")
    diff.add_argument("paths", metavar="PATH", nargs="*", help="only what is at or below it")
    diff.add_argument("--name-only", action="store_true", help="only tell which files, and how")
    diff.add_argument("--secrets", action="store_true", help="show files too that not everybody may read")
    show = action("show", "print a file as the image has it")
    show.add_argument("path", metavar="PATH", help="a file in /etc")
    reset = action("reset", "let files be as in the image again")
    reset.add_argument("paths", metavar="PATH", nargs="*", help="a file or a directory in /etc")
    reset.add_argument("--all", action="store_true", help="all but accounts, host keys, machine-id, hostname, fstab")
    reset.add_argument("-y", "--yes", action="store_true", help="do not ask before --all")
    reset.add_argument("--dry-run", action="store_true", help="only tell what would be reset")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Do what was asked for."""
    code: int = {"diff": _diff, "show": _show, "reset": _reset}[arguments.action](arguments, terminal)
    return code


class _Places(NamedTuple):
    """Where things are on the machine that runs: /etc, its upper layer, and the image's own below it."""

    mounted: Path
    upper: Path
    lower: Path


@contextmanager
def _machine() -> Iterator[_Places]:
    """Raises NotAHost, NotPermitted."""
    from keelboot.failure import NotPermitted
    from keelboot.host import etc, namespace
    from keelboot.host.sysroot import Sysroot

    namespace.require_root()
    digest = namespace.require_booted()
    sysroot = Sysroot(Path("/sysroot"), Path("/nonexistent"))
    with ExitStack() as stack:
        try:
            lower = stack.enter_context(etc.pristine())
        except PermissionError as error:
            raise NotPermitted(
                "cannot look below /etc",
                why=error.strerror or str(error),
                fix="Run it as root on the machine itself, not inside a container.",
            ) from error
        yield _Places(Path("/etc"), sysroot.deployment(digest) / "etc/upper", lower)


def _changes(places: _Places, paths: list[str]) -> "list[Change]":
    from keelboot.host import etc
    from keelboot.host.restore import below_etc

    wanted = [below_etc(path) for path in paths]
    return [
        change
        for change in etc.drift(places.upper, places.lower).changes
        if not wanted or any(path in ("", change.path) or change.path.startswith(f"{path}/") for path in wanted)
    ]


def _diff(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from keelboot.host import etc, etcdiff

    with _machine() as places:
        both, conflicts = etc.carried(places.upper.parents[1])
        changes = _changes(places, arguments.paths)
        found = etcdiff.differences(
            places.mounted, places.lower, changes, {*both, *conflicts}, secrets=arguments.secrets
        )
        if terminal.json_wanted:
            terminal.json([_value(one, names_only=arguments.name_only) for one in found])
            return 0
        for one in found:
            _print(one, terminal, names_only=arguments.name_only)
    if not changes:
        terminal.note("Nothing in /etc was changed.")
    return 0


def _value(one: "Difference", *, names_only: bool) -> dict[str, object]:
    value: dict[str, object] = {
        "path": f"/etc/{_printable(one.change.path)}",
        "change": one.change.kind,
        "changedInImageToo": one.both,
    }
    return value if names_only else value | {"diff": "\n".join(one.lines) or None, "note": one.note or None}


def _print(one: "Difference", terminal: Terminal, *, names_only: bool) -> None:
    notes = [one.note] if one.note and not names_only else []
    if one.both:
        notes.append("the image changed it too; this machine's was kept")
    terminal.out(
        f"{one.change.kind:8}  /etc/{_printable(one.change.path)}" + (f"  ({'; '.join(notes)})" if notes else "")
    )
    if not names_only:
        for line in one.lines:
            terminal.out(line)


def _show(arguments: argparse.Namespace, terminal: Terminal) -> int:
    import os
    import stat

    from keelboot.failure import Failure
    from keelboot.host.restore import below_etc, image_entry
    from keelboot.host.sides import Folder

    path = below_etc(arguments.path)
    with _machine() as places:
        side = Folder(os.fspath(places.lower))
        entry = image_entry(side, path)
        if entry is None:
            raise Failure(
                f"cannot show /etc/{_printable(path)}",
                why="the image does not have it",
                fix="`keelboot etc diff --name-only` lists what was added on this machine.",
            )
        content = entry.content() if entry.kind == stat.S_IFREG else b""
        names = side.names(path) if entry.is_directory else []
    if terminal.json_wanted:
        terminal.json(
            {
                "path": f"/etc/{_printable(path)}",
                "mode": f"{entry.permissions:04o}",
                "uid": entry.uid,
                "gid": entry.gid,
                "target": _printable(str(entry.detail)) if entry.kind == stat.S_IFLNK else None,
                "names": [_printable(name) for name in names] if entry.is_directory else None,
                "content": content.decode(errors="replace") if entry.kind == stat.S_IFREG else None,
            }
        )
    elif entry.kind == stat.S_IFLNK:
        terminal.out(f"link to {_printable(str(entry.detail))}")
    elif entry.is_directory:
        for name in names:
            terminal.out(_printable(name))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
    return 0


def _reset(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from keelboot.cli.values import BadValue
    from keelboot.host import etc, restore

    if bool(arguments.paths) == arguments.all:
        raise BadValue(
            "cannot reset",
            why="it takes either paths or --all",
            fix="`keelboot etc diff --name-only` lists what was changed.",
        )
    with _machine() as places:
        changes = etc.drift(places.upper, places.lower).changes
        if arguments.all:
            wanted = restore.all_but_identity(changes)
        else:
            wanted = restore.chosen(changes, [restore.below_etc(path) for path in arguments.paths])
        if (
            arguments.all
            and wanted
            and not arguments.dry_run
            and not arguments.yes
            and not _agreed(len(wanted), terminal)
        ):
            return 1
        if not arguments.dry_run:
            restore.restore(places.mounted, places.lower, wanted)
    if terminal.json_wanted:
        paths = [f"/etc/{_printable(change.path)}" for change in wanted]
        terminal.json({"reset": paths, "dryRun": arguments.dry_run})
        return 0
    for change in wanted:
        what = {"added": "removed", "removed": "back"}.get(change.kind, "as in the image")
        terminal.out(f"{'would be ' if arguments.dry_run else ''}{what}: /etc/{_printable(change.path)}")
    if not wanted:
        terminal.note("There is nothing to reset.")
    return 0


def _agreed(count: int, terminal: Terminal) -> bool:
    """Ask. Raises BadValue where there is nobody to ask."""
    from keelboot.cli.values import BadValue

    if not terminal.interactive:
        raise BadValue(
            f"cannot reset {count} paths in /etc",
            why="nobody is there to confirm it",
            fix="`--dry-run` lists them; `--yes` confirms it.",
        )
    return input(f"Reset {count} paths in /etc to what the image has? [y/N] ").strip().lower() in ("y", "yes")


def _printable(text: str) -> str:
    """TEXT, in which bytes that are no UTF-8, and what would move the cursor, are escaped."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in shown)
