import os
from pathlib import Path

import pytest

from keelboot.store import kernel_verity
from keelboot.store.naming import name_of


def test_seals_or_says_that_it_cannot(tmp_path: Path) -> None:
    """Where the filesystem has fs-verity, what the kernel measures is the name; elsewhere both calls say so."""
    file = tmp_path / "file"
    file.write_bytes(b"content" * 5000)
    fd = os.open(file, os.O_RDONLY)
    try:
        try:
            assert kernel_verity.measured(fd) is None
        except kernel_verity.Unsupported:
            with pytest.raises(kernel_verity.Unsupported):
                kernel_verity.enable(fd, "sha256")
            return
        kernel_verity.enable(fd, "sha256")
        assert kernel_verity.measured(fd) == name_of(b"content" * 5000, "sha256")
        kernel_verity.enable(fd, "sha256")  # once more changes nothing
    finally:
        os.close(fd)
