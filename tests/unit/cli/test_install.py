"""`keelboot install`: what is refused before anything is touched, and how it is told."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Keelboot = Callable[..., subprocess.CompletedProcess[str]]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gets as far as the disk")


def refused(done: subprocess.CompletedProcess[str], code: int, *texts: str) -> None:
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    for text in texts:
        assert text in done.stderr


@pytest.mark.parametrize("way", ["to-disk", "to-filesystem", "to-existing-root"])
def test_help_is_for_everybody(keelboot: Keelboot, way: str) -> None:
    done = keelboot("install", way, "--help")
    assert done.returncode == 0
    for option in ("--image", "--source-imgref", "--target-imgref", "--karg", "--dry-run", "--json", "--progress-fd"):
        assert option in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["to-disk", "/dev/null"],
        ["to-disk", "--image", "web:1"],
        ["to-disk", "--image", "web:1", "--filesystem", "zfs", "/dev/null"],
        ["to-disk", "--image", "web:1", "--bootloader", "grub", "/dev/null"],
        ["to-existing-root", "--image", "web:1", "--replace", "wipe", "/"],
        ["to-disk", "--image", "web:1", "--karg", "a b", "/dev/null"],
        ["to-disk", "--image", "web:1", "--karg", "composefs=0", "/dev/null"],
        ["to-disk", "--image", "web:1", "--root-size", "large", "/dev/null"],
        ["to-disk", "--image", "web:1", "--root-ssh-authorized-keys", "/dev/null", "/dev/null"],
        ["to-disk", "--image", "web:1", "--progress-fd", "77", "/dev/null"],
    ],
)
def test_what_cannot_be_understood(keelboot: Keelboot, words: list[str]) -> None:
    refused(keelboot("install", *words), 2)


@as_root
@pytest.mark.parametrize("path", ["/dev/null", "/etc/passwd", "/nowhere", "/proc"])
def test_what_is_no_disk(keelboot: Keelboot, layout: Callable[..., Path], path: str) -> None:
    refused(keelboot("install", "to-disk", "--image", f"oci:{layout()}", path), 9, path)


@as_root
def test_the_disk_that_runs_this_computer(keelboot: Keelboot, layout: Callable[..., Path]) -> None:
    source = subprocess.run(
        ["findmnt", "--noheadings", "--output", "SOURCE", "/"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not Path(source).is_block_device():
        pytest.skip("the root here is on no block device")
    done = keelboot("install", "to-disk", "--dry-run", "--wipe", "--image", f"oci:{layout()}", source)
    assert done.returncode in (9, 21), done.stderr  # a partition, or a disk that is mounted


def test_a_loop_device_is_not_needed(keelboot: Keelboot, tmp_path: Path) -> None:
    done = keelboot("install", "to-disk", "--via-loopback", "--image", "web:1", tmp_path / "disk.img")
    refused(done, 1, f"keelboot disk web:1 -o {tmp_path}/disk.img")


@as_root
@pytest.mark.parametrize("way", ["to-filesystem", "to-existing-root"])
def test_where_nothing_is_mounted(keelboot: Keelboot, layout: Callable[..., Path], tmp_path: Path, way: str) -> None:
    done = keelboot("install", way, "--json", "--image", f"oci:{layout()}", tmp_path)
    assert done.returncode == 1
    assert "nothing is mounted there" in json.loads(done.stderr)["error"]["why"]
    assert list(tmp_path.glob("*")) == [tmp_path / "layout"]


def test_what_a_computer_without_wishes_asks_for(keelboot: Keelboot) -> None:
    if list(Path("/usr/lib/bootc/install").glob("*")):
        pytest.skip("this computer has wishes")
    done = keelboot("install", "print-configuration", "--all")
    assert (done.returncode, json.loads(done.stdout)) == (0, {})


def test_removing_an_old_system_has_to_be_meant(keelboot: Keelboot) -> None:
    refused(keelboot("install", "remove-old-root"), 1, "--acknowledge-destructive")


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to become somebody else")
def test_an_ordinary_user_is_told(keelboot: Keelboot, layout: Callable[..., Path], tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    probe = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    source = Path(__file__).resolve().parents[3] / "src"
    if subprocess.run([*probe, "test", "-r", source / "keelboot/failure.py"], check=False).returncode:
        pytest.skip("others may not read the checkout")
    done = keelboot(
        "install", "to-disk", "--image", f"oci:{layout()}", "/dev/null", wrapped_by=probe, python="/usr/bin/python3"
    )
    refused(done, 15, "only root")


def test_finishing_a_filesystem(keelboot: Keelboot, tmp_path: Path) -> None:
    for words in (["--dry-run"], []):
        refused(keelboot("install", "finalize", *words, tmp_path / "nowhere"), 1, "No such file or directory")
        refused(keelboot("install", "finalize", *words, "/etc/passwd"), 1, "Not a directory")
    done = keelboot("install", "finalize", "--dry-run", tmp_path)
    assert (done.returncode, done.stdout) == (0, f"would trim and sync the filesystem at {tmp_path}\n")
    assert keelboot("install", "finalize", tmp_path).returncode == 0
