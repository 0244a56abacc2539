"""keelboot composefs: images, dumps and digests of composefs, for people and for other tools' test suites.

The actions, their options and what they print are those of mkcomposefs and composefs-info. So is the exit code: 1 for
whatever is refused.
"""

import argparse
import errno
import os
import shlex
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from keelboot.cli import composefs_create
from keelboot.cli.terminal import Terminal
from keelboot.failure import Failure

if TYPE_CHECKING:
    from keelboot.composefs.inodes import Inode

SUMMARY = "write and read composefs images, as mkcomposefs and composefs-info do"
EXAMPLES = """
keelboot composefs create --digest-store objects rootfs image.cfs
keelboot composefs create --from-file tree.dump image.cfs --min-version 1
keelboot composefs dump image.cfs
keelboot composefs ls image.cfs
keelboot composefs objects image.cfs
keelboot composefs digest --sha512 image.cfs
"""
_READING_EXAMPLES: Final = {
    "dump": "keelboot composefs dump image.cfs | keelboot composefs create --from-file - again.cfs",
    "ls": "keelboot composefs ls image.cfs",
    "objects": "keelboot composefs objects old.cfs new.cfs",
}
_TYPES: Final = {
    "-": "file", "d": "directory", "l": "symlink", "c": "character device", "b": "block device", "p": "fifo",
    "s": "socket",
}  # fmt: skip
_DIGEST_EXAMPLES: Final = """
keelboot composefs digest image.cfs
keelboot composefs digest --sha512 kernel initramfs --json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    parser.description = f"{parser.description}\nWhat is refused ends with exit code 1."
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)

    def add(name: str, summary: str, examples: str) -> argparse.ArgumentParser:
        lines = "\n".join(f"  {line}" for line in examples.strip().splitlines())
        added = actions.add_parser(
            name,
            help=summary,
            description=f"{summary[:1].upper()}{summary[1:]}.",
            epilog=f"examples:\n{lines}",
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        # Before the action's name or after it; a default here would undo what stands before.
        added.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
        added.add_argument(
            "-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="print only the result"
        )
        return added

    composefs_create.arguments(add("create", composefs_create.SUMMARY, composefs_create.EXAMPLES))
    for name, summary in (
        ("dump", "print an image as dump text, which `create --from-file` reads"),
        ("ls", "list an image's names, symlink targets and object paths"),
        ("objects", "list the objects that images need, each once"),
    ):
        reading = add(name, summary, _READING_EXAMPLES[name])
        reading.add_argument("images", metavar="IMAGE", nargs="+", help="an image; - is standard input")
    digest = add("digest", "print the fs-verity digests of files", _DIGEST_EXAMPLES)
    digest.add_argument("files", metavar="FILE", nargs="+", help="a file; - is standard input")
    digest.add_argument("--sha512", action="store_true", help="SHA-512 instead of SHA-256")


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Do what was asked for. Raises Failure with the exit code 1, and BadValue."""
    from keelboot.cli.values import BadValue

    try:
        _ACTIONS[arguments.action](arguments, terminal)
        sys.stdout.flush()
    except (BadValue, BrokenPipeError):
        raise
    except Failure as failure:
        raise Failure(failure.what, why=failure.why, fix=failure.fix) from failure
    except OSError as error:
        raise _refused(error) from error
    return 0


def _dump(arguments: argparse.Namespace, terminal: Terminal) -> None:
    from keelboot.composefs import dump

    told = []
    for name, root in _images(arguments):
        text = dump.format_dump(root).decode("ascii")
        if terminal.json_wanted:
            told.append({"image": name, "dump": text.splitlines()})
        else:
            sys.stdout.write(text)
    if terminal.json_wanted:
        terminal.json(told)


