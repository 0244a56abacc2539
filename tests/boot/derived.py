"""Images made from a bootable one by a few files: what an operator's next version is, built in seconds."""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def derive(
    name: str,
    base: str,
    files: Mapping[str, bytes] | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    run: Sequence[str] = (),
    architecture: str = "",
) -> str:
    """Build the image NAME of podman's store: BASE with FILES, LABELS and what the commands RUN do. Returns NAME.

    Files that begin with #! are executable. Without RUN nothing of the image is executed.
    """
    with tempfile.TemporaryDirectory() as directory:
        lines = [f"FROM {base}"]
        for path, content in (files or {}).items():
            own = Path(directory, "tree", path)
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_bytes(content)
            own.chmod(0o755 if content.startswith(b"#!") else 0o644)
        lines += ["COPY tree/ /"] if files else []
        lines += [f"RUN {command}" for command in run]
        lines += [f"LABEL {key}={json.dumps(value)}" for key, value in (labels or {}).items()]
        file = Path(directory, "Containerfile")
        file.write_text("\n".join(lines) + "\n")
        # One layer for all of it, as a version's own files usually are.
        argv = ["podman", "build", "--quiet", "--squash", "--isolation=chroot", "--network=host", "-t", name]
        argv += ["--arch", architecture] if architecture else []
        done = subprocess.run([*argv, "-f", file, directory], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return name


def content_of(image: str, path: str) -> bytes:
    """The bytes of the file at PATH, a pattern of a shell, in IMAGE of podman's store."""
    mounted = subprocess.run(["podman", "image", "mount", image], check=True, capture_output=True, text=True)
    try:
        (file,) = Path(mounted.stdout.strip()).glob(path)
        return file.read_bytes()
    finally:
        subprocess.run(["podman", "image", "unmount", image], check=True, capture_output=True)
