"""The images that are measured, made once and kept: all of them layouts (`oci:`) with gzip layers.

.cache/bench/ID/reference     the image of `make demo`, as the user's podman has it
.cache/bench/ID/changed       the same image with one small layer more at its end changed
.cache/bench/ID/plan.json     where contents lie in its layers, for the floor
.cache/bench/large-BYTES      one layer of a few large files
.cache/bench/small-FILES      one layer of many small files
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

from isal import igzip
from sampling import told

from keelboot import command
from keelboot.failure import Failure
from keelboot.image import layers
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.progress import SILENT

TAG = "1"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_SLOT = 128 << 10  # of a large file
_RANDOM = 4096  # of a slot; the rest repeats it, so that it packs well and is not all alike
_PER_DIRECTORY = 200


@dataclass(frozen=True, slots=True)
class Layout:
    """An image layout in `path`, which has one image with the tag `1`."""

    path: Path

    def __str__(self) -> str:
        return f"oci:{self.path}:{TAG}"

    @property
    def blobs(self) -> list[tuple[Path, int]]:
        """The layers' files, lowest first, with their sizes in bytes."""
        return [(self._blob(layer), layer["size"]) for layer in self.manifest["layers"]]

    @property
    def manifest(self) -> dict[str, Any]:
        """The image's manifest."""
        index = json.loads((self.path / "index.json").read_bytes())
        manifest: dict[str, Any] = json.loads(self._blob(index["manifests"][0]).read_bytes())
        return manifest

    @property
    def config(self) -> dict[str, Any]:
        """The image's config."""
        config: dict[str, Any] = json.loads(self._blob(self.manifest["config"]).read_bytes())
        return config

    def _blob(self, descriptor: dict[str, Any]) -> Path:
        digest: str = descriptor["digest"]
        return self.path / "blobs" / "sha256" / digest.removeprefix("sha256:")


def warm(layout: Layout) -> None:
    """Have all of LAYOUT in the page cache."""
    for path in layout.path.rglob("*"):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass


def reference(name: str, cache: Path) -> Layout:
    """The image NAME of the user's podman. Raises Failure where there is none, MissingTool and CommandFailed."""
    shown = command.run(
        ["podman", "image", "inspect", "--format", "{{.Id}}", name], purpose="find the image", accept=(0, 125)
    )
    if shown.returncode:
        raise Failure(f"cannot measure with {name}", why="podman has no such image", fix="`make demo` builds it.")
    identity = shown.stdout.decode().strip()[:16]
    with _made(cache / identity / "reference") as draft:
        if draft:
            told(f"copying {name}")
            source, target = f"containers-storage:{name}", f"oci:{draft}:{TAG}"
            words = ["skopeo", "copy", "--quiet", "--dest-compress-format", "gzip", source, target]
            command.run(words, purpose=f"copy {name}")
    return Layout(cache / identity / "reference")


def changed(original: Layout) -> Layout:
    """ORIGINAL with another last layer: the smallest change that a user makes."""
    path = original.path.parent / "changed"
    with _made(path) as draft:
        if draft:
            shutil.copytree(original.path, draft, copy_function=os.link, dirs_exist_ok=True)

            def page(archive: tarfile.TarFile) -> None:
                _add(archive, "var/changed.html", b"<h1>This page was changed.</h1>\n" * 10)

            layer, diff_id = _layer(draft, page)
            manifest, config = original.manifest, original.config
            manifest["layers"][-1] = layer
            config["rootfs"]["diff_ids"][-1] = diff_id
            _finish(draft, manifest, config)
    return Layout(path)


def plan(original: Layout) -> Path:
    """The file that tells the floor where contents lie in ORIGINAL's layers, and which come for the first time."""
    path = original.path.parent / "plan.json"
    if path.exists():
        return path
    told("looking where contents lie")
    found, seen = [], set()
    with open_image(Reference.parse(str(original))) as image:
        reader = layers.LayerReader(image)
        for number, (blob, _) in enumerate(original.blobs):
            contents = []
            with SILENT.step("") as step, reader.entries(number, step) as entries:
                for entry, content in entries:
                    if entry.size > layers.INLINE_MAX:
                        position = entries.position
                        digest = hashlib.sha256(b"".join(content)).digest()
                        contents.append((position, entry.size, digest not in seen))
                        seen.add(digest)
            found.append((str(blob), contents))
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(found), encoding="utf-8")
    draft.rename(path)
    return path


