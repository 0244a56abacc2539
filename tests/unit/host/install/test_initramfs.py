"""Names in an initramfs: archives in a row, the last one compressed, as dracut makes them."""

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest
import zstandard

from keelboot.host.install.initramfs import programs
from keelboot.image.refusal import Refused


def cpio(*names: str, content: bytes = b"x" * 1001) -> bytes:
    """An archive in the form newc, padded to 512 bytes."""
    data = b""
    for name in (*names, "TRAILER!!!"):
        body = b"" if name == "TRAILER!!!" else content
        encoded = name.encode() + b"\0"
        numbers = [1, 0o100755, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(encoded), 0]
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
        data += head + bytes(-len(head) % 4) + body + bytes(-len(body) % 4)
    return data + bytes(-len(data) % 512)


FIRST, SECOND = cpio("kernel/x86/microcode/AuthenticAMD.bin"), cpio("usr/bin/lvm", "usr/sbin/cryptsetup")


@pytest.mark.parametrize("compressed", [SECOND, gzip.compress(SECOND), zstandard.ZstdCompressor().compress(SECOND)])
@pytest.mark.parametrize("step", [7, 4096, 1 << 20])
def test_all_archives_are_read(compressed: bytes, step: int) -> None:
    whole = FIRST + compressed
    chunks = [whole[at : at + step] for at in range(0, len(whole), step)]
    assert programs(chunks) == {"AuthenticAMD.bin", "lvm", "cryptsetup"}


def test_a_compression_that_is_not_known() -> None:
    assert programs([FIRST + b"\xfd7zXZ\0" + bytes(100)]) is None


def test_nothing() -> None:
    assert programs([]) == frozenset()


@pytest.mark.parametrize(
    "data",
    [
        FIRST[:100],
        FIRST[:-600],
        b"070701" + b"Z" * 104,
        FIRST.replace(b"070701", b"070701" + b"F" * 88, 1),
        cpio("a") + b"070701" + b"0" * 104,
    ],
)
def test_refuses_what_is_none(data: bytes) -> None:
    with pytest.raises(Refused, match="cpio"):
        programs([data])


def test_an_archive_made_by_cpio(tmp_path: Path) -> None:
    if not shutil.which("cpio"):
        pytest.skip("cpio is not installed")
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/mdadm").write_bytes(b"a" * 5)
    made = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc"], cwd=tmp_path, input=b"usr\nusr/bin\nusr/bin/mdadm\n",
        capture_output=True, check=True,
    )  # fmt: skip
    assert programs([made.stdout]) == {"usr", "bin", "mdadm"}
