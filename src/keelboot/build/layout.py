"""An OCI image layout of one image with one layer (OCI image specification, image-layout.md): the same bytes each time.

DIRECTORY/oci-layout               {"imageLayoutVersion": "1.0.0"}
DIRECTORY/index.json               names the manifest
DIRECTORY/blobs/sha256/<digest>    the layer (an uncompressed tar), the configuration, the manifest
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from keelboot.image.digest import Digest

_TYPE = "application/vnd.oci.image"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Description:
    """What the image's configuration says beyond its layer. CREATED is in Unix seconds."""

    architecture: str  # as Go names it
    created: int
    made_by: str
    comment: str
    command: Sequence[str] = ("/bin/bash",)


def write(directory: Path, layer: Path, description: Description) -> Digest:
    """Make DIRECTORY the layout of an image of LAYER, which is moved into it; the digest of its configuration.

    A cut leaves a directory without `index.json`, which nothing takes for a layout.
    """
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    with layer.open("rb") as file:
        layer_digest = hashlib.file_digest(file, "sha256").hexdigest()
    layer.rename(blobs / layer_digest)
    layer_size = (blobs / layer_digest).stat().st_size
    created = datetime.fromtimestamp(description.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    configuration = {
        "created": created,
        "architecture": description.architecture,
        "os": "linux",
        "config": {"Env": [_PATH], "Cmd": [*description.command]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created": created, "created_by": description.made_by, "comment": description.comment}],
    }
    named = _put(blobs, configuration, f"{_TYPE}.config.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPE}.manifest.v1+json",
        "config": named,
        "layers": [{"mediaType": f"{_TYPE}.layer.v1.tar", "digest": f"sha256:{layer_digest}", "size": layer_size}],
    }
    index = {"schemaVersion": 2, "manifests": [_put(blobs, manifest, f"{_TYPE}.manifest.v1+json")]}
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps(index))
    return Digest.parse(str(named["digest"]))


def _put(blobs: Path, document: Mapping[str, object], media_type: str) -> dict[str, object]:
    data = json.dumps(document, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
