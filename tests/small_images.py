"""Small images made on the spot, layer by layer, and what a store looks like from outside."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

from keelboot.image.reference import Reference

_OCI = "application/vnd.oci.image."
# Each name has bytes, None for a directory, "-> TARGET" for a symbolic or "= TARGET" for a hard link.
Files = Mapping[str, bytes | str | None]

BASE: Files = {
    "boot": None,
    "boot/dropped": b"not in the deployment" * 9,
    "etc": None,
    "etc/os-release": b"ID=debian\n" * 30,
    "sysroot": None,
    "usr": None,
    "usr/empty": b"",
    "usr/inline": b"i" * 64,
    "usr/just-not-inline": b"j" * 65,
    "usr/large": bytes(range(256)) * 10_000,  # more than is taken at once
    "usr/again": b"j" * 65,
    "usr/link": "-> large",
    "usr/same": "= usr/large",
}
CHANGE: Files = {"usr": None, "usr/.wh.again": b"", "usr/new": b"new" * 3000, "usr/just-not-inline": b"k" * 4096}
OTHER: Files = {"usr": None, "usr/.wh.large": b"", "usr/other": b"other" * 2000}


def archive(files: Files) -> bytes:
    """The layer that adds FILES."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mtime, entry.mode = 1_700_000_000, 0o755
            data = b""
            if content is None:
                entry.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                kind, _, entry.linkname = content.partition(" ")
                entry.type = tarfile.SYMTYPE if kind == "->" else tarfile.LNKTYPE
            else:
                data = content
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def write_layout(
    directory: Path,
    *layers: Files,
    compress: bool = True,
    labels: Mapping[str, str] | None = None,
    created: str | None = None,
) -> Reference:
    """Put the image with LAYERS, lowest first, into DIRECTORY as the only one; return what names it."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    archives = [archive(files) for files in layers]
    config: dict[str, object] = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in archives]},
    }
    if created:
        config["created"] = created
    if labels:
        config["config"] = {"Labels": dict(labels)}
    manifest = {
        "schemaVersion": 2,
        "mediaType": _OCI + "manifest.v1+json",
        "config": blob(json.dumps(config).encode(), _OCI + "config.v1+json"),
        "layers": [
            blob(gzip.compress(one, 1, mtime=0) if compress else one, _OCI + "layer.v1.tar" + "+gzip" * compress)
            for one in archives
        ],
    }
    descriptor = blob(json.dumps(manifest).encode(), _OCI + "manifest.v1+json")
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return Reference.parse(f"oci:{directory}")


def layer_blobs(directory: Path) -> list[Path]:
    """The blobs of the layers of the image in DIRECTORY, lowest first."""
    blobs = directory / "blobs/sha256"
    index = json.loads((directory / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    return [blobs / layer["digest"][7:] for layer in manifest["layers"]]


def relabel(directory: Path, labels: Mapping[str, str]) -> None:
    """Give the image in DIRECTORY these LABELS besides its own; its layers stay as they are."""
    blobs = directory / "blobs/sha256"
    index = json.loads((directory / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_text())
    config["config"]["Labels"] |= labels
    for document, descriptor in ((config, manifest["config"]), (manifest, index["manifests"][0])):
        data = json.dumps(document).encode()
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        descriptor |= {"digest": f"sha256:{digest}", "size": len(data)}
    (directory / "index.json").write_text(json.dumps(index))


def snapshot(store: Path) -> dict[str, str]:
    """Every file and link below STORE and what it is; two stores with equal snapshots are the same."""
    found = {}
    for path in sorted(store.rglob("*")):
        name = str(path.relative_to(store))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"  # noqa: PTH115 - a Path would be tidied
        elif path.is_file():
            found[name] = f"{path.stat().st_mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return found
