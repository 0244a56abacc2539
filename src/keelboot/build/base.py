"""A base image from a distribution's packages: what `FROM debian:trixie` finds, without a container registry.

mmdebstrap makes the tree; no time in it is later than the suite's publication, and nothing of the machine it was made
on stays in it, so the same packages give the same layer and the same image id, for root and for anyone else.
"""

import hashlib
import json
import os
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from keelboot import command
from keelboot.build import diagnosis, layout, mirror
from keelboot.build.engine import Engine
from keelboot.build.mirror import Source
from keelboot.build.watch import watch
from keelboot.failure import BuildFailed, CommandFailed, MissingTool, NotWritable, OutOfSpace, UnsupportedDistribution

# Raised when the same request would give other bytes than before.
_EDITION = 1
_NAMES_BY_GO = {"armhf": "arm", "i386": "386", "ppc64el": "ppc64le", "mips64el": "mips64le"}
# What tells of the machine the image was made on or of the moment, and what apt and dpkg make again by themselves.
_CLEAN = (
    'rm -rf "$1"/etc/hostname "$1"/etc/resolv.conf "$1"/etc/machine-id "$1"/etc/.pwd.lock; '
    'rm -rf "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*; '
    'rm -rf "$1"/var/cache/debconf/*-old "$1"/var/cache/ldconfig/* "$1"/var/lib/dpkg/*-old "$1"/var/lib/dpkg/lock*; '
    'find "$1"/var/log -type f -delete'
)


@dataclass(frozen=True, slots=True)
class Distribution:
    """What differs between distributions that share dpkg."""

    components: tuple[str, ...]
    keyring: str
    keyring_package: str
    series: str  # the table of its releases in distro-info-data


