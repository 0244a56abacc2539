"""What an image holds, found out before anything of it is in the store: its layers are read, and nothing is kept."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from keelboot.image.layers import LayerReader, collect, empty_root
from keelboot.image.needs import Contents
from keelboot.image.opened import Image
from keelboot.image.refusal import Refused
from keelboot.image.tree import Directory, External
from keelboot.progress import SILENT, Progress
from keelboot.store.reading import whole_layer
from keelboot.store.repository import Repository


@dataclass(frozen=True, slots=True)
class Survey:
    """The tree of an image. Contents of layers that were read are known to `sha256`, in hex, others to the store."""

    tree: Directory
    sha256: Callable[[External], str]


def survey(
    repository: Repository,
    image: Image,
    sha256: Callable[[External], str],
    *,
    jobs: int = 2,
    progress: Progress = SILENT,
) -> Survey:
    """Look at IMAGE; layers with a record in REPOSITORY are not read, and SHA256 tells of their contents, in hex.

    JOBS is 1 for no other thread. Raises InvalidImage and MissingTool.
    """
    root, contents = empty_root(), Contents()
    reader = LayerReader(image, jobs=jobs)
    known = [whole_layer(repository, layer.diff_id) for layer in image.layers]
    sizes = [0 if found else layer.descriptor.size for found, layer in zip(known, image.layers, strict=True)]
    with progress.step("Measuring layers", total=sum(sizes)) as step:
        for number, found in enumerate(known):
            changes = None
            if found:
                try:
                    changes, left = found[1].changes(reader.limits.layers)
                except Refused:  # or over the limits; reading the layer tells which
                    pass
                else:
                    reader.limits = replace(reader.limits, layers=left)
            if changes is None:
                with reader.entries(number, step) as entries:
                    changes = collect(entries, contents)
            changes.apply(root)

    def told(content: External) -> str:
        return contents.sha256(content) if content.object in contents else sha256(content)

    return Survey(root, told)
