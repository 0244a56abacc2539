"""keelboot build: podman's build, and then the finish stage that makes the result boot."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keelboot.build.flags import Line
from keelboot.cli import surroundings
from keelboot.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from keelboot.build.engine import Engine
    from keelboot.trust.keyfiles import PrivateKey

SUMMARY = "build a Containerfile into an image that boots"
EXAMPLES = """
keelboot build -t localhost/web:1 .
keelboot build -f Containerfile.edge --build-arg VERSION=2 -t localhost/edge:2 src
keelboot build --kernel cloud -t localhost/web:1 .
keelboot build --from localhost/made-by-podman -t localhost/web:1
keelboot build --no-finish -t localhost/web:plain .
keelboot build -t registry.example.org/os/web:1 --push --sign cosign.key .
"""
_OWN_WITH_VALUE = frozenset({"kernel", "engine", "sign"})
_OWN_SWITCHES = frozenset({"no-finish", "json", "help", "push"})
# What makes something else than one image in the store, so that there would be nothing to finish.
_WITHOUT_IMAGE = ("output", "manifest", "all-platforms")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare keelboot's own options; the others are podman's."""
    parser.usage = "keelboot build [podman build's options] [OPTION]... -t NAME CONTEXT"
    parser.add_argument(
        "context", metavar="CONTEXT", nargs="?", help="the directory that the Containerfile copies from"
    )
    parser.add_argument(
        "-t", "--tag", metavar="NAME", action="append", default=[], help="the image's name; may be repeated"
    )
    parser.add_argument(
        "--from", metavar="IMAGE", dest="base", help="without CONTEXT: only finish IMAGE, which is built"
    )
    parser.add_argument("--no-finish", action="store_true", help="only build, as podman does")
    parser.add_argument(
        "--kernel", metavar="FLAVOUR", default="generic",
        help="generic, cloud (smaller, for virtual machines), or a package's name; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--engine", choices=("podman", "buildah"), help="what builds; default: podman, if it is there")
    parser.add_argument("--push", action="store_true", help="send it to where its names say, as `keelboot push` does")
    parser.add_argument(
        "--sign", metavar="KEY", type=Path, help="with --push: sign it there, with the private key in the file KEY"
    )
    parser.add_argument("--iidfile", metavar="FILE", type=Path, help="where to write the image's id")
    parser.epilog = f"Every other option is passed to `podman build` as it is.\n\n{parser.epilog}"


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell keelboot's words from podman's. Raises ValueError where an option lacks its value."""
    line = Line.parse(words, own=_OWN_WITH_VALUE)
    own: list[str] = []
    for part in line.parts:
        finish_only = part.name == "from" and not line.positional
        if part.name in _OWN_SWITCHES or part.name == "quiet":
            own.append(f"--{part.name}")
        elif part.name in _OWN_WITH_VALUE | {"tag", "iidfile"} or finish_only:
            own.append(f"--{part.name}={part.value}")
    mine = [*_OWN_WITH_VALUE, *_OWN_SWITCHES, "tag", "iidfile"]
    if not line.positional:
        return own, line.without(*mine, "from", "quiet").words()
    return [*own, "--", line.positional[-1]], line.without(*mine).words()


def execute(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Build, finish, name, and print the image's id."""
    from keelboot.build import engine

    _check(arguments)
    ready = _pushes(arguments, terminal)
    told = engine.Told(echo=terminal.echo, note=terminal.note)
    chosen = engine.find(arguments.engine, memory=surroundings.cache() / "isolation.json", told=told)
    if arguments.base:
        built = _stored(chosen, arguments.base)
    else:
        tags = arguments.tag if arguments.no_finish else ()
        built = chosen.build(arguments.passed_on, tags=tags)
    image, finished = built, False
    if not arguments.no_finish:
        image, finished = _finish(chosen, built, arguments, terminal)
    if arguments.iidfile:
        arguments.iidfile.write_text(f"sha256:{image}")
    pushed = [push() for push in ready]
    if terminal.json_wanted:
        more = {"pushed": pushed} if arguments.push else {}
        terminal.json({"image": image, "names": arguments.tag, "finished": finished, "built": built} | more)
    else:
        terminal.out(image)
        for one in pushed:
            by = f", signed by {one['key']}" if one["key"] else ""
            terminal.out(f"pushed {one['name']} {one['digest']}{by}")
    if arguments.tag and not arguments.no_finish:
        terminal.note(f"{arguments.tag[0]} boots. Try: keelboot run {arguments.tag[0]}")
    return 0