DISTRIBUTIONS: Mapping[str, Distribution] = {
    "debian": Distribution(
        ("main",),
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
        "/usr/share/distro-info/debian.csv",
    ),
    "ubuntu": Distribution(
        ("main", "universe"),
        "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        "ubuntu-keyring",
        "/usr/share/distro-info/ubuntu.csv",
    ),
}


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: debian:trixie, further packages, and where from (None: this machine's own mirror)."""

    distribution: str
    suite: str
    include: tuple[str, ...] = ()
    variant: str = "minbase"
    mirror: str | None = None

    @property
    def name(self) -> str:
        return f"{self.distribution}:{self.suite}"


@dataclass(frozen=True, slots=True)
class Made:
    """The image: its id, when its suite was published, and whether it was there already."""

    image: str
    published: datetime
    was_there: bool


def parse(name: str) -> tuple[str, str]:
    """Split "debian:trixie".

    Raises UnsupportedDistribution, and ValueError where no suite is named.
    """
    distribution, _, suite = name.removeprefix("localhost/").partition(":")
    if distribution not in DISTRIBUTIONS:
        raise UnsupportedDistribution(
            f"cannot make {name} from packages",
            why=f"{distribution!r} is not one of {', '.join(DISTRIBUTIONS)}",
            fix=f"`podman pull {name}` gets images of other distributions, where a registry has them.",
        )
    if not suite or not set(suite) <= set("abcdefghijklmnopqrstuvwxyz0123456789-."):
        raise ValueError(f"{name!r} names no suite: write {distribution}:SUITE, as in debian:trixie")
    return distribution, suite


def make(
    request: Request,
    names: Sequence[str],
    *,
    engine: Engine,
    scratch: Path,
    refresh: bool,
    stage: Callable[[str], None],
) -> Made:
    """Put the image of REQUEST into the store under NAMES, unless one made from the same request is there.

    Nothing is named before the image is complete; a cut leaves a directory below SCRATCH and nothing else. SCRATCH has
    to be open to all users, like /var/tmp. REFRESH makes it again from the packages of today. Raises MissingTool,
    UnsupportedDistribution, BuildFailed, OutOfSpace and CommandFailed.
    """
    main, companions = _archives(request)
    mark = _mark(request, [main, *companions])
    if not refresh and (known := _known(engine, names, mark)):
        return known
    command.require("mmdebstrap", purpose=f"make {request.name} from packages")
    distribution = DISTRIBUTIONS[request.distribution]
    if not Path(distribution.keyring).exists():
        raise MissingTool(
            f"cannot make {request.name} from packages",
            why=f"{distribution.keyring}, which proves that they are {request.distribution}'s, is not there",
            fix=f"apt-get install {distribution.keyring_package}",
        )
    stage(f"looking at the suite {request.suite}")
    published, sources = _published(request, main, companions, scratch)
    with _workspace(scratch) as work:
        stage(f"making {request.name} from packages")
        tree = work / "layer.tar"
        _bootstrap(request, sources, tree, published, engine=engine)
        stage("putting it into the container store")
        # A name the engine can make one of its own from: see Engine.pull_layout.
        directory = work / f"keelboot-{secrets.token_hex(8)}"
        made_by = f"keelboot base {request.name}" + "".join(f" --include {name}" for name in sorted(request.include))
        layout.write(directory, tree, layout.Description(_architecture(), int(published.timestamp()), made_by, mark))
        return Made(engine.pull_layout(directory, *names), published, was_there=False)


def suites(request: Request, scratch: Path) -> list[str]:
    """The suites that the mirror has, of those this machine has heard of, newest first."""
    table = Path(DISTRIBUTIONS[request.distribution].series)
    if not table.exists():
        return []
    main, _ = _archives(request)
    rows = [row.split(",") for row in table.read_text().splitlines()[1:]]
    newest = [row[2] for row in rows if len(row) > 2 and row[2] != "experimental"][:-8:-1]
    return [series for series in newest if mirror.changed(Source(main.uri, series), scratch)]


@contextmanager
def _workspace(scratch: Path) -> Iterator[Path]:
    """A directory below SCRATCH that subordinate users may enter, as mmdebstrap works as one of them."""
    closed = [path for path in (scratch, *scratch.parents) if not path.stat().st_mode & 0o001]
    if closed and os.geteuid() != 0:
        raise NotWritable(
            f"cannot work in {scratch}",
            why=f"the subordinate users of this user may not enter {closed[-1]}",
            fix="Set TMPDIR to a directory that is open to all, like /var/tmp.",
        )
    work = Path(tempfile.mkdtemp(prefix="keelboot-base-", dir=scratch))
    try:
        work.chmod(0o755)
        yield work
    finally:
        # mmdebstrap takes down its own tree, which may have mounts in it: that is never ours to delete.
        for mine in (*work.glob("keelboot-*"), *work.glob("mmdebstrap.gpghome.*")):
            shutil.rmtree(mine, ignore_errors=True)
        (work / "layer.tar").unlink(missing_ok=True)
        with suppress(OSError):
            work.rmdir()


def _archives(request: Request) -> tuple[Source, list[Source]]:
    if request.mirror:
        return mirror.at(request.mirror, request.suite)
    own_id, own_codename = mirror.release()
    if own_id == request.distribution:
        main, companions = mirror.candidates(request.suite, own_codename, mirror.configured())
        if main:
            return main, companions
    raise CommandFailed(
        f"cannot make {request.name} from packages",
        why=f"apt of this machine has no mirror of {request.distribution}",
        fix=f"Name one: `keelboot base {request.name} --mirror URL`.",
    )


def _published(
    request: Request, main: Source, companions: Sequence[Source], scratch: Path
) -> tuple[datetime, list[Source]]:
    """When the suite was published, and which of its parts exist.

    The companions' dates are left out: they are published daily, mostly without a change to the packages of a base.
    """
    try:
        published = mirror.changed(main, scratch)
        if published is None:
            known = suites(request, scratch)
            raise CommandFailed(
                f"cannot make {request.name} from packages",
                why=f"{main.uri} has no suite {request.suite!r}",
                fix=f"It has: {', '.join(known)}."
                if known
                else "Check the name, or name another mirror with --mirror.",
            )
        there = [source for source in companions if mirror.changed(source, scratch)]
    except ValueError as error:
        raise CommandFailed(
            f"cannot make {request.name} from packages", why=str(error), fix="Name another mirror with --mirror."
        ) from error
    return published, [main, *there]


def _mark(request: Request, sources: Sequence[Source]) -> str:
    """What stands for the request in the image's history: the same for the same request on the same mirror."""
    asked = [
        _EDITION, request.name, sorted(request.include), request.variant, [[s.uri, s.suite] for s in sources],
    ]  # fmt: skip
    return "keelboot.base=" + hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _known(engine: Engine, names: Sequence[str], mark: str) -> Made | None:
    """The image that NAMES all mean, if it was made from the request of MARK and nothing was added to it."""
    images = {engine.image_id(name) for name in names}
    image = images.pop()
    if images or image is None:
        return None
    history = engine.history(image)
    if len(history) == 1 and history[0].get("comment") == mark:
        return Made(image, datetime.fromisoformat(str(history[0]["created"])), was_there=True)
    return None


def _architecture() -> str:
    named = command.run(["dpkg", "--print-architecture"], purpose="ask dpkg for the architecture")
    debian = named.stdout.decode().strip()
    return _NAMES_BY_GO.get(debian, debian)


def _bootstrap(request: Request, sources: Sequence[Source], tree: Path, published: datetime, *, engine: Engine) -> None:
    distribution = DISTRIBUTIONS[request.distribution]
    lines = [source.line(distribution.components, distribution.keyring) for source in sources]
    include = {*request.include}
    if any(source.uri.startswith("https:") for source in sources):
        include.add("ca-certificates")  # apt in the image needs it to reach its sources again
    hooks = [_CLEAN, _sources_hook(lines)]
    options = [f"--aptopt={line}" for line in mirror.proxies()]
    if not mirror.checks_expiry():
        options.append('--aptopt=Acquire::Check-Valid-Until "false"')
        # A build on this image reads the same frozen mirror.
        hooks.append("""echo 'Acquire::Check-Valid-Until "false";' >"$1"/etc/apt/apt.conf.d/90frozen-mirror""")
    argv = [
        "mmdebstrap", f"--variant={request.variant}", "--format=tar", "--skip=output/dev", *options,
        *([f"--include={','.join(sorted(include))}"] if include else []),
        *[f"--customize-hook={hook}" for hook in hooks],
        request.suite, str(tree), *lines,
    ]  # fmt: skip
    epoch = str(int(published.timestamp()))
    ended = watch(
        argv,
        purpose=f"make {request.name} from packages",
        echo=lambda line: None if b"--customize-hook" in line else engine.told.echo(line),
        extra_environment={"SOURCE_DATE_EPOCH": epoch, "TMPDIR": str(tree.parent)},
    )
    if ended.status != 0:
        raise _failed(request, ended.output)


def _sources_hook(lines: Sequence[str]) -> str:
    return f'printf "%s\\n" {" ".join(shlex.quote(line) for line in lines)} >"$1"/etc/apt/sources.list'


def _failed(request: Request, output: str) -> BuildFailed | OutOfSpace:
    what = f"cannot make {request.name} from packages"
    errors = [line for line in output.splitlines() if line.startswith("E: ") and " failed" not in line]
    why = "\n  ".join(errors[:3]) or diagnosis.last_error(output)
    if diagnosis.no_space(output) or "don't have enough free space" in output:
        return OutOfSpace(what, why=why, fix="Free some space, or set TMPDIR to a directory that has some.")
    if "Unable to locate package" in output:
        return BuildFailed(what, why=why, fix=f"Leave it out of --include, or check its name in {request.suite}.")
    if "newuidmap" in output or "/etc/subuid" in output or "unshare" in why:
        return BuildFailed(what, why=why, fix="`keelboot doctor` tells whether this user may have user namespaces.")
    return BuildFailed(what, why=why, fix="mmdebstrap's own output tells more; --quiet hides it.")
