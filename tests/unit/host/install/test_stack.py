"""What a filesystem stands on: the kernel's arguments, and whether an initramfs can do it."""

import pytest

from keelboot.failure import CannotFinish, Failure
from keelboot.host.install import stack
from keelboot.host.install.device import Node
from keelboot.host.install.stack import Stack


def node(path: str, kind: str, *below: Node, uuid: str = "") -> Node:
    return Node(path=path, type=kind, size=1 << 30, uuid=uuid, children=below)


PART = node("/dev/vda2", "part", node("/dev/vda", "disk"), uuid="luks-uuid")
CRYPT = node("/dev/mapper/hand", "crypt", PART, uuid="pv")
LVM_ON_LUKS = node("/dev/mapper/our--vg-the--root", "lvm", CRYPT, uuid="fs")


def test_a_plain_partition_needs_nothing() -> None:
    assert stack.examine(PART) == Stack()


def test_lvm_on_luks() -> None:
    assert stack.examine(LVM_ON_LUKS) == Stack(
        arguments=("rd.lvm.lv=our-vg/the-root", "rd.luks.uuid=luks-uuid"), needs=("lvm", "crypt")
    )


def test_raid_of_two_disks_is_asked_for_once() -> None:
    members = [node(f"/dev/sd{letter}1", "part", uuid="array") for letter in "ab"]
    assert stack.examine(node("/dev/md0", "raid1", *members, uuid="fs")) == Stack(
        arguments=("rd.md.uuid=array",), needs=("mdraid",)
    )


def test_a_thin_volume_is_asked_for_by_its_own_name_alone() -> None:
    pool = node("/dev/mapper/vg-pool_tdata", "lvm", PART)
    assert stack.examine(node("/dev/mapper/vg-thin", "lvm", pool)).arguments == ("rd.lvm.lv=vg/thin",)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (node("/dev/mapper/mpatha", "mpath", node("/dev/sda", "disk")), "type mpath"),
        (node("/dev/mapper/plain", "crypt", node("/dev/sda", "disk")), "no LUKS"),
        (node("/dev/mapper/odd", "lvm", node("/dev/sda", "disk")), "volume group"),
    ],
)
def test_what_would_not_be_found_again(device: Node, said: str) -> None:
    with pytest.raises(Failure, match=said):
        stack.examine(device)


def test_an_initramfs_that_can() -> None:
    stack.refuse_initramfs("web:1", stack.examine(LVM_ON_LUKS), {"lvm", "systemd-cryptsetup", "sh"})
    stack.refuse_initramfs("web:1", Stack(), set())


@pytest.mark.parametrize(
    ("programs", "packages"),
    [({"lvm"}, "cryptsetup systemd-cryptsetup"), ({"cryptsetup"}, "lvm2"), (set(), "lvm2 cryptsetup")],
)
def test_an_initramfs_that_cannot(programs: set[str], packages: str) -> None:
    with pytest.raises(CannotFinish) as refused:
        stack.refuse_initramfs("web:1", stack.examine(LVM_ON_LUKS), programs)
    assert f"install -y {packages}" in refused.value.fix
    assert "LVM on LUKS" in refused.value.why
