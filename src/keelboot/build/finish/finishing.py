"""From an image as its user built it to one that boots: look at it, pick an adapter, build the stage."""

import datetime as dt
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keelboot.build.engine import Engine, Told
from keelboot.build.finish import stage
from keelboot.build.finish.adapter import adapter_for
from keelboot.build.finish.measuring import measure
from keelboot.build.watch import Echo
from keelboot.failure import BuildFailed, CannotFinish
from keelboot.image import bootable, layers, needs
from keelboot.image.reference import Reference
from keelboot.image.release import Release, read_release
from keelboot.image.transports import open_image
from keelboot.image.tree import External, Node, ObjectId, Regular, resolve
from keelboot.progress import SILENT, Progress

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_REFUSAL = re.compile(rb"^keelboot: cannot finish: (.*)$", re.MULTILINE)
_KEPT = 4096  # bytes; of larger files only the sizes matter here


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What finishing needs to know of an image."""

    release: Release
    architecture: str
    created: str
    reasons: Sequence[str]  # why it does not boot; empty if it does
    missing: Sequence[str] = ()  # of what a build mounts files over: what the image does not have, or has empty
    outdated: bool = False  # whether its label of needs is about other layers: it inherited that


def examine(image: str, progress: Progress = SILENT) -> Examined:
    """Read the image called IMAGE from the user's store. Raises ImageNotFound, InvalidImage."""
    sink = _Counting()
    with open_image(Reference.parse(f"containers-storage:{image}")) as opened:
        tree = layers.read_tree(opened, sink, progress)
        config = opened.config
    return Examined(
        release=read_release(tree, sink.read),
        architecture=config.architecture,
        created=config.created or "",
        reasons=bootable.examine(tree, labels=config.labels).reasons,
        missing=[path for path in (stage.HOSTNAME, stage.HOSTS) if _is_missing(resolve(tree, path, follow=False))],
        outdated=needs.LABEL in config.labels and needs.stated(config) is None,
    )


def _is_missing(node: Node | None) -> bool:
    return node is None or (isinstance(node, Regular) and node.content == b"")


def finish(
    engine: Engine, image: str, examined: Examined, tags: Sequence[str], *, kernel: str, epoch: int | None = None
) -> str:
    """Build the finish stage on IMAGE, label the result with its needs, name it TAGS, and return its id.

    EPOCH becomes every time in the stage's layers (default: when IMAGE was created, so that the same image gives the
    same result and the engine's cache holds). Raises UnsupportedDistribution, CannotFinish, BuildFailed.
    """
    adapter = adapter_for(examined.release)
    name = tags[0] if tags else image[:12]
    if examined.architecture not in _MACHINES:
        raise CannotFinish(
            f"cannot make {name} bootable",
            why=f"no kernel and boot loader are known for the architecture {examined.architecture}",
            fix=f"Build it for one of {', '.join(_MACHINES)}: `--platform linux/{next(iter(_MACHINES))}`.",
        )
    timestamp = _epoch(examined, epoch)
    heard = _Refusals(engine.told.echo)
    listening = replace(engine, told=Told(heard, engine.told.note))
    with tempfile.TemporaryDirectory(prefix="keelboot-finish-") as context:
        containerfile = stage.write(
            Path(context),
            base=image,
            adapter=adapter,
            release=examined.release,
            machine=_MACHINES[examined.architecture],
            kernel=kernel,
            missing=examined.missing,
        )
        try:
            finished = listening.build_stage(containerfile, Path(context), timestamp=timestamp)
        except BuildFailed as error:
            if heard.reason is None:
                raise
            raise CannotFinish(
                f"cannot make {name} bootable",
                why=heard.reason,
                fix="Change the Containerfile so that this holds, and build again.",
            ) from error
    return label(engine, finished, tags, timestamp=timestamp)


def renew(engine: Engine, image: str, examined: Examined, tags: Sequence[str], *, epoch: int | None = None) -> str:
    """Have IMAGE, which boots as it is, say its own needs where it says another's; name it TAGS, and return its id.

    EPOCH is as for `finish`. Raises BuildFailed, and what reading the image raises.
    """
    if examined.outdated:
        return label(engine, image, tags, timestamp=_epoch(examined, epoch))
    engine.tag(image, *tags)
    return image


def label(engine: Engine, image: str, tags: Sequence[str], *, timestamp: int) -> str:
    """IMAGE with a label that says what it needs (docs/formats/needs-label.md), under TAGS; returns the id.

    No layer is added. Raises BuildFailed, and what reading the image raises.
    """
    needed = measure(engine, image)
    if needed is None:  # not what a finish stage leaves; a label that it inherited counts for other layers
        engine.tag(image, *tags)
        return image
    with tempfile.TemporaryDirectory(prefix="keelboot-label-") as context:
        containerfile = Path(context, "Containerfile")
        containerfile.write_text(f'FROM {image}\nLABEL {needs.LABEL}="{needed}"\n')
        # buildah alone would put an empty layer under the label, and both find what they made before only with this.
        return engine.build_stage(containerfile, Path(context), tags, timestamp=timestamp, more=["--layers"])


class _Refusals:
    """Passes a program's output on, and keeps the reason that the stage's script gives when it stops by itself."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._tail = b""
        self.reason: str | None = None

    def __call__(self, data: bytes) -> None:
        self._echo(data)
        self._tail = (self._tail + data)[-8192:]
        found = _REFUSAL.search(self._tail)
        if found:
            self.reason = found[1].decode(errors="replace").strip()


class _Counting:
    """A ContentSink that tells contents apart by a number only, and keeps the bytes of small files."""

    def __init__(self) -> None:
        self._small: dict[ObjectId, bytes] = {}
        self._count = 0

    def add(self, size: int, chunks: Iterable[bytes | memoryview]) -> ObjectId:
        self._count += 1
        name = ObjectId(f"{self._count:064x}")
        if size <= _KEPT:
            self._small[name] = b"".join(chunks)
        else:
            for _ in chunks:
                pass
        return name

    def read(self, node: Regular) -> bytes:
        if isinstance(node.content, External):
            return self._small.get(node.content.object, b"")
        return node.content


def _epoch(examined: Examined, wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    try:
        return int(dt.datetime.fromisoformat(examined.created).timestamp())
    except ValueError:
        return 0
