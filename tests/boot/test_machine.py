"""The example as a machine: it serves, is read-only and verified, keeps what it should, and refuses what is not its.

One disk, two boots: in the first everything is asked and something is written; before the second, one object on the
disk is damaged. A third machine, whose image was swapped, must not come up at all.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boot.conftest import EXAMPLE, Built
from boot.guest import Guest
from boot.partitions import first_block, partitions
from keelboot.disk.sealed_objects import SealedObjects

pytestmark = pytest.mark.machine

Keelboot = Callable[..., subprocess.CompletedProcess[str]]

VICTIM = "/usr/share/common-licenses/GPL-3"  # nobody reads it on the way up
GIB = 1 << 30


@pytest.fixture(scope="module")
def own_disk(disk: Path, workspace: Path) -> Iterator[Path]:
    """A copy that the machine may write to, on a medium 1 GiB larger than the disk was made for."""
    copy = workspace / "own.img"
    subprocess.run(["cp", "--sparse=always", disk, copy], check=True)
    os.truncate(copy, copy.stat().st_size + GIB)
    yield copy
    copy.unlink()


@pytest.fixture(scope="module")
def first(own_disk: Path, workspace: Path) -> dict[str, tuple[int, str]]:
    """Every answer of the first boot, by name."""
    questions = {
        "state": "systemctl is-system-running",
        "failed": "systemctl list-units --failed --plain --no-legend",
        "services": "systemctl is-active nginx ssh",
        "root": "grep ' / ' /proc/mounts | tail -n 1",
        "etc": "grep ' /etc ' /proc/mounts",
        "var": "findmnt -no SOURCE,FSTYPE,OPTIONS /var",
        "var size": "stat -f -c '%b %S' /var | { read b s; echo $((b * s)); }",
        "sysroot": "findmnt -no OPTIONS /sysroot",
        "command line": "cat /proc/cmdline",
        "links": "for link in /home /root /srv /usr/local; do readlink -f $link; done",
        "boot": "ls -A /boot",
        "kernels": "ls /usr/lib/modules/*/vmlinuz /usr/lib/modules/*/initramfs.img",
        "write usr": "touch /usr/bin/x",
        "write root": "touch /x",
        "write sysroot": "touch /sysroot/x",
        "remount": "mount -o remount,rw / && touch /usr/x",
        "write etc": "echo mine >/etc/mine && echo '# changed' >>/etc/nginx/nginx.conf && rm /etc/motd",
        "write var": "for d in /var/lib /root /usr/local/bin; do echo mine >$d/mine || exit; done; mkdir /srv/mine",
        "machine id": "cat /etc/machine-id",
        "drift": "mount -o remount,bind,rw /sysroot && cd /sysroot/state/deploy/*/etc/upper && find . -name mine",
        "victim": f"fsverity digest --compact {VICTIM}",
        "victim readable": f"sha256sum <{VICTIM}",
        "packages": "dpkg-query -W -f '${Status}\\n' nginx linux-image-amd64",
        "name resolution": "readlink -f /etc/resolv.conf && systemctl is-active systemd-resolved",
        "names": "stat -c %a /etc/hosts && head -n 1 /etc/hosts && getent hosts localhost && ls /etc/hostname",
        "consoles": "cat /sys/class/tty/console/active; systemctl is-active getty@tty1 serial-getty@ttyS0; ls /dev/fb0",
        "host keys": "ls /etc/ssh/ssh_host_*_key",
        "complaints": "journalctl -b -p err --no-pager -o cat",
    }
    with Guest(own_disk, "--persist", log=workspace / "first.log") as guest:
        answers = {name: guest.ask(command) for name, command in questions.items()}
        answers["page"] = (0, guest.page())
    return answers


@pytest.fixture(scope="module")
def second(first: dict[str, tuple[int, str]], own_disk: Path, workspace: Path) -> dict[str, tuple[int, str]]:
    """The answers after a reboot, with one flipped bit in an object."""
    digest = first["victim"][1]
    store = partitions(own_disk)["keelboot-store"]
    with own_disk.open("r+b") as file:
        file.seek(first_block(store, f"/composefs/objects/{digest[:2]}/{digest[2:]}") + 1000)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    questions = {
        "state": "systemctl is-system-running",
        "etc": "cat /etc/mine && tail -n 1 /etc/nginx/nginx.conf && test ! -e /etc/motd",
        "var": "cat /var/lib/mine /root/mine /usr/local/bin/mine && test -d /srv/mine",
        "machine id": "cat /etc/machine-id",
        "victim": f"cat {VICTIM} >/dev/null",
        "others": "cat /usr/share/common-licenses/GPL-2 >/dev/null",
        "kernel says": "journalctl -k -b --no-pager -o cat | grep -i 'fs-verity'",
    }
    with Guest(own_disk, "--persist", log=workspace / "second.log") as guest:
        return {name: guest.ask(command) for name, command in questions.items()}


def test_everything_runs(first: dict[str, tuple[int, str]]) -> None:
    assert first["state"] == (0, "running"), first["failed"]
    assert first["failed"] == (0, "")
    assert first["services"] == (0, "active\nactive")


def test_the_page_is_served(first: dict[str, tuple[int, str]]) -> None:
    assert first["page"][1] == (EXAMPLE / "index.html").read_text()


def test_the_booted_digest_is_the_one_inspect_printed(first: dict[str, tuple[int, str]], built: Built) -> None:
    assert first["root"][1].startswith(f"composefs:{built.digest} / overlay ro,")
    assert first["command line"][1].count("composefs=") == 1
    assert f"composefs={built.digest}" in first["command line"][1].split()


def test_the_root_is_verified_and_read_only(first: dict[str, tuple[int, str]]) -> None:
    assert "verity=require" in first["root"][1]
    assert "ro" in first["sysroot"][1].split(",")
    for place in ("usr", "root", "sysroot"):
        status, said = first[f"write {place}"]
        assert status == 1
        assert "Read-only file system" in said
    assert first["remount"][0] != 0, "the root became writable"


def test_etc_is_an_overlay_and_drift_is_a_directory(first: dict[str, tuple[int, str]], built: Built) -> None:
    assert f"upperdir=/sysroot/state/deploy/{built.digest}/etc/upper" in first["etc"][1]
    assert first["write etc"] == (0, "")
    assert first["drift"] == (0, "./mine")


def test_var_is_a_partition_that_grew(first: dict[str, tuple[int, str]]) -> None:
    source, kind, options = first["var"][1].split()
    assert source.startswith("/dev/vda")
    assert kind == "ext4"
    assert "rw" in options.split(",")
    assert int(first["var size"][1]) > 1.9 * GIB
    assert first["links"][1].split() == ["/var/home", "/var/roothome", "/var/srv", "/var/usrlocal"]


def test_conventions_hold_on_the_machine(first: dict[str, tuple[int, str]]) -> None:
    assert first["boot"] == (0, "")
    assert len(first["kernels"][1].split()) == 2
    assert first["packages"] == (0, "install ok installed\ninstall ok installed")
    assert first["name resolution"] == (0, "/run/systemd/resolve/stub-resolv.conf\nactive")
    assert len(first["machine id"][1]) == 32
    assert len(first["host keys"][1].split()) >= 2


def test_a_build_leaves_no_empty_files_in_etc(first: dict[str, tuple[int, str]]) -> None:
    lines = first["names"][1].splitlines()
    assert lines[:2] == ["644", "127.0.0.1 localhost"]
    assert lines[2].endswith("localhost ip6-localhost ip6-loopback")
    assert "No such file" in lines[3]


def test_nothing_of_ours_complains(first: dict[str, tuple[int, str]]) -> None:
    status, said = first["complaints"]
    assert status == 0
    assert [line for line in said.splitlines() if "keelboot" in line or "tmpfiles" in line] == []


def test_serial_console_and_display_work(first: dict[str, tuple[int, str]]) -> None:
    assert first["consoles"] == (0, "tty0 ttyS0\nactive\nactive\n/dev/fb0")


def test_what_was_written_survives_a_reboot(
    first: dict[str, tuple[int, str]], second: dict[str, tuple[int, str]]
) -> None:
    assert first["write var"] == (0, "")
    assert second["state"] == (0, "running")
    assert second["etc"] == (0, "mine\n# changed")
    assert second["var"] == (0, "mine\nmine\nmine")
    assert second["machine id"] == first["machine id"]


def test_a_damaged_object_is_an_error_and_never_wrong_bytes(
    first: dict[str, tuple[int, str]], second: dict[str, tuple[int, str]]
) -> None:
    assert first["victim readable"][0] == 0
    status, said = second["victim"]
    assert status == 1
    assert "Input/output error" in said
    assert second["others"] == (0, "")
    assert "FILE CORRUPTED" in second["kernel says"][1]


def test_a_swapped_image_does_not_boot(keelboot: Keelboot, disk: Path, built: Built, workspace: Path) -> None:
    swapped = workspace / "swapped.img"
    subprocess.run(["cp", "--sparse=always", disk, swapped], check=True)
    store = partitions(swapped)["keelboot-store"]
    genuine = workspace / "genuine.erofs"
    store.debugfs(f"dump /composefs/objects/{built.digest[:2]}/{built.digest[2:]} {genuine}")
    # Another valid image, sealed as well as the genuine one: only its digest tells that it is not the one to boot.
    image = bytearray(genuine.read_bytes())
    image[48 + 1024] ^= 1  # the volume's UUID: means nothing to the kernel
    staging = workspace / "staging"
    staging.mkdir()
    objects = SealedObjects(staging)
    other = objects.add(len(image), [bytes(image)])
    target = f"/composefs/objects/{other.path}"
    store.debugfs(
        f"write {staging / other.path} {target}",
        f"set_inode_field {target} size {len(image)}",
        f"set_inode_field {target} flags 0x180000",
        f"set_inode_field {target} mode 0100644",
        f"rm /composefs/images/{built.digest}",
        f"symlink /composefs/images/{built.digest} ../objects/{other.path}",
        write=True,
    )
    done = keelboot("run", "--timeout", "200", "--log", workspace / "swapped.log", swapped)
    shutil.rmtree(staging)
    swapped.unlink()
    assert done.returncode == 12, done.stderr
    console = (workspace / "swapped.log").read_text(errors="replace")
    assert "refusing to boot" in console
    assert f"it measures sha256:{other.hex}, not sha256:{built.digest}" in " ".join(console.split())
    assert "multi-user.target" not in console
