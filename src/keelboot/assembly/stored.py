"""An image is read into a store that is made together with its disk: with the records that spare a later pull of it.

What changes in its next version is then all that a machine fetches, from its first upgrade on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keelboot.assembly.record import reference_of
from keelboot.disk.sealed_objects import SealedObjects
from keelboot.image.layers import LayerReader, collect, empty_root, reading_step
from keelboot.image.transports import Image
from keelboot.image.tree import Directory, External, ObjectId
from keelboot.progress import SILENT, Progress
from keelboot.store import names
from keelboot.store.imagerecord import ImageRecord
from keelboot.store.layerrecord import Recorder
from keelboot.store.reading import Recording


@dataclass(frozen=True, slots=True)
class Stored:
    """An image whose contents and layers' records are objects. `layers` are those records, by DiffID."""

    image: Image
    tree: Directory
    layers: Mapping[str, ObjectId]

    def links(self, composefs: External, objects: SealedObjects) -> Mapping[str, ObjectId]:
        """The links of a store that has the image, by path: `images/...`, `layers/...`, `refs/...`.

        COMPOSEFS is the image that boots. Documents and the image's record are added to OBJECTS.
        """
        record = ImageRecord(
            manifest_digest=self.image.manifest_digest,
            config_digest=self.image.manifest.config.digest,
            media_type=self.image.manifest.media_type,
            manifest=_add(objects, self.image.manifest_bytes),
            config=_add(objects, self.image.config_bytes),
            diff_ids=tuple(layer.diff_id for layer in self.image.layers),
            composefs=composefs,
        )
        reference = names.reference_file(reference_of(composefs.object))
        return {
            f"{names.IMAGES}/{composefs.object.hex}": composefs.object,
            **{f"{names.LAYERS}/{diff_id}": name for diff_id, name in self.layers.items()},
            f"{names.REFERENCES}/{reference}": _add(objects, record.encode()).object,
        }


def read(image: Image, objects: SealedObjects, progress: Progress = SILENT) -> Stored:
    """Read all layers of IMAGE into OBJECTS. Raises InvalidImage, MissingTool, OutOfSpace."""
    root, reader, records = empty_root(), LayerReader(image), dict[str, ObjectId]()
    with reading_step(image, progress) as step:
        for number, layer in enumerate(image.layers):
            recorder = Recorder(layer.diff_id)
            with reader.entries(number, step, seen=recorder.seen) as entries:
                collect(entries, Recording(objects, entries, recorder)).apply(root)
            records[str(layer.diff_id)] = _add(objects, b"".join(recorder.finish())).object
    return Stored(image, root, records)


def _add(objects: SealedObjects, content: bytes) -> External:
    return External(objects.add(len(content), [content]), len(content))
