"""Where the ESP is, told from what the kernel and udev show; the mounts themselves are for tests/boot."""

import errno
import os
from pathlib import Path

import pytest

from keelboot.failure import Failure, NotWritable, OutOfSpace
from keelboot.host import mounts, namespace
from keelboot.host.sysroot import Sysroot

UUID = "0B5C2E5D-6D0A-4B2C-9C3A-0123456789AB"
MOUNTINFO = "30 1 254:2 / /sysroot ro,relatime - ext4 /dev/vda2 rw\n"


def machine(root: Path, *, types: dict[str, str], stacked: bool = False) -> None:
    """A machine whose disk vda has partitions of TYPES; STACKED puts LUKS between the second one and /sysroot."""
    disk = root / "sys/devices/virtio/block/vda"
    numbers = root / "sys/dev/block"
    numbers.mkdir(parents=True)
    (root / "run/udev/data").mkdir(parents=True)
    for index, (name, kind) in enumerate(types.items(), 1):
        (disk / name).mkdir(parents=True)
        (disk / name / "partition").write_text(f"{index}\n")
        (disk / name / "dev").write_text(f"254:{index}\n")
        (numbers / f"254:{index}").symlink_to(disk / name)
        (root / f"run/udev/data/b254:{index}").write_text(f"E:ID_FS_TYPE=x\nE:ID_PART_ENTRY_TYPE={kind}\n")
    if stacked:
        device = root / "sys/devices/virtual/block/dm-0"
        (device / "slaves").mkdir(parents=True)
        (device / "slaves/vda2").symlink_to(disk / "vda2")
        (numbers / "253:0").symlink_to(device)


def variables(root: Path, value: str) -> Path:
    directory = root / "efivars"
    directory.mkdir()
    data = b"\x06\0\0\0" + f"{value}\0".encode("utf-16-le")
    (directory / "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f").write_bytes(data)
    return directory


ESP, OTHER = namespace.ESP_TYPE, "0fc63daf-8483-4772-8e79-3d69d8477de4"


def test_what_the_loader_came_from(tmp_path: Path) -> None:
    device = tmp_path / "dev/disk/by-partuuid" / UUID.lower()
    device.parent.mkdir(parents=True)
    device.touch()
    assert namespace.esp_device([], variables=variables(tmp_path, UUID), system=tmp_path) == device


@pytest.mark.parametrize("value", ["", UUID, "../../vda1"])
def test_a_variable_that_leads_nowhere_is_passed_over(value: str, tmp_path: Path) -> None:
    machine(tmp_path, types={"vda1": ESP, "vda2": OTHER})
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/vda1").touch()
    found = namespace.esp_device(mounts.parse(MOUNTINFO), variables=variables(tmp_path, value), system=tmp_path)
    assert found == tmp_path / "dev/vda1"


def test_through_an_encrypted_device(tmp_path: Path) -> None:
    machine(tmp_path, types={"vda1": ESP, "vda2": OTHER}, stacked=True)
    seen = mounts.parse(MOUNTINFO.replace("254:2", "253:0"))
    assert namespace.esp_device(seen, variables=tmp_path, system=tmp_path) == tmp_path / "dev/vda1"


@pytest.mark.parametrize("types", [{"vda1": OTHER, "vda2": OTHER}, {"vda1": ESP, "vda2": OTHER, "vda3": ESP}])
def test_none_or_several_are_none(types: dict[str, str], tmp_path: Path) -> None:
    machine(tmp_path, types=types)
    assert namespace.esp_device(mounts.parse(MOUNTINFO), variables=tmp_path, system=tmp_path) is None


@pytest.mark.parametrize(
    ("number", "failure"), [(errno.ENOSPC, OutOfSpace), (errno.EROFS, NotWritable), (errno.EIO, Failure)]
)
def test_a_lock_that_cannot_be_made(
    number: int, failure: type[Failure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    sysroot = Sysroot(tmp_path, tmp_path)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Failure, match="cannot write the machine's state") as told, namespace.locked(sysroot):
        pass
    monkeypatch.undo()
    assert type(told.value) is failure
    with namespace.locked(sysroot):
        assert sysroot.lock.exists()
