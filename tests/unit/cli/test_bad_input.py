"""What a user can do wrong: each is told what, why and what to do, with its exit code, and leaves nothing behind."""

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Keelboot = Callable[..., subprocess.CompletedProcess[str]]
Layout = Callable[..., Path]
Files = dict[str, bytes | None]


def refused(done: subprocess.CompletedProcess[str], code: int, *texts: str) -> None:
    """Check that the failure has CODE, its three parts with TEXTS in them, and no traceback."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    told = done.stderr[done.stderr.rindex("keelboot: ") :]
    what, _, why = told.splitlines()[0].removeprefix("keelboot: ").partition(": ")
    assert what
    assert why
    assert told.strip().count("\n") >= 1, f"it does not say what to do: {told}"
    for text in texts:
        assert text in told


def listing(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty directory for what must not be left there."""
    directory = tmp_path / "out"
    directory.mkdir()
    return directory


def test_missing_image(keelboot: Keelboot, tmp_path: Path, out: Path) -> None:
    refused(keelboot("disk", f"oci:{tmp_path}/nothing", "-o", out / "x.img"), 4, "nothing")
    assert listing(out) == []


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_broken_archive(keelboot: Keelboot, tmp_path: Path, out: Path, transport: str) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(os.urandom(20000))
    refused(keelboot("disk", f"{transport}:{archive}", "-o", out / "x.img"), 5, "image.tar")
    assert listing(out) == []


def test_truncated_archive(keelboot: Keelboot, layout: Layout, tmp_path: Path, out: Path) -> None:
    archive = tmp_path / "image.tar"
    subprocess.run(["tar", "-C", layout(), "-cf", archive, "."], check=True)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    refused(keelboot("disk", f"oci-archive:{archive}", "-o", out / "x.img"), 5)
    assert listing(out) == []