def _ls(arguments: argparse.Namespace, terminal: Terminal) -> None:
    from keelboot.composefs.inodes import Link, walk_inodes

    told = []
    for name, root in _images(arguments):
        seen: set[Inode] = set()
        entries = []
        for path, item in walk_inodes(root):
            inode = item.inode if isinstance(item, Link) else item
            if terminal.json_wanted:
                entries.append(_entry(path, inode, further=inode in seen))
            elif item is not root:
                sys.stdout.write(_line(path, inode, further=inode in seen))
            seen.add(inode)
        told.append({"image": name, "entries": entries})
    if terminal.json_wanted:
        terminal.json(told)


def _line(path: bytes, inode: "Inode", *, further: bool) -> str:
    """As composefs-info has it: spaces in paths are left, and a FURTHER name of a file is only a name."""
    from keelboot.composefs.dump import escaped

    name = b" ".join(map(escaped, path.split(b" "))).decode("ascii")
    if inode.is_directory:
        return f"{name}/\t\n"
    if further or not inode.payload:
        return f"{name}\n"
    return f"{name}\t{'@' if inode.is_external else '->'} {escaped(inode.payload).decode('ascii')}\n"


def _entry(path: bytes, inode: "Inode", *, further: bool) -> Mapping[str, object]:
    """The same for programs. Texts are escaped as in dumps, since they need not be UTF-8."""
    from keelboot.composefs.dump import escaped

    kind = stat.filemode(inode.mode)[0]
    return {
        "path": escaped(path).decode("ascii"),
        "type": _TYPES[kind],
        "hardlink": further,
        "permissions": f"{inode.mode & 0o7777:04o}",
        "uid": inode.uid,
        "gid": inode.gid,
        "size": inode.size,
        "target" if kind == "l" else "object": escaped(inode.payload).decode("ascii") if inode.payload else None,
        "digest": inode.digest.hex() if inode.digest else None,
    }


def _objects(arguments: argparse.Namespace, terminal: Terminal) -> None:
    from keelboot.composefs.dump import escaped
    from keelboot.composefs.inodes import Inode, walk_inodes

    needed = {
        item.payload
        for _, root in _images(arguments)
        for _, item in walk_inodes(root)
        if isinstance(item, Inode) and item.is_external and item.payload
    }
    names = [escaped(payload).decode("ascii") for payload in sorted(needed)]
    if terminal.json_wanted:
        terminal.json(names)
    else:
        sys.stdout.writelines(f"{name}\n" for name in names)


def _digest(arguments: argparse.Namespace, terminal: Terminal) -> None:
    from keelboot.composefs.verity import Algorithm, measure_file

    algorithm: Algorithm = "sha512" if arguments.sha512 else "sha256"
    found = []
    for name in arguments.files:
        path = Path("/dev/stdin" if name == "-" else name)
        with composefs_create.naming(name):
            digest = measure_file(path, algorithm).object.hex
        found.append({"file": name, "algorithm": algorithm, "digest": digest})
        if not terminal.json_wanted:
            terminal.out(digest)
    if terminal.json_wanted:
        terminal.json(found)


def _images(arguments: argparse.Namespace) -> Iterator[tuple[str, "Inode"]]:
    from keelboot.composefs import reader

    for name in arguments.images:
        data = composefs_create.read_input(name, reader.SIZE_MAX)
        try:
            root = reader.read(data).root
        except Failure as failure:
            raise Failure(f"cannot read {name}", why=failure.why, fix=failure.fix) from failure
        yield name, root


def _refused(error: OSError) -> Failure:
    known = isinstance(error.filename, str | bytes)
    where = os.fsdecode(error.filename) if known else "standard output"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        fix = "`df` tells what is full: free some space, or write elsewhere."
    elif known:
        fix = f"`ls -ld {shlex.quote(where)}` tells what is there and who may use it."
    else:
        fix = "Redirect it to where it can be written."
    return Failure(f"cannot use {where}", why=error.strerror or str(error), fix=fix)


_ACTIONS: Final[Mapping[str, Callable[[argparse.Namespace, Terminal], None]]] = {
    "create": composefs_create.execute,
    "dump": _dump,
    "ls": _ls,
    "objects": _objects,
    "digest": _digest,
}
