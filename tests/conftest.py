"""What tests of several packages share: the command line as a user calls it, and small images made on the spot."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from keelboot.host import policies
from keelboot.host.policies import Files

# A shell that starts the tests in the background has Ctrl-C ignored, and every process below inherits that; but some
# tests are about what Ctrl-C does.
signal.signal(signal.SIGINT, signal.default_int_handler)

Keelboot = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def no_policies_of_this_computer() -> Iterator[None]:
    """Machines in directories are not judged by what this computer has in /etc."""
    real = policies.find
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(policies, "find", lambda root=Path("/"): Files() if root == Path("/") else real(root))
        yield


@pytest.fixture(scope="session")
def keelboot() -> Keelboot:
    """Run `keelboot WORDS...` as its own process and return what came of it."""

    def call(
        *words: str | Path,
        timeout: float = 600,
        wrapped_by: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        python: str = sys.executable,
    ) -> subprocess.CompletedProcess[str]:
        argv = [*wrapped_by, python, "-m", "keelboot.cli.main", *map(str, words)]
        source = str(Path(__file__).resolve().parents[1] / "src")
        return subprocess.run(
            argv,
            check=False,
            text=True,
            capture_output=True,
            timeout=timeout,
            input=stdin,
            env={**os.environ, "PYTHONPATH": source, **(env or {})},
        )

    return call


BOOTABLE: Mapping[str, bytes | None] = {  # None is a directory
    "boot": None,
    "etc": None,
    "etc/os-release": b'ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
    "sbin": None,
    "sbin/init": b"#!/bin/true\n" * 100,
    "sysroot": None,
    "usr": None,
    "usr/bin": None,
    "usr/bin/large": bytes(range(256)) * 8000,
    "usr/lib": None,
    "usr/lib/modules": None,
    "usr/lib/modules/6.12.1": None,
    "usr/lib/modules/6.12.1/initramfs.img": b"initramfs" * 5000,
    "usr/lib/modules/6.12.1/vmlinuz": b"kernel" * 9000,
    "usr/lib/systemd": None,
    "usr/lib/systemd/boot": None,
    "usr/lib/systemd/boot/efi": None,
    "usr/lib/systemd/boot/efi/systemd-bootx64.efi": b"loader" * 4000,
    "var": None,
}


@pytest.fixture
def bootable_files() -> dict[str, bytes | None]:
    """The files of a tiny image that follows every convention; nothing in it would run."""
    return dict(BOOTABLE)


@pytest.fixture
def layout(tmp_path: Path) -> Callable[..., Path]:
    """Make an OCI layout with one layer of the given files and return its directory."""

    def make(
        name: str = "layout",
        files: Mapping[str, bytes | None] = BOOTABLE,
        labels: Mapping[str, str] | None = None,
    ) -> Path:
        directory = tmp_path / name
        blobs = directory / "blobs/sha256"
        blobs.mkdir(parents=True)

        def blob(data: bytes, media_type: str) -> dict[str, object]:
            digest = hashlib.sha256(data).hexdigest()
            (blobs / digest).write_bytes(data)
            return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

        layer = _tar(files)
        config = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2025-01-02T03:04:05Z",
            "config": {"Labels": {"containers.bootc": "1"} if labels is None else dict(labels)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [blob(layer, "application/vnd.oci.image.layer.v1.tar")],
        }
        index = {
            "schemaVersion": 2,
            "manifests": [blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")],
        }
        (directory / "index.json").write_text(json.dumps(index))
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        return directory

    return make


def _tar(files: Mapping[str, bytes | None]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mtime = 1700000000
            entry.mode = 0o755
            if content is None:
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()
