"""What cuts of the power leave is for tests/crash; here is what such a test cannot tell on every filesystem."""

import os
from pathlib import Path

import pytest

from keelboot import durable


def test_a_synced_filesystem_has_its_disk_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT's syncfs(2) leaves what it wrote in the disk's cache, where a cut of the power takes it away."""
    told: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (told.append(os.fstat(fd).st_ino), real(fd)))
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        durable.sync_filesystem(fd)
    finally:
        os.close(fd)
    assert told == [tmp_path.stat().st_ino]
