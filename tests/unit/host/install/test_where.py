"""A mounted filesystem: whether it can be a root, what lies in it, and how it is found again."""

import pytest

from keelboot.failure import DeviceNotEmpty, Failure
from keelboot.host import mounts
from keelboot.host.install import where

MOUNTED = """\
20 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda2 rw
21 20 0:25 / /run rw - tmpfs tmpfs rw
30 20 254:1 / /mnt rw,relatime shared:9 - ext4 /dev/mapper/our--vg-the--root rw
31 30 253:17 / /mnt/boot/efi rw,relatime - vfat /dev/vdb1 rw
40 20 0:40 /@home /with\\040blank rw - btrfs /dev/sdc1 rw,subvol=/@home
41 20 253:9 /dir /bound rw - ext4 /dev/sdd1 rw
42 20 253:9 / /read-only ro - ext4 /dev/sdd1 rw
43 20 0:50 / /overlay rw - overlay overlay rw
44 20 253:9 / /vars rw - xfs /dev/sde1 rw
45 44 253:9 / /vars/var rw - xfs /dev/sde2 rw
46 44 253:9 / /vars/boot rw - ext4 /dev/sde3 rw
47 46 253:9 / /vars/efi rw - vfat /dev/sde4 rw
"""
SEEN = mounts.parse(MOUNTED)


def test_a_filesystem_with_its_esp() -> None:
    found = where.place("/mnt", SEEN)
    assert (found.root.source, found.root.kind) == ("/dev/mapper/our--vg-the--root", "ext4")
    assert found.esp
    assert found.esp.source == "/dev/vdb1"
    where.refuse_var(found, SEEN)


def test_a_separate_boot_is_not_taken_for_the_esp() -> None:
    found = where.place("/vars", SEEN)
    assert found.esp
    assert found.esp.point == "/vars/efi"


@pytest.mark.parametrize(
    ("point", "said"),
    [("/nothing", "nothing is mounted"), ("/run", "tmpfs"), ("/overlay", "overlay"), ("/read-only", "read-only")],
)
def test_what_cannot_be_a_root(point: str, said: str) -> None:
    with pytest.raises(Failure, match=said):
        where.place(point, SEEN)


def test_a_var_of_its_own() -> None:
    with pytest.raises(Failure, match="/vars/var is a filesystem of its own"):
        where.refuse_var(where.place("/vars", SEEN), SEEN)


@pytest.mark.parametrize(
    ("point", "arguments"),
    [
        ("/mnt", ["root=UUID=u"]),
        ("/with blank", ["root=UUID=u", "rootflags=subvol=/@home"]),
    ],
)
def test_how_it_is_found_again(point: str, arguments: list[str]) -> None:
    assert where.own_arguments(where.place(point, SEEN), "u", where.part_mounted(MOUNTED, point)) == arguments


@pytest.mark.parametrize(("point", "uuid", "said"), [("/bound", "u", "only the directory /dir"), ("/mnt", "", "UUID")])
def test_what_would_not_be_found_again(point: str, uuid: str, said: str) -> None:
    with pytest.raises(Failure, match=said):
        where.own_arguments(where.place(point, SEEN), uuid, where.part_mounted(MOUNTED, point))


def test_an_empty_one_may_have_mount_points() -> None:
    where.refuse_content("/mnt", ["lost+found", "boot", "efi", "composefs", "state"], None)


def test_one_with_files_is_refused_until_it_is_said_what_becomes_of_them() -> None:
    names = ["etc", "usr", "lost+found"]
    with pytest.raises(DeviceNotEmpty, match="'etc', 'usr'"):
        where.refuse_content("/mnt", names, None)
    where.refuse_content("/mnt", names, "alongside")
    assert where.leftovers(names) == ["etc", "usr"]