def _pushes(arguments: argparse.Namespace, terminal: Terminal) -> "list[Callable[[], dict[str, object]]]":
    """What sends the image to where each of its names says; what can be wrong with that is told before the build."""
    from keelboot.cli.values import BadValue

    if arguments.sign and not arguments.push:
        raise BadValue(
            "cannot sign what is built",
            why="signatures are kept in the registry, beside the image, and it is not pushed",
            fix="Add --push, or push it later with `keelboot push NAME --sign KEY`.",
        )
    if not arguments.push:
        return []
    from keelboot.cli import push

    if not arguments.tag:
        raise BadValue("cannot push what is built", why="it has no name", fix="Name it: -t HOST/NAME:TAG.")
    for name in arguments.tag:
        push.ends(name, None)
    key = None
    if arguments.sign:
        from keelboot.cli import signatures

        key = signatures.private_key(arguments.sign, terminal)
    return [lambda name=name: _push(name, key, terminal) for name in arguments.tag]  # type: ignore[misc]


def _push(name: str, key: "PrivateKey | None", terminal: Terminal) -> dict[str, object]:
    from keelboot.cli import push, registries, sign
    from keelboot.transfer.copying import Wishes, copy
    from keelboot.transfer.known import Known
    from keelboot.trust.publishing import subject

    source, destination = push.ends(name, None)
    known = Known(surroundings.cache() / "transfers.json")
    through = registries.registries()
    try:
        wishes = Wishes(scratch=surroundings.scratch())
        copied = copy(source, destination, through, wishes, known=known, progress=terminal.progress)
        if key:
            sign.sign(subject(through, destination, copied.digest), key, {}, "both", dry_run=False)
    finally:
        through.close()
    return {"name": name, "digest": str(copied.digest), "key": key.public.fingerprint if key else None}


def _finish(engine: "Engine", built: str, arguments: argparse.Namespace, terminal: Terminal) -> tuple[str, bool]:
    """The id of an image that boots, and whether it took a finish stage."""
    from keelboot.build.finish import finishing

    examined = finishing.examine(built, terminal.progress)
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    epoch = int(given) if given.isascii() and given.isdigit() else None
    if not examined.reasons:
        terminal.note("the image boots as it is")
        return finishing.renew(engine, built, examined, arguments.tag, epoch=epoch), False
    terminal.note(f"making the image bootable ({'; '.join(examined.reasons)})")
    image = finishing.finish(engine, built, examined, arguments.tag, kernel=arguments.kernel, epoch=epoch)
    return image, True


def _check(arguments: argparse.Namespace) -> None:
    from keelboot.cli.values import BadValue

    line = Line.parse(arguments.passed_on)
    if not arguments.base and not arguments.context:
        raise BadValue(
            "cannot build", why="no CONTEXT is named", fix="For the directory you are in: `keelboot build -t NAME .`"
        )
    if arguments.base and arguments.no_finish:
        raise BadValue("cannot build", why="--from without CONTEXT only finishes", fix="Leave --no-finish away.")
    if arguments.base and arguments.passed_on:
        raise BadValue(
            "cannot build",
            why=f"--from without CONTEXT builds nothing that {arguments.passed_on[0]} could apply to",
            fix="Name a CONTEXT, or leave that option away.",
        )
    if arguments.no_finish:
        return
    several = any("," in value for value in line.values("platform"))
    for name in [*(name for name in _WITHOUT_IMAGE if line.has(name)), *(["platform"] if several else [])]:
        raise BadValue(
            "cannot build", why=f"--{name} does not make one image that could be finished", fix="Add --no-finish."
        )


def _stored(engine: "Engine", name: str) -> str:
    from keelboot.failure import ImageNotFound

    image = engine.image_id(name.removeprefix("containers-storage:"))
    if image is None:
        raise ImageNotFound(
            f"cannot finish {name}",
            why=f"{engine.program}'s store has no such image",
            fix=f"`{engine.program} images` lists what there is.",
        )
    return image
