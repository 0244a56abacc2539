"""podman or buildah: the calling user's own container store, and the only programs that run a Containerfile.

Isolation: the default one first. Where it cannot make a container (no cgroup2, no right to raise limits, no
namespaces), the build is repeated with chroot isolation, which needs none of that, and what worked is remembered for
next time.
"""

import json
import os
import platform
import resource
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keelboot import command
from keelboot.build import diagnosis, driver
from keelboot.build.flags import Line
from keelboot.build.watch import Echo, Ended, watch
from keelboot.durable import replacing
from keelboot.failure import BuildFailed, ImageNotFound, MissingTool, OutOfSpace
from keelboot.image.digest import Digest

PROGRAMS = ("podman", "buildah")
_PROCESSES = 32768
# Rootless or not, chroot isolation has no network of its own to set up; podman wants to hear that it needs none.
_CHROOT = ("--isolation=chroot", "--network=host")


@dataclass(frozen=True, slots=True)
class Told:
    """Who hears what happens: the programs' own output as it comes, and keelboot's remarks."""

    echo: Echo = field(default=lambda _: None)
    note: Callable[[str], None] = field(default=lambda _: None)


@dataclass(frozen=True, slots=True)
class Engine:
    """One of podman and buildah, ready to be called for the calling user's store."""

    program: str
    version: str
    flags: tuple[str, ...] = ()
    memory: Path | None = None  # a file; where it is None, nothing is remembered
    told: Told = field(default_factory=Told)

    def build(self, words: Sequence[str], *, tags: Sequence[str] = ()) -> str:
        """Build as `podman build WORDS` would, context included, and return the id of the image.

        Raises BuildFailed, OutOfSpace, and ValueError where WORDS end in the middle of an option.
        """
        line = Line.parse(words).without("iidfile")
        chosen = line.has("isolation")
        isolation = () if chosen else self._remembered()
        ended, image = self._attempt(line, tags, isolation)
        refused = diagnosis.isolation_refused(ended.output) if ended.status != 0 else None
        if refused and not chosen and not isolation:
            self.told.note(f"{self.program}'s default isolation does not work here ({refused});")
            self.told.note("building again with --isolation=chroot")
            ended, image = self._attempt(line, tags, _CHROOT)
            if ended.status == 0:
                self._remember(_CHROOT)
        if ended.status != 0:
            raise self._failed(ended)
        return image

    def build_stage(
        self, containerfile: Path, context: Path, tags: Sequence[str] = (), *, timestamp: int, more: Sequence[str] = ()
    ) -> str:
        """Build CONTAINERFILE, which is keelboot's own, with every time in the result set to TIMESTAMP (Unix seconds).

        MORE are further flags of `podman build`. Returns the id of the image; raises as `build` does.
        """
        words = [f"--timestamp={timestamp}", *more, f"--file={containerfile}", os.fspath(context)]
        return self.build(words, tags=tags)

    def image_id(self, name: str) -> str | None:
        """The id of the image NAME in the store, 64 hexadecimal digits, or None."""
        argv = self._inspect(name, podman="{{.Id}}", buildah="{{.FromImageID}}")
        found = command.run(argv, purpose=f"look for {name}", accept=(0, 1, 125))
        return found.stdout.decode().strip().removeprefix("sha256:") or None if found.returncode == 0 else None

    def image_exists(self, name: str) -> bool:
        return self.image_id(name) is not None

    def history(self, name: str) -> list[dict[str, object]]:
        """The history entries of NAME's configuration (OCI image specification, config.md), oldest first.

        Raises ImageNotFound.
        """
        entries = self._configured(name, podman="{{json .History}}", buildah=("history",))
        return entries if isinstance(entries, list) else []

    def layers(self, name: str) -> list[Digest]:
        """The DiffIDs of NAME's layers, lowest first. Raises ImageNotFound."""
        found = self._configured(name, podman="{{json .RootFS.Layers}}", buildah=("rootfs", "diff_ids"))
        return [Digest.parse(text) for text in found] if isinstance(found, list) else []

    def tag(self, image: str, *names: str) -> None:
        """Let NAMES mean IMAGE."""
        if names:
            command.run(self._call("tag", image, *names), purpose=f"name the image {', '.join(names)}")

    def pull_layout(self, layout: Path, *names: str) -> str:
        """Take the one image of the OCI layout directory LAYOUT into the store under NAMES, and return its id.

        The directory's name has to be one that an image may have (lower case, digits, single dashes).
        """
        pull = self._call("pull", "--quiet", f"oci:{layout.name}")
        pulled = command.run(pull, purpose="put the image into the store", cwd=layout.parent)
        image = pulled.stdout.decode().split()[-1].removeprefix("sha256:")
        self.tag(image, *names)
        # The engine names it after the directory; that name means nothing once the directory is gone.
        named = f"localhost/{layout.name}:latest"
        remove = ["untag", image, named] if self.program == "podman" else ["rmi", named]
        command.run(self._call(*remove), purpose="tidy up", accept=range(256))
        return image

    def in_store(self, argv: Sequence[str]) -> list[str]:
        """ARGV, to be run where the store's files have their owners: inside the user namespace of an ordinary user."""
        return [*argv] if os.geteuid() == 0 else self._call("unshare", *argv)

    def _call(self, *words: str) -> list[str]:
        return [self.program, *self.flags, *words]

    def _inspect(self, name: str, *, podman: str, buildah: str) -> list[str]:
        if self.program == "podman":
            return self._call("image", "inspect", "--format", podman, name)
        shown = ["--format", buildah] if buildah else []
        return self._call("inspect", "--type", "image", *shown, name)

    def _configured(self, name: str, *, podman: str, buildah: Sequence[str]) -> object:
        """What NAME's configuration has: podman's template for it, and where buildah's JSON has it."""
        argv = self._inspect(name, podman=podman, buildah="")
        found = command.run(argv, purpose=f"look at {name}", accept=(0, 1, 125))
        if found.returncode != 0:
            raise ImageNotFound(
                f"cannot read {name}",
                why=f"{self.program}'s store has no such image",
                fix="`podman images` lists them.",
            )
        read = json.loads(found.stdout)
        if self.program == "podman":
            return read
        read = read["OCIv1"]
        for member in buildah:
            read = read.get(member, {})
        return read

    def _attempt(self, line: Line, tags: Sequence[str], isolation: Sequence[str]) -> tuple[Ended, str]:
        extra = [word for word in isolation if not (word.startswith("--network") and line.has("network", "net"))]
        if isolation and not line.has("ulimit"):
            extra += _own_limits()
        with tempfile.TemporaryDirectory(prefix="keelboot-") as scratch:
            answer = Path(scratch, "image")
            words = [*extra, f"--iidfile={answer}", *(f"--tag={tag}" for tag in tags), *line.words()]
            ended = watch(self._call("build", *words), purpose="build the image", echo=self.told.echo)
            image = answer.read_text().strip().removeprefix("sha256:") if answer.exists() else ""
        return ended, image

    def _failed(self, ended: Ended) -> BuildFailed | OutOfSpace:
        what = "cannot build the image"
        why = diagnosis.last_error(ended.output)
        if diagnosis.no_space(ended.output):
            return OutOfSpace(
                what, why=why, fix=f"Free some space; `{self.program} system df` tells what its store holds."
            )
        base = diagnosis.missing_base(ended.output)
        if base is None:
            return BuildFailed(what, why=why, fix=f"{self.program}'s own output tells more; --quiet hides it.")
        kind, _, _ = base.removeprefix("localhost/").partition(":")
        why = f"{base} is not in {self.program}'s store, and no registry gave it: {why}"
        if kind in {"debian", "ubuntu"}:
            fix = f"`keelboot base {base.removeprefix('localhost/')}` makes it from the distribution's packages."
        else:
            fix = f"`{self.program} pull {base}` must work first; debian and ubuntu come from `keelboot base`."
        return BuildFailed(what, why=why, fix=fix)

    def _situation(self) -> str:
        return f"{self.program} {self.version}, user {os.geteuid()}, Linux {platform.release()}"

    def _answers(self) -> dict[str, list[str]]:
        try:
            known = json.loads(self.memory.read_bytes()) if self.memory else {}
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _remembered(self) -> tuple[str, ...]:
        if self._answers().get(self._situation()) != list(_CHROOT):
            return ()
        self.told.note(f"building with --isolation=chroot: {self.program}'s default isolation did not work here before")
        return _CHROOT

    def _remember(self, isolation: Sequence[str]) -> None:
        if self.memory:
            self.memory.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.memory) as file:
                file.write(json.dumps(self._answers() | {self._situation(): list(isolation)}, indent=1).encode())


