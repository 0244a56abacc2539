"""keelboot composefs create: an image from a directory or from dump text."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from keelboot.cli.terminal import Terminal
from keelboot.failure import Failure

if TYPE_CHECKING:
    from keelboot.composefs.folder import Keep
    from keelboot.composefs.inodes import Inode

SUMMARY = "write the image of a directory, or of dump text"
EXAMPLES = """
keelboot composefs create --digest-store objects rootfs image.cfs
keelboot composefs create --print-digest-only --use-epoch rootfs
keelboot composefs create --from-file --min-version 1 tree.dump image.cfs
zcat tree.dump.gz | keelboot composefs create --from-file - - >image.cfs
"""
_STREAM: Final = "-"
_DUMP_MAX: Final = 1 << 30  # bytes
_OF_DIRECTORIES: Final = ("digest_store", "use_epoch", "skip_devices", "skip_xattrs", "user_xattrs")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: names and defaults are those of mkcomposefs."""
    parser.add_argument("source", metavar="SRC", help="a directory; with --from-file a dump, - is standard input")
    out = parser.add_argument("out", metavar="OUT", help="the image to write; - is standard output")
    parser.add_argument("--from-file", action="store_true", help="SRC is dump text (composefs-dump(5))")
    parser.add_argument("--min-version", metavar="N", type=int, help="lowest format version; default: 0")
    parser.add_argument(
        "--max-version", metavar="N", type=int,
        help="highest format version, used where there are whiteouts; default: 1, or what --min-version says",
    )  # fmt: skip
    parser.add_argument("--print-digest", action="store_true", help="print the image's fs-verity digest too")
    parser.add_argument(
        "--print-digest-only", action=_WithoutOut, const=out, nargs=0, default=False,
        help="print it, and write no image: without OUT",
    )  # fmt: skip
    parser.add_argument(
        "--digest-store", metavar="DIR", type=Path, help="copy the files that the image points to into DIR"
    )
    parser.add_argument("--use-epoch", action="store_true", help="set all times to zero")
    parser.add_argument("--skip-devices", action="store_true", help="leave device nodes out")
    xattrs = parser.add_mutually_exclusive_group()
    xattrs.add_argument("--skip-xattrs", action="store_true", help="leave extended attributes out")
    xattrs.add_argument("--user-xattrs", action="store_true", help="take user.* extended attributes only")
    parser.add_argument("--threads", metavar="N", type=int, help="accepted as mkcomposefs has it; changes nothing")


class _WithoutOut(argparse.Action):
    """Makes OUT optional once it is there. If it always were, `SRC OPTION OUT` would be an OUT too many."""

    def __call__(self, _: argparse.ArgumentParser, namespace: argparse.Namespace, *__: object) -> None:
        setattr(namespace, self.dest, True)
        self.const.nargs, self.const.required = "?", False


def execute(arguments: argparse.Namespace, terminal: Terminal) -> None:
    """Write the image, or print its digest, or both. Raises BadValue, Failure and OSError; OUT is then as it was."""
    from keelboot.composefs import erofs
    from keelboot.composefs.inodes import collector_paused

    minimum, maximum = _check(arguments, terminal)
    wanted = arguments.print_digest or arguments.print_digest_only
    with collector_paused():
        root = _from_dump(arguments.source) if arguments.from_file else _from_directory(arguments)
        version = erofs.needed_version(root, minimum, maximum)
        size, chunks = erofs.image_chunks(root, version)
        digest = ""
        if wanted or terminal.json_wanted:
            digest = _write_measured(chunks, arguments.out)
        elif arguments.out is not None:
            _write(chunks, arguments.out)
    if terminal.json_wanted:
        terminal.json({"image": arguments.out, "version": version, "size": size, "digest": digest})
    elif wanted:
        terminal.out(digest)