def test_not_an_image(keelboot: Keelboot, tmp_path: Path, out: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/file").write_text("hello")
    refused(keelboot("disk", f"oci:{tmp_path}/plain", "-o", out / "x.img"), 5)
    refused(keelboot("inspect", tmp_path / "plain"), 1, f"oci:{tmp_path}/plain")
    assert listing(out) == []


def test_flipped_bit_in_a_layer(keelboot: Keelboot, layout: Layout, out: Path) -> None:
    directory = layout()
    largest = max((directory / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    refused(keelboot("disk", f"oci:{directory}", "-o", out / "x.img"), 5)
    assert listing(out) == []


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("sbin/init", "init"),
        ("usr/lib/modules/6.12.1/vmlinuz", "kernel"),
        ("usr/lib/modules/6.12.1/initramfs.img", "initramfs"),
        ("sysroot", "/sysroot"),
    ],
)
def test_image_that_does_not_boot(
    keelboot: Keelboot, layout: Layout, bootable_files: Files, out: Path, gone: str, said: str
) -> None:
    del bootable_files[gone]
    directory = layout(files=bootable_files)
    refused(keelboot("disk", f"oci:{directory}", "-o", out / "x.img"), 6, said, "keelboot build --from")
    told = json.loads(keelboot("inspect", "--json", f"oci:{directory}").stdout)
    assert told["bootable"] is False
    assert any(said in reason for reason in told["reasons"])
    assert listing(out) == []


def test_image_without_a_boot_loader(keelboot: Keelboot, layout: Layout, bootable_files: Files, out: Path) -> None:
    del bootable_files["usr/lib/systemd/boot/efi/systemd-bootx64.efi"]
    refused(keelboot("disk", f"oci:{layout(files=bootable_files)}", "-o", out / "x.img"), 6, "systemd-boot")


def test_disk_too_small_names_the_size_that_is_enough(keelboot: Keelboot, layout: Layout, out: Path) -> None:
    image = f"oci:{layout()}"
    done = keelboot("disk", image, "-o", out / "x.img", "--size", "100M")
    refused(done, 8, "--size ")
    enough = done.stderr.rpartition("--size ")[2].split()[0].strip("`.,")
    enough = enough.removesuffix("`")
    assert listing(out) == []
    assert keelboot("disk", image, "-o", out / "x.img", "--size", enough).returncode == 0


def test_output_not_writable(keelboot: Keelboot, layout: Layout, tmp_path: Path) -> None:
    image = f"oci:{layout()}"
    refused(keelboot("disk", image, "-o", tmp_path / "no/such/x.img"), 9, "x.img")
    refused(keelboot("disk", image, "-o", tmp_path), 9)
    refused(keelboot("disk", image, "-o", "/proc/x.img"), 9)


def test_an_existing_file_is_kept_without_force(keelboot: Keelboot, layout: Layout, out: Path) -> None:
    (out / "x.img").write_text("precious")
    image = f"oci:{layout()}"
    refused(keelboot("disk", image, "-o", out / "x.img"), 9, "--force")
    assert (out / "x.img").read_text() == "precious"
    assert keelboot("disk", image, "-o", out / "x.img", "--force").returncode == 0
    assert listing(out) == ["x.img"]


def test_no_space_left(keelboot: Keelboot, layout: Layout, bootable_files: Files, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("user namespaces are not available")
    bootable_files["usr/bin/incompressible"] = os.urandom(6_000_000)
    image = f"oci:{layout(files=bootable_files)}"
    small = tmp_path / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=4M small "$0" && shift 0 && "$@"; code=$?; ls -A "$0" >&2; exit $code'
    done = keelboot("disk", image, "-o", small / "x.img", wrapped_by=["unshare", "-rm", "sh", "-c", script, str(small)])
    refused(done, 8, "full")
    assert done.stderr.strip().splitlines()[-1].startswith(("Make room", "Free")), "something was left behind"


def test_missing_tool(keelboot: Keelboot, layout: Layout, out: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    done = keelboot("disk", f"oci:{layout()}", "-o", out / "x.img", env={"PATH": str(bare)})
    refused(done, 3, "keelboot doctor")
    assert listing(out) == []


def test_port_in_use(keelboot: Keelboot, layout: Layout, out: Path) -> None:
    disk = out / "x.img"
    assert keelboot("disk", f"oci:{layout()}", "-o", disk).returncode == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(keelboot("run", "-p", f"{port}:80", disk), 10, str(port))
    assert listing(out) == ["x.img"]


@pytest.mark.parametrize(
    "words",
    [
        ("--size", "big"),
        ("--size", "-1G"),
        ("--karg", "composefs=00"),
        ("--karg", "a b"),
        ("--ssh-key", "/nonexistent"),
        ("--ssh-key", "/etc/hostname"),
        ("--format", "vdi"),
    ],
)
def test_values_that_cannot_be_used(keelboot: Keelboot, layout: Layout, out: Path, words: tuple[str, str]) -> None:
    done = keelboot("disk", f"oci:{layout()}", "-o", out / "x.img", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert listing(out) == []


def test_a_private_key_is_not_put_on_a_disk(keelboot: Keelboot, layout: Layout, out: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    refused(keelboot("disk", f"oci:{layout()}", "-o", out / "x.img", "--ssh-key", key), 2, "private", "key.pub")
    assert listing(out) == []


def test_registry_that_nobody_runs(keelboot: Keelboot, out: Path) -> None:
    done = keelboot("disk", "docker://127.0.0.1:1/web:1", "-o", out / "x.img")
    refused(done, 24, "http://127.0.0.1:1", "Connection refused", "proxy settings")
    assert listing(out) == []


def test_failures_are_json_where_a_machine_reads(keelboot: Keelboot, tmp_path: Path) -> None:
    done = keelboot("inspect", "--json", f"oci:{tmp_path}/nothing")
    assert done.returncode == 4
    error = json.loads(done.stderr)["error"]
    assert error["class"] == "ImageNotFound"
    assert all(error[part] for part in ("what", "why", "fix"))