def _own_limits() -> list[str]:
    """Limits for the build that this process may set: newer engines ask for more, which takes CAP_SYS_RESOURCE."""
    files, processes = (resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    # podman lowers its own limit of processes to this, and what is lowered stays so.
    processes = _PROCESSES if processes == resource.RLIM_INFINITY else min(processes, _PROCESSES)
    limits = {"nofile": files, "nproc": processes}
    return [f"--ulimit={name}={limit}:{limit}" for name, limit in limits.items() if limit != resource.RLIM_INFINITY]


def find(preferred: str | None = None, *, memory: Path | None = None, told: Told | None = None) -> Engine:
    """The engine to build with: PREFERRED if given, else podman, else buildah. Looks at the user's store once.

    Raises MissingTool.
    """
    told = told or Told()
    program = next((name for name in ([preferred] if preferred else PROGRAMS) if command.find(name)), None)
    if program is None:
        raise MissingTool(
            "cannot build images",
            why=f"{preferred or 'neither podman nor buildah'} is {'not ' if preferred else ''}installed",
            fix="`keelboot doctor` tells what installs it.",
        )
    printed = command.run([program, "--version"], purpose=f"ask {program} for its version").stdout.decode().split()
    version = next((word for word in printed if word[:1].isdigit()), "of unknown version")
    if command.find("podman"):
        driver.settle(user=os.geteuid(), note=told.note)
    flags = driver.flags() if command.find("podman") else ()
    return Engine(program, version, flags, memory, told)
