"""The finish stage as data: which adapter, what script, and that a builder's clock and umask leave no trace."""

import os
import subprocess
from pathlib import Path

import pytest

from keelboot.build.finish import debian, stage
from keelboot.build.finish.adapter import adapter_for
from keelboot.build.finish.finishing import _Refusals
from keelboot.failure import UnsupportedDistribution
from keelboot.image.release import Release

DEBIAN = Release(id="debian", pretty_name="Debian GNU/Linux 13 (trixie)", version_codename="trixie")


def write(context: Path, *missing: str) -> Path:
    context.mkdir()
    about = {"base": "0123", "adapter": debian, "release": DEBIAN, "machine": "x86_64", "kernel": "generic"}
    return stage.write(context, **about, missing=missing)


def listing(context: Path) -> list[tuple[str, int, float, bytes]]:
    return [
        (
            str(path.relative_to(context)),
            path.lstat().st_mode,
            0 if path.is_symlink() else path.lstat().st_mtime,
            str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(context.rglob("*"))
    ]


@pytest.mark.parametrize(
    "release", [DEBIAN, Release(id="ubuntu", like=("debian",)), Release(id="x", like=("y", "debian"))]
)
def test_debian_and_what_is_like_it(release: Release) -> None:
    assert adapter_for(release) is debian


@pytest.mark.parametrize("release", [Release(), Release(id="fedora"), Release(id="alpine", pretty_name="Alpine")])
def test_others_are_refused_by_name(release: Release) -> None:
    with pytest.raises(UnsupportedDistribution, match=release.pretty_name or release.id or "unknown"):
        adapter_for(release)


def test_the_context_is_the_same_for_every_builder(tmp_path: Path) -> None:
    write(tmp_path / "one")
    before = os.umask(0o077)
    try:
        write(tmp_path / "two")
    finally:
        os.umask(before)
    assert listing(tmp_path / "one") == listing(tmp_path / "two")


def test_the_script_is_posix_shell(tmp_path: Path) -> None:
    write(tmp_path / "context")
    script = tmp_path / "context/payload/usr/lib/keelboot/finish.sh"
    subprocess.run(["sh", "-n", script], check=True)
    assert script.stat().st_mode & 0o111


def test_what_the_image_gets_is_there(tmp_path: Path) -> None:
    containerfile = write(tmp_path / "context")
    payload = containerfile.parent / "payload"
    assert (payload / "usr/lib/dracut/modules.d/90keelboot/mount-root.sh").is_file()
    assert (payload / "usr/lib/systemd/system/keelboot-grow-var.service").is_file()
    assert (payload / "usr/lib/python3/dist-packages/keelboot/cli/internals.py").is_file()
    assert not list(payload.rglob("*.pyc"))
    for launcher in ("usr/bin/keelboot", "usr/lib/keelboot/bootc"):
        assert (payload / launcher).stat().st_mode & 0o111 == 0o111
    assert str((containerfile.parent / "last/etc/resolv.conf").readlink()) == "../run/systemd/resolve/stub-resolv.conf"
    lines = containerfile.read_text().splitlines()
    assert lines[0] == "FROM 0123"
    assert "LABEL containers.bootc=1" in lines


def test_what_a_builds_mounts_left_behind_goes(tmp_path: Path) -> None:
    etc = write(tmp_path / "own").parent / "last/etc"
    assert [path.name for path in etc.iterdir()] == ["resolv.conf"], "the image's own files stay"
    etc = write(tmp_path / "none", stage.HOSTNAME, stage.HOSTS).parent / "last/etc"
    assert (etc / ".wh.hostname").read_bytes() == b""
    assert "127.0.0.1 localhost\n" in (etc / "hosts").read_text()


@pytest.mark.parametrize(
    ("machine", "flavour", "package"),
    [
        ("x86_64", "generic", "linux-image-amd64"),
        ("x86_64", "cloud", "linux-image-cloud-amd64"),
        ("aarch64", "generic", "linux-image-arm64"),
        ("x86_64", "linux-image-rt-amd64", "linux-image-rt-amd64"),
    ],
)
def test_kernel_packages(machine: str, flavour: str, package: str) -> None:
    assert debian.kernel_package(machine, flavour) == package


def test_a_package_name_cannot_become_a_command() -> None:
    assert "kernel='a; reboot'" in debian.install("a; reboot", ["b"])


def test_the_reason_is_heard_in_pieces_of_output() -> None:
    passed: list[bytes] = []
    heard = _Refusals(passed.append)
    heard(b"Setting up\nkeelboot: cannot fin")
    assert heard.reason is None
    heard(b"ish: Linux 6.1 is too old\nexit\n")
    assert heard.reason == "Linux 6.1 is too old"
    assert b"".join(passed).startswith(b"Setting up")
