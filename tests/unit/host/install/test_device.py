"""Disks as lsblk and wipefs describe them: what is lost with one, who uses it, and what is refused."""

import json

import pytest

from keelboot.failure import DeviceInUse, DeviceNotEmpty, NotWritable
from keelboot.host.install import device
from keelboot.host.install.device import Node

# As util-linux 2.41 prints it for `lsblk --json --bytes --output COLUMNS`.
LSBLK = json.loads("""{"blockdevices": [{
 "name": "vdb", "path": "/dev/vdb", "type": "disk", "size": 9663676416, "ro": false, "log-sec": 512, "fstype": null,
 "label": null, "uuid": null, "pttype": "gpt", "parttype": null, "partuuid": null, "mountpoints": [null],
 "model": "QEMU HARDDISK   ",
 "children": [
  {"name": "vdb1", "path": "/dev/vdb1", "type": "part", "size": 629145600, "ro": false, "log-sec": 512,
   "fstype": "vfat", "label": "KEELBOOT", "uuid": "38AC-E0BD", "pttype": "gpt",
   "parttype": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "partuuid": "6f",
   "mountpoints": ["/mnt/boot/efi"], "model": null},
  {"name": "vdb2", "path": "/dev/vdb2", "type": "part", "size": 9031385600, "ro": false, "log-sec": 512,
   "fstype": "crypto_LUKS", "label": null, "uuid": "cfa3", "pttype": "gpt", "parttype": "0fc6", "partuuid": "70",
   "mountpoints": [null], "model": null, "children": [
    {"name": "hand", "path": "/dev/mapper/hand", "type": "crypt", "size": 9014608384, "ro": false, "log-sec": 512,
     "fstype": "LVM2_member", "label": null, "uuid": "nyL", "pttype": null, "parttype": null, "partuuid": null,
     "mountpoints": [null], "model": null}]},
  {"name": "vdb3", "path": "/dev/vdb3", "type": "part", "size": 1073741824, "ro": false, "log-sec": 512,
   "fstype": "swap", "label": null, "uuid": "aa", "pttype": "gpt", "parttype": "0657", "partuuid": "71",
   "mountpoints": ["[SWAP]"], "model": null}]}]}""")
DISK = Node.parse(LSBLK["blockdevices"][0])
EMPTY = Node(path="/dev/vdc", type="disk", size=1 << 34)


def test_reading_lsblk() -> None:
    assert (DISK.path, DISK.size, DISK.table, DISK.model) == ("/dev/vdb", 9663676416, "gpt", "QEMU HARDDISK")
    assert [node.path for node in DISK.walk()] == [
        *("/dev/vdb", "/dev/vdb1", "/dev/vdb2", "/dev/mapper/hand", "/dev/vdb3")
    ]
    assert DISK.children[0].mounted_at == ("/mnt/boot/efi",)


def test_everybody_who_uses_it_is_named() -> None:
    assert device.uses(DISK) == [
        "/dev/vdb1 is mounted at /mnt/boot/efi",
        "/dev/mapper/hand is an open LUKS volume on it",
        "/dev/vdb3 is in use as swap",
    ]
    assert device.uses(EMPTY) == []


@pytest.mark.parametrize(
    ("kind", "said"), [("lvm", "a logical volume"), ("raid1", "a RAID array"), ("mpath", "a multipath device")]
)
def test_what_is_built_on_it_is_a_use(kind: str, said: str) -> None:
    above = Node(path="/dev/x", type=kind, size=1)
    assert device.uses(Node(path="/dev/vdc", type="disk", size=1, children=(above,))) == [f"/dev/x is {said} on it"]


def test_a_use_is_always_refused() -> None:
    with pytest.raises(DeviceInUse, match="mounted at /mnt/boot/efi"):
        device.refuse_use(DISK.path, device.uses(DISK))
    device.refuse_use(EMPTY.path, device.uses(EMPTY))


def test_what_would_be_lost() -> None:
    found = {"/dev/vdb": ["gpt", "PMBR"], "/dev/vdb1": ["vfat ('KEELBOOT')"], "/dev/vdb2": ["crypto_LUKS"]}
    assert device.losses(DISK, found) == [
        "/dev/vdb: a partition table (gpt) with 3 partitions",
        "/dev/vdb1: vfat ('KEELBOOT'), 600.0 MiB",
        "/dev/vdb2: crypto_LUKS, 8.4 GiB",
        "/dev/mapper/hand: LVM2_member, 8.4 GiB",
        "/dev/vdb3: swap, 1.0 GiB",
    ]
    assert device.losses(EMPTY, {"/dev/vdc": []}) == []


@pytest.mark.parametrize(
    ("found", "lost"),
    [
        (["ext4 ('data')"], "/dev/vdc: ext4 ('data'), 16.0 GiB"),
        (["gpt", "PMBR"], "/dev/vdc: a partition table (gpt) with 0 partitions"),
        (["dos"], "/dev/vdc: a partition table (dos) with 0 partitions"),
    ],
)
def test_a_disk_without_udev_is_judged_by_wipefs(found: list[str], lost: str) -> None:
    assert device.losses(EMPTY, {"/dev/vdc": found}) == [lost]


def test_data_is_refused_with_what_it_is() -> None:
    with pytest.raises(DeviceNotEmpty) as refused:
        device.refuse_content("/dev/vdc", ["/dev/vdc: ext4, 1.0 GiB"])
    assert "ext4" in refused.value.why
    assert "--wipe" in refused.value.fix


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (Node(path="/dev/vdb2", type="part", size=1), "a partition"),
        (Node(path="/dev/mapper/x", type="lvm", size=1), "type lvm"),
        (Node(path="/dev/sr0", type="rom", size=1), "type rom"),
        (Node(path="/dev/vdc", type="disk", size=1, read_only=True), "read-only"),
    ],
)
def test_what_is_no_disk_to_write(node: Node, said: str) -> None:
    with pytest.raises(NotWritable, match=said):
        device.refuse_kind(node)


def test_signatures_of_wipefs() -> None:
    printed = {
        "signatures": [
            {"device": "vdb", "offset": "0x200", "type": "gpt", "uuid": "x", "label": None},
            {"device": "vdb", "offset": "0x1fe", "type": "PMBR", "uuid": None, "label": None},
            {"device": "vdb", "offset": "0x438", "type": "ext4", "uuid": "y", "label": "my data"},
            {"device": "vdb", "offset": "0x24000", "type": "gpt", "uuid": "x", "label": None},
        ]
    }
    assert device.signatures(printed) == ["gpt", "PMBR", "ext4 ('my data')"]
    assert device.signatures({}) == []
    with pytest.raises(ValueError, match="no list"):
        device.signatures({"signatures": "many"})


@pytest.mark.parametrize(
    ("disk", "path"),
    [("/dev/sda", "/dev/sda1"), ("/dev/nvme0n1", "/dev/nvme0n1p1"), ("/dev/loop7", "/dev/loop7p1")],
)
def test_names_of_partitions(disk: str, path: str) -> None:
    assert device.partition_path(disk, 1) == path