def _check(arguments: argparse.Namespace, terminal: Terminal) -> tuple[int, int]:
    """The lowest and the highest version. Raises BadValue where the options do not fit together."""
    from keelboot.cli.values import BadValue
    from keelboot.composefs.ondisk import VERSIONS

    why = ""
    fix = "`keelboot composefs create --help` has examples."
    if arguments.out is not None and arguments.print_digest_only:
        why = "--print-digest-only writes no image"
    elif arguments.from_file and any(getattr(arguments, name) for name in _OF_DIRECTORIES):
        used = next(name for name in _OF_DIRECTORIES if getattr(arguments, name)).replace("_", "-")
        why = f"--{used} is about a directory, and --from-file reads a dump"
    elif arguments.out == _STREAM and (arguments.print_digest or terminal.json_wanted):
        why, fix = "standard output cannot hold the image and something else", "Write the image into a file."
    elif arguments.out == _STREAM and sys.stdout.isatty():
        why, fix = "the image is binary, and standard output is a terminal", "Redirect it, or name a file."
    minimum, maximum = arguments.min_version, arguments.max_version
    if minimum is None and maximum is None:
        maximum = 1
    minimum = minimum or 0
    maximum = max(maximum or 0, minimum)
    if minimum not in VERSIONS or maximum not in VERSIONS:
        why, fix = (
            f"{minimum} to {maximum} are not versions among {VERSIONS}",
            "Leave --min-version and --max-version away.",
        )
    if why:
        raise BadValue("cannot create the image", why=why, fix=fix)
    return minimum, maximum


def _from_dump(source: str) -> "Inode":
    from keelboot.composefs import dump

    text = read_input(source, _DUMP_MAX)
    try:
        return dump.parse(text, strict="CFS_PARSE_STRICT" in os.environ)
    except Failure as failure:
        raise Failure(f"cannot read {source}", why=failure.why, fix=failure.fix) from failure


def _from_directory(arguments: argparse.Namespace) -> "Inode":
    from keelboot.composefs import folder

    taken = folder.Taken(
        devices=not arguments.skip_devices,
        xattrs="none" if arguments.skip_xattrs else "user" if arguments.user_xattrs else "all",
        times=not arguments.use_epoch,
    )
    source = Path(arguments.source)
    if arguments.digest_store is None:
        return folder.read(source, taken)
    with _digest_store(arguments.digest_store) as keep:
        return folder.read(source, taken, keep)


@contextmanager
def _digest_store(path: Path) -> Iterator["Keep"]:
    """Where contents go; at the end they are on the disk, before any image is that names them."""
    from keelboot.composefs.folder import changed, measured
    from keelboot.durable import sync_filesystem
    from keelboot.image.tree import External, ObjectId
    from keelboot.store.objects import Objects

    with naming(str(path)):
        path.mkdir(parents=True, exist_ok=True)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    objects = Objects(directory, "sha256")

    def keep(file: int, size: int) -> ObjectId:
        name = measured(file, size)
        with naming(str(path)):
            if not objects.has(External(name, size)) and not objects.copy(name, file):
                raise changed("its content is no longer what was measured")
        return name

    try:
        yield keep
        with naming(str(path)):
            sync_filesystem(directory)
    finally:
        os.close(directory)


def _write_measured(chunks: Iterable[bytes], out: str | None) -> str:
    """Write the image, if there is an OUT for it, and return its digest."""
    from keelboot.composefs.verity import Hasher

    hasher = Hasher()

    def measured() -> Iterator[bytes]:
        for chunk in chunks:
            hasher.update(chunk)
            yield chunk

    if out is None:
        for _ in measured():
            pass
    else:
        _write(measured(), out)
    return hasher.finish().object.hex


def _write(image: Iterable[bytes], out: str) -> None:
    from keelboot.durable import replacing

    if out == _STREAM:
        with naming("/dev/stdout"):
            sys.stdout.buffer.writelines(image)
            sys.stdout.buffer.flush()
        return
    with naming(out):
        path = Path(out)
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                file.writelines(image)
            return
        # What is replaced is the file that links lead to, never a link such as /dev/stdout.
        with replacing(Path(os.path.realpath(out))) as file:
            file.writelines(image)


def read_input(name: str, limit: int) -> bytes:
    """All of the file NAME, or of standard input. Raises Failure if it is more than LIMIT bytes, OSError."""
    with naming(name), open(sys.stdin.fileno() if name == _STREAM else name, "rb", closefd=name != _STREAM) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Failure(f"cannot read {name}", why=f"it has more than {limit} bytes", fix="Name a smaller file.")
    return data


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Let an error of the operating system tell of NAME, as it was typed."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "/dev/stdin" if name == _STREAM else name) from error
