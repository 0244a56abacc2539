"""The entry point: finds the verb, runs it, and turns whatever ends it into words and an exit code.

A verb is a module with

    SUMMARY                         a line for the list of verbs
    EXAMPLES                        commands as typed, one a line, shown at the end of --help
    arguments(parser)               adds its options; --json and --quiet are there already
    execute(arguments, terminal)    does the work and returns the exit code
    split(words)                    only where words belong to another program: (for the parser, for that program);
                                    the latter become arguments.passed_on

Only the module of the verb that runs is imported: that of `usr-overlay` is usr_overlay.

The same verbs are offered under other names of the command too, by a `Face` each (cli/bootc.py).
"""

import argparse
import errno
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, ModuleType
from typing import NamedTuple, NoReturn

from keelboot import __version__
from keelboot.failure import Failure, NotWritable, OutOfSpace

VERBS = {
    "base": "make a base image from a distribution's packages",
    "build": "build a Containerfile into an image that boots",
    "inspect": "tell what an image holds and whether it boots",
    "composefs": "write and read composefs images, as mkcomposefs and composefs-info do",
    "disk": "write a disk that boots an image",
    "run": "boot an image or a disk in QEMU",
    "push": "send an image to a registry",
    "pull": "fetch an image, into podman's store or a place of its own",
    "copy": "copy an image from one place to another",
    "keygen": "make a pair of keys to sign images with",
    "sign": "sign an image in a registry",
    "verify": "tell who signed an image, and whether that is enough",
    "attest": "attach a signed statement to an image: provenance, packages",
    "verify-attestation": "tell what trusted keys attest about an image",
    "sbom": "list an image's packages, as SPDX or CycloneDX",
    "store": "keep images in a store: pull, list, remove, check, mend",
    "install": "make a machine: on a disk, in a filesystem, beside a system",
    "upgrade": "stage the newest version of the image that this machine follows",
    "switch": "stage another image, and follow that from now on",
    "rollback": "boot the previous version next",
    "pin": "keep a version until it is unpinned",
    "unpin": "keep a pinned version no longer than any other",
    "gc": "remove versions that nothing keeps, and what only they needed",
    "fsck": "read all that this machine boots from, and tell what is wrong",
    "status": "tell what this machine runs, has staged and can go back to",
    "health": "run this machine's health checks now",
    "etc": "tell what changed in /etc, show the image's files, reset to them",
    "kargs": "list, set and unset this machine's kernel arguments",
    "usr-overlay": "make /usr writable until the next boot",
    "factory-reset": "start with a fresh /etc and /var at the next boot",
    "doctor": "check this machine's tools, and tell what installs missing ones",
    "completion": "print shell completion",
}
_ABOUT = "From a Containerfile to a machine that boots, verifies itself and updates atomically."
_FIRST_STEPS = """\
first steps:
  keelboot doctor
  keelboot base debian:trixie
  keelboot build -t localhost/web:1 .
  keelboot run -p 8080:80 localhost/web:1

`keelboot VERB --help` has examples. Exit codes: docs/exit-codes.md."""
_USAGE = 2
_BUG = 70  # EX_SOFTWARE of sysexits.h
_PLACES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_TWICE = 0.5  # seconds