def large(size: int, cache: Path) -> Layout:
    """One layer of SIZE bytes in four files, the first of which is half of it."""
    path = cache / f"large-{size}"

    def fill(archive: tarfile.TarFile) -> None:
        random = Random(size)
        for number, part in enumerate((2, 4, 8, 8)):
            told(f"making a layer of {size >> 20} MiB, file {number + 1} of 4")
            _add(archive, f"usr/large{number}", size // part, _Repeating(random))

    return _generated(path, fill)


def small(files: int, cache: Path) -> Layout:
    """One layer of FILES different files of 100 to 300 bytes."""
    path = cache / f"small-{files}"

    def fill(archive: tarfile.TarFile) -> None:
        random = Random(files)
        told(f"making a layer of {files} files")
        for number in range(files):
            if number % _PER_DIRECTORY == 0:
                _add_directory(archive, f"usr/{number // _PER_DIRECTORY}")
            content = f"{number}\n".encode() * 100
            name = f"usr/{number // _PER_DIRECTORY}/file-{number}.conf"
            _add(archive, name, content[: random.randrange(100, 300)] + b"%d" % number)

    return _generated(path, fill)


class _Repeating(io.RawIOBase):
    """Endless bytes: few of them random, and no slot like another."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random
        self._slot = b""

    def read(self, size: int = -1) -> bytes:
        if not self._slot:
            self._slot = self._random.randbytes(_RANDOM) * (_SLOT // _RANDOM)
        taken, self._slot = self._slot[:size], self._slot[size:]
        return taken


def _add(archive: tarfile.TarFile, name: str, content: bytes | int, source: io.RawIOBase | None = None) -> None:
    """Add a file: its CONTENT, or as many bytes of SOURCE."""
    header = tarfile.TarInfo(name)
    if isinstance(content, bytes):
        header.size = len(content)
        archive.addfile(header, io.BytesIO(content))
    else:
        header.size = content
        archive.addfile(header, source)


def _add_directory(archive: tarfile.TarFile, name: str) -> None:
    header = tarfile.TarInfo(name)
    header.type, header.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(header)


def _generated(path: Path, fill: Callable[[tarfile.TarFile], None]) -> Layout:
    with _made(path) as draft:
        if draft:

            def whole(archive: tarfile.TarFile) -> None:
                for name in ("usr", "boot", "sysroot"):  # what an image needs to be sealed
                    _add_directory(archive, name)
                fill(archive)

            (draft / "blobs" / "sha256").mkdir(parents=True)
            (draft / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="ascii")
            layer, diff_id = _layer(draft, whole)
            rootfs = {"type": "layers", "diff_ids": [diff_id]}
            config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
            manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "layers": [layer]}
            _finish(draft, manifest, config)
    return Layout(path)


@contextmanager
def _made(path: Path) -> Iterator[Path | None]:
    """A directory that becomes PATH once it is complete; None where PATH is there already."""
    if path.exists():
        yield None
        return
    draft = path.with_name(f"{path.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    yield draft
    draft.rename(path)


def _layer(layout: Path, fill: Callable[[tarfile.TarFile], None]) -> tuple[dict[str, Any], str]:
    """Add a layer that FILL fills: its descriptor and its DiffID."""
    draft = layout / "layer"
    with open(draft, "wb") as file:
        packed = _Hashing(file)
        with igzip.open(packed, "wb", compresslevel=1) as gzip:  # type: ignore[no-untyped-call]
            expanded = _Hashing(gzip)
            with tarfile.open(fileobj=expanded, mode="w|", format=tarfile.GNU_FORMAT) as archive:
                fill(archive)
    digest = packed.hash.hexdigest()
    draft.rename(layout / "blobs" / "sha256" / digest)
    return _descriptor(_LAYER, digest, packed.size), f"sha256:{expanded.hash.hexdigest()}"


class _Hashing(io.RawIOBase):
    """Passes bytes on and remembers their digest and number."""

    def __init__(self, target: BinaryIO | io.BufferedIOBase) -> None:
        super().__init__()
        self._target = target
        self.hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        self.hash.update(data)
        self.size += len(data)
        self._target.write(data)
        return len(data)


def _finish(layout: Path, manifest: dict[str, Any], config: dict[str, Any]) -> None:
    """Write CONFIG, MANIFEST with it, and the index that names it."""
    manifest["config"] = _document(layout, _CONFIG, config)
    entry = _document(layout, _MANIFEST, manifest) | {"annotations": {"org.opencontainers.image.ref.name": TAG}}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]})
    (layout / "index.json").unlink(missing_ok=True)
    (layout / "index.json").write_text(index, encoding="ascii")


def _document(layout: Path, media_type: str, value: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(value).encode()
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    return _descriptor(media_type, digest, len(data))


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}
