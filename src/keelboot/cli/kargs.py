"""keelboot kargs: the machine's own kernel arguments, which every version gets."""

import argparse
from typing import TYPE_CHECKING, Any

from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from keelboot.host.command_line import Next

SUMMARY = "list, set and unset this machine's kernel arguments"
EXAMPLES = """\
  keelboot kargs list
  keelboot kargs set console=ttyS1,115200 mitigations=auto
  keelboot kargs set --dry-run loglevel=7
  keelboot kargs unset loglevel
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be done with kernel arguments."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        own = actions.add_parser(
            name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}.", allow_abbrev=False
        )
        own.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
        own.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="print only the result")
        return own

    action("list", "tell what the next boot gets, and who gives it")
    add = action("set", "give every version these arguments; those of the same name set before go")
    add.add_argument("words", metavar="NAME[=VALUE]", nargs="+", help="a kernel argument")
    remove = action("unset", "do without these arguments, whether this machine or its images ask for them")
    remove.add_argument("words", metavar="NAME[=VALUE]", nargs="+", help="a bare NAME stands for whatever value it has")
    for own in (add, remove):
        own.add_argument("--dry-run", action="store_true", help="only tell what the command line would be")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Do what was asked for."""
    from keelboot.host import namespace

    namespace.require_root()
    if arguments.action == "list":
        return _list(terminal)
    return _change(arguments, terminal)


def _list(terminal: Terminal) -> int:
    from keelboot.host import arguments as merging
    from keelboot.host import command_line, namespace, records

    with namespace.reading() as sysroot:
        settings = records.settings(sysroot)
        following = command_line.plan(sysroot, settings)
    record = following.record
    given = merging.explained(record.architecture, record.arguments, settings)
    if terminal.json_wanted:
        terminal.json(
            {
                "composefs": record.digest.hex,
                "arguments": [{"argument": one.word, "from": one.by} for one in given],
                "machine": list(settings.kargs),
                "deleted": list(settings.kargs_deleted),
                "applied": not following.changed,
            }
        )
        return 0
    for one in given:
        terminal.out(f"{one.by:9} {one.word}")
    for word in settings.kargs_deleted:
        terminal.out(f"{'without':9} {word}")
    if following.changed:
        terminal.note(
            "The next boot does not have these: they were set while it was made, or the machine did not come up with "
            "them. `keelboot kargs set` with the same words tries them again; `keelboot kargs unset` drops them."
        )
    return 0


def _change(arguments: argparse.Namespace, terminal: Terminal) -> int:
    from keelboot.cli.upgrade import publish
    from keelboot.cli.values import BadValue
    from keelboot.host import arguments as merging
    from keelboot.host import command_line, namespace, records

    with namespace.changing(terminal.progress) as sysroot:
        before = records.settings(sysroot)
        image = command_line.plan(sysroot, before).record.arguments
        try:
            if arguments.action == "set":
                after = merging.added(before, arguments.words)
            else:
                after = merging.removed(before, image, arguments.words)
        except ValueError as error:
            raise BadValue(
                f"cannot {arguments.action} kernel arguments",
                why=str(error),
                fix="`keelboot kargs list` shows what there is; write NAME or NAME=VALUE.",
            ) from error
        if arguments.dry_run:
            following = command_line.plan(sysroot, after)
        else:
            following = command_line.apply(sysroot, after)
            publish(sysroot, changed=following.changed)
    _tell(following, terminal, dry_run=arguments.dry_run)
    return 0


def _tell(following: "Next", terminal: Terminal, *, dry_run: bool) -> None:
    old, new = following.listed.entry.options.split(), following.entry.options.split()
    value: dict[str, Any] = {
        "composefs": following.record.digest.hex,
        "added": [word for word in new if word not in old],
        "removed": [word for word in old if word not in new],
        "options": following.entry.options,
        "changed": following.changed,
        "dryRun": dry_run,
    }
    if terminal.json_wanted:
        terminal.json(value)
        return
    for word in value["removed"]:
        terminal.out(f"- {word}")
    for word in value["added"]:
        terminal.out(f"+ {word}")
    if not following.changed:
        terminal.note("The next boot has these arguments already.")
    elif dry_run:
        terminal.note("Nothing was changed.")
    else:
        terminal.note(
            "The next boot tries them. If the machine does not come up three times, it returns to what it boots today."
        )
