import pytest

from keelboot.host import mounts
from keelboot.host.mounts import Mount
from keelboot.image.tree import ObjectId

DIGEST = "ab" * 32
ROOT = f"29 1 0:25 / / ro,relatime shared:1 - overlay composefs:{DIGEST} ro,lowerdir+=/x,verity=require"
SYSROOT = "31 29 254:2 / /sysroot ro,relatime shared:2 - ext4 /dev/vda2 rw"


def seen(*lines: str) -> list[Mount]:
    return mounts.parse("\n".join(lines) + "\n")


def test_what_is_mounted() -> None:
    assert seen(SYSROOT) == [
        Mount("/sysroot", "ext4", "/dev/vda2", frozenset({"ro", "relatime", "rw"}), "254:2"),
    ]


@pytest.mark.parametrize(
    ("options", "frozen"),
    [("rw", False), ("rw,errors=remount-ro", False), ("ro,noload", True), ("rw,emergency_ro", True)],
)
def test_a_filesystem_that_nobody_can_write(options: str, frozen: bool) -> None:
    assert seen(f"31 29 254:2 / /sysroot ro - ext4 /dev/vda2 {options}")[0].frozen is frozen


def test_optional_fields_may_be_missing_or_many() -> None:
    """proc_pid_mountinfo(5), field 7."""
    few = "31 29 254:2 / /a ro - ext4 /dev/vda2 rw"
    many = "31 29 254:2 / /b ro shared:3 master:1 propagate_from:2 - ext4 /dev/vda2 rw"
    assert [mount.point for mount in seen(few, many)] == ["/a", "/b"]


def test_escapes_and_odd_lines() -> None:
    assert seen(r"31 29 0:5 / /mnt/a\040b\134c ro - tmpfs none rw")[0].point == "/mnt/a b\\c"
    assert seen("", "31 29", "31 29 254:2 / /a ro shared:1 ext4 /dev/vda2 rw") == []


def test_the_last_mount_at_a_place_is_seen() -> None:
    hidden = "29 1 254:2 / / rw - ext4 /dev/vda2 rw"
    assert mounts.booted(seen(hidden, ROOT)) == ObjectId(DIGEST)
    assert mounts.booted(seen(ROOT, hidden)) is None


@pytest.mark.parametrize("source", ["/dev/vda2", "composefs", "composefs:", "composefs:xyz", "overlay"])
def test_another_root_is_no_deployment(source: str) -> None:
    assert mounts.booted(seen(f"29 1 0:25 / / ro - overlay {source} ro")) is None
    assert mounts.booted([]) is None


@pytest.mark.parametrize(
    ("line", "mode"),
    [
        ("50 29 0:40 / /usr rw,relatime - overlay overlay rw,upperdir=/x", "readWrite"),
        ("50 29 0:40 / /usr ro,relatime - overlay overlay rw,upperdir=/x", "readOnly"),
        ("50 29 0:40 / /usr rw,relatime - ext4 /dev/vda3 rw", None),
        ("50 29 0:40 / /usr/local rw,relatime - overlay overlay rw", None),
    ],
)
def test_an_overlay_over_usr(line: str, mode: str | None) -> None:
    assert mounts.usr_overlay(seen(ROOT, line)) == mode