class Ended(BaseException):
    """A signal asked the process to end; raised so that everything under way is undone first."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Face(NamedTuple):
    """A name that the command goes by, and what differs under it.

    `modules` has verbs whose module has another name, `elsewhere` what to do in place of verbs that it does not have.
    `as_typed` gets a verb and the words after it, and returns those for its parser. A failure ends with `exit_code`, or
    with its own.
    """

    command: str
    verbs: Mapping[str, str]
    version: str
    about: str = _ABOUT
    first_steps: str = _FIRST_STEPS
    modules: Mapping[str, str] = {}
    aliases: Mapping[str, str] = {}
    elsewhere: Mapping[str, str] = {}
    as_typed: Callable[[str, list[str]], list[str]] = lambda _, words: words
    exit_code: int | None = None


KEELBOOT = Face("keelboot", VERBS, f"keelboot {__version__}", aliases={"usroverlay": "usr-overlay"})


def entry() -> NoReturn:
    """Run the command line and exit."""
    sys.exit(main(sys.argv[1:]))


def main(words: Sequence[str], face: Face = KEELBOOT) -> int:
    """Run WORDS and return the exit code."""
    _settle_environment()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup(1) sets it
            signal.signal(number, _end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _Interrupt())
    try:
        code = _run(list(words), face)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"{face.command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Ended as end:
        print(f"{face.command}: ended by {end}", file=sys.stderr)
        return end.exit_code
    except BrokenPipeError:
        # The reader has gone, as in `| head`. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def parser() -> argparse.ArgumentParser:
    """The parser of all verbs at once: for manual pages and completion, never to run one."""
    whole = argparse.ArgumentParser(
        "keelboot", description=_ABOUT, epilog=_FIRST_STEPS, formatter_class=_Formatter, allow_abbrev=False
    )
    whole.add_argument("--version", action="version", version=f"keelboot {__version__}")
    verbs = whole.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        module = _module(name)
        _fill(verbs.add_parser(name, help=summary, **_style(module)), module)  # type: ignore[arg-type]
    return whole


def verb_parser(name: str, face: Face = KEELBOOT) -> argparse.ArgumentParser:
    """The parser of the verb NAME alone."""
    module = _module(name, face)
    own = argparse.ArgumentParser(f"{face.command} {name}", **_style(module, face))  # type: ignore[arg-type]
    return _fill(own, module)


def _run(words: list[str], face: Face) -> int:
    if not words or words[0] in {"-h", "--help", "help"}:
        print(_overview(face))
        return 0 if words else _USAGE
    if words[0] in {"-V", "--version", "version"}:
        print(face.version)
        return 0
    name, rest = face.aliases.get(words[0], words[0]), words[1:]
    if name not in face.verbs:
        return _unknown(name, face)
    return _verb(name, face.as_typed(name, rest), face)


def _verb(name: str, words: list[str], face: Face) -> int:
    from keelboot.cli import registries
    from keelboot.cli.terminal import Terminal

    registries.provide()
    module = _module(name, face)
    split: Callable[[list[str]], tuple[list[str], list[str]]] | None = getattr(module, "split", None)
    own_parser = verb_parser(name, face)
    passed_on: list[str] = []
    if split:
        try:
            words, passed_on = split(words)
        except ValueError as error:
            own_parser.error(str(error))
    arguments = own_parser.parse_args(words)
    if split:
        arguments.passed_on = passed_on
    terminal = Terminal(json_wanted=arguments.json, quiet=arguments.quiet, command=face.command)
    try:
        code: int = module.execute(arguments, terminal)
    except Failure as failure:
        terminal.fail(failure)
        return face.exit_code or failure.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:
        known = as_failure(error)
        if known is None:
            return _bug()
        terminal.fail(known)
        return face.exit_code or known.exit_code
    except Exception:  # noqa: BLE001 - it is shown whole; nothing is dressed up
        return _bug()
    return code


def as_failure(error: OSError) -> Failure | None:
    """What the operating system refused, for the errors that are a user's to mend wherever they come up."""
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "an output"
    why = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return OutOfSpace(
            f"cannot write {where}", why=why, fix="Free some space, or write elsewhere; TMPDIR counts too."
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return NotWritable(f"cannot open {where}", why=why, fix="Name a place that this user may write.")
    if error.errno in _PLACES and error.filename is not None:
        return Failure(f"cannot use {where}", why=why, fix="Name a file or directory that is there and can be read.")
    if error.errno == errno.EIO:
        return Failure(f"cannot read or write {where}", why=why, fix="`dmesg` has what the kernel says of the device.")
    return None


def _bug() -> int:
    import traceback

    traceback.print_exc()
    print(
        f"\nkeelboot: this is a bug of keelboot {__version__}. Please report it, with the lines above and the command.",
        file=sys.stderr,
    )
    return _BUG


def _unknown(name: str, face: Face) -> int:
    from difflib import get_close_matches

    near = get_close_matches(name, face.verbs, 1)
    hint = f"Did you mean `{face.command} {near[0]}`?" if near else f"`{face.command} --help` lists the verbs."
    print(f"{face.command}: there is no verb {name!r}\n{face.elsewhere.get(name, hint)}", file=sys.stderr)
    return _USAGE


def _overview(face: Face) -> str:
    width = max(map(len, face.verbs)) + 2
    verbs = "\n".join(f"  {name:{width}}{summary}" for name, summary in face.verbs.items())
    return f"usage: {face.command} VERB [OPTION]...\n\n{face.about}\n\nverbs:\n{verbs}\n\n{face.first_steps}"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps examples as they were typed."""


def _module(name: str, face: Face = KEELBOOT) -> ModuleType:
    return importlib.import_module(f"keelboot.cli.{face.modules.get(name, name).replace('-', '_')}")


def _style(module: ModuleType, face: Face = KEELBOOT) -> dict[str, object]:
    typed = module.EXAMPLES.replace("keelboot ", f"{face.command} ")
    examples = "\n".join(f"  {line.strip()}" for line in typed.strip().splitlines())
    return {
        "description": f"{module.SUMMARY[:1].upper()}{module.SUMMARY[1:]}.",
        "epilog": f"examples:\n{examples}",
        "formatter_class": _Formatter,
        "allow_abbrev": False,
        # A verb may describe --json or --quiet better than `_fill` does.
        "conflict_handler": "resolve",
    }


def _fill(own: argparse.ArgumentParser, module: ModuleType) -> argparse.ArgumentParser:
    own.add_argument("--json", action="store_true", help="print the result, or the failure, as JSON")
    own.add_argument("-q", "--quiet", action="store_true", help="print only the result")
    module.arguments(own)
    return own


def _end(number: int, _: FrameType | None) -> None:
    # A second signal must not cut the cleaning up short; SIGKILL still does.
    signal.signal(number, signal.SIG_IGN)
    raise Ended(number)


class _Interrupt:
    """Hears an interrupt once where it arrives twice at once, as from timeout(1); a second Ctrl-C later does count."""

    def __init__(self) -> None:
        self._last = -_TWICE

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._last >= _TWICE:
            self._last = now
            signal.default_int_handler(number, frame)


def _settle_environment() -> None:
    """Drop a runtime directory that is someone else's, as `su` leaves it behind: podman refuses to start with it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime is None:
        return
    with suppress(OSError):
        if Path(runtime).stat().st_uid == os.geteuid():
            return
    del os.environ["XDG_RUNTIME_DIR"]


if __name__ == "__main__":
    entry()
