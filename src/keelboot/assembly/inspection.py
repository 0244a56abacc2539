"""What an image holds, without writing anything: kernel, distribution, sizes, whether it boots, its digest."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from keelboot.assembly.measured import Measured
from keelboot.composefs.sealing import deployment_digest
from keelboot.composefs.verity import Algorithm
from keelboot.failure import CannotFinish
from keelboot.image import bootable, layers
from keelboot.image.release import Release, read_release
from keelboot.image.transports import Image
from keelboot.image.tree import Directory, Node, Regular, Symlink, walk
from keelboot.progress import SILENT, Progress

_KEPT = 4096  # bytes: files up to this are small enough to keep all of, and os-release is among them


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSize:
    """One layer, lowest first: its blob as stored, and what it expands to is verified by DIFF_ID."""

    digest: str
    diff_id: str
    media_type: str
    size: int  # bytes as stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What `keelboot inspect` tells. `composefs` is None where the tree cannot be sealed."""

    reference: str
    manifest_digest: str
    architecture: str
    created: str
    release: Release
    kernels: Sequence[str]
    bootable: bool
    reasons: Sequence[str]
    composefs: str | None
    layers: Sequence[LayerSize]
    files: int
    directories: int
    symlinks: int
    content_size: int  # bytes of all regular files, each content counted once
    labels: dict[str, str] = field(default_factory=dict)


def inspect(image: Image, progress: Progress = SILENT, *, algorithm: Algorithm = "sha256") -> Inspection:
    """Read every layer of IMAGE, verifying it, and say what it adds up to. Raises InvalidImage.

    ALGORITHM is that of the composefs digest and of the digests of files in it.
    """
    sink = Measured(kept=_KEPT, algorithm=algorithm)
    tree = layers.read_tree(image, sink, progress)
    state = bootable.examine(tree, labels=image.config.labels)
    nodes: dict[int, Node] = {id(node): node for _, node in walk(tree)}
    inline = sum(
        len(node.content) for node in nodes.values() if isinstance(node, Regular) and isinstance(node.content, bytes)
    )
    return Inspection(
        reference=str(image.reference),
        manifest_digest=str(image.manifest_digest),
        architecture=image.config.architecture,
        created=image.config.created or "",
        release=read_release(tree, lambda node: sink.read(node) or b""),
        kernels=state.kernel_versions,
        bootable=not state.reasons,
        reasons=state.reasons,
        composefs=_digest(tree, algorithm),
        layers=[
            LayerSize(
                digest=str(layer.descriptor.digest),
                diff_id=str(layer.diff_id),
                media_type=layer.descriptor.media_type,
                size=layer.descriptor.size,
            )
            for layer in image.layers
        ],
        files=sum(isinstance(node, Regular) for node in nodes.values()),
        directories=sum(isinstance(node, Directory) for node in nodes.values()),
        symlinks=sum(isinstance(node, Symlink) for node in nodes.values()),
        content_size=sum(sink.sizes.values()) + inline,
        labels=dict(image.config.labels),
    )


def _digest(tree: Directory, algorithm: Algorithm) -> str | None:
    try:
        return deployment_digest(tree, algorithm).hex
    except CannotFinish:  # no /usr, /boot or /sysroot: `reasons` says so
        return None
