"""Reading a whole image once before anything is written over: whether it is sound, boots, and what room it takes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from keelboot.assembly.measured import Measured
from keelboot.assembly.seeded import seeded
from keelboot.assembly.system import System, system_in
from keelboot.composefs import erofs, sealing
from keelboot.disk.contents import Directory as DirectoryEntry
from keelboot.disk.contents import Entry, Sealed, Usage
from keelboot.failure import InvalidImage
from keelboot.host import stage
from keelboot.host.install import configuration
from keelboot.host.install.configuration import Configuration
from keelboot.host.install.plan import Needs
from keelboot.image import layers
from keelboot.image.transports import Image
from keelboot.image.tree import Directory, ObjectId, Regular, resolve, walk
from keelboot.progress import SILENT, Progress

_KEPT: Final = 16384  # bytes: what is read by name (os-release, kargs.d, install/*.toml) is smaller
_RECORD = 1024  # bytes that a layer's record takes for each file: its header, or two
_AGENT = "usr/bin/keelboot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What an image is. AGENT says whether a machine that runs it could upgrade itself."""

    system: System
    manifest_digest: str
    digest: ObjectId
    needs: Needs
    configuration: Configuration
    agent: bool


def _readable(sink: Measured, node: Regular) -> bytes:
    content = sink.read(node)
    if content is None:
        raise InvalidImage(
            "cannot use the image",
            why=f"a configuration file in it has more than {_KEPT} bytes",
            fix="Correct os-release, bootc/kargs.d and bootc/install in /usr/lib of the image.",
        )
    return content


def look(image: Image, progress: Progress = SILENT) -> Look:
    """Read every layer of IMAGE, verifying it. Raises InvalidImage, and CannotFinish where it does not boot here."""
    stage.refuse_unfit(str(image.reference), image.config)
    sink = Measured(kept=_KEPT)
    tree = layers.read_tree(image, sink, progress)
    system = system_in(tree, str(image.reference), image.config, lambda node: _readable(sink, node))
    files = _files(tree, configuration.DIRECTORIES, sink)
    usage = sum(1 for _ in walk(tree))
    with progress.step("Computing the digest"):
        composefs = erofs.image_bytes(sealing.seal(tree), version=1)
    digest = sink.add(len(composefs), [composefs])
    return Look(
        system=system,
        manifest_digest=str(image.manifest_digest),
        digest=digest,
        needs=Needs(
            architecture=system.architecture,
            esp=sum(content.size for content in (system.kernel, system.initramfs, system.loader)),
            store=_usage(usage, sink.sizes),
            var=seeded(tree),
        ),
        configuration=configuration.read(files, system.architecture),
        agent=resolve(tree, _AGENT) is not None,
    )


def _files(tree: Directory, directories: Iterable[str], sink: Measured) -> Mapping[str, bytes]:
    """The regular files in DIRECTORIES by name; of one name, that in the last directory."""
    found = {}
    for path in directories:
        directory = resolve(tree, path)
        for name in directory.children if isinstance(directory, Directory) else ():
            node = resolve(tree, path.encode() + b"/" + name)
            if isinstance(node, Regular):
                found[name.decode(errors="replace")] = _readable(sink, node)
    return found


def _usage(files: int, sizes: Mapping[ObjectId, int]) -> Usage:
    """What the store's filesystem holds of one deployment: contents, layer records, directories."""

    def entries() -> Iterator[Entry]:
        for number in range(256):
            yield DirectoryEntry(path=f"/composefs/objects/{number:02x}".encode())
        yield from Sealed.below(b"/composefs/objects", sizes)

    held = Usage.of(entries())
    return Usage(held.blocks + files * _RECORD // 4096 + 64, held.inodes + 64)
