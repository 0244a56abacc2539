"""A disk before it is touched: sizes, filesystems, and a partition table that others accept."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from keelboot.disk import gpt
from keelboot.disk.contents import Usage
from keelboot.disk.layout import GIB, GROW, MIB
from keelboot.failure import CannotFinish, OutOfSpace
from keelboot.host.install.plan import DiskPlan, Needs, plan, seed_of

NEEDS = Needs(architecture="amd64", esp=53 << 20, store=Usage(blocks=180_000, inodes=14_000))


def laid_out(size: int = 20 * GIB, filesystem: str = "ext4", root_size: int | None = None) -> DiskPlan:
    return plan("seed", NEEDS, size=size, filesystem=filesystem, root_size=root_size)


@pytest.mark.parametrize("filesystem", ["ext4", "btrfs", "xfs"])
@pytest.mark.parametrize("size", [20 * GIB, 20 * GIB + 512, 2 << 40])
def test_everything_lies_in_order_on_whole_mebibytes(filesystem: str, size: int) -> None:
    planned = laid_out(size, filesystem)
    assert planned.size == size
    at = MIB
    for partition in planned.partitions:
        assert partition.start == at
        assert partition.size % MIB == 0
        at = partition.end
    assert size - 2 * MIB < at <= size - MIB  # all of it is used, but for the copy of the table


def test_the_store_gets_a_quarter_of_a_large_disk_and_no_more_than_it_can_use() -> None:
    sizes = [laid_out(size).store.partition.size for size in (64 * GIB, 2 << 40)]
    assert sizes == [16 * GIB, 32 * GIB]


def test_a_small_disk_has_room_for_three_deployments() -> None:
    planned = laid_out(5 * GIB)
    assert planned.store.partition.size >= 3 * NEEDS.store.blocks * 4096
    assert planned.store.inodes >= 3 * NEEDS.store.inodes


def test_btrfs_has_var_in_a_subvolume_and_grows() -> None:
    planned = laid_out(filesystem="btrfs")
    assert planned.var is None
    assert [volume.filesystem for volume in planned.volumes] == ["vfat", "btrfs"]
    assert planned.store.partition.attributes == GROW


def test_only_var_grows_elsewhere() -> None:
    planned = laid_out(filesystem="xfs")
    assert [volume.partition.attributes for volume in planned.volumes] == [0, 0, GROW]
    assert [volume.filesystem for volume in planned.volumes] == ["vfat", "xfs", "xfs"]


def test_root_size_is_the_partition_with_the_images() -> None:
    assert laid_out(root_size=5 * GIB + 17).store.partition.size == 5 * GIB
    alone = laid_out(root_size=5 * GIB, filesystem="btrfs").store.partition
    assert (alone.size, alone.attributes) == (5 * GIB, 0)


@pytest.mark.parametrize(
    ("size", "root_size", "said"),
    [
        (2 * GIB, None, "a disk of 2048 MiB"),
        (0, None, "a disk of 0 MiB"),
        (20 * GIB, GIB, "--root-size 1024M"),
        (20 * GIB, 30 * GIB, "leaves"),
    ],
)
@pytest.mark.parametrize("filesystem", ["ext4", "btrfs", "xfs"])
def test_what_is_too_small(filesystem: str, size: int, root_size: int | None, said: str) -> None:
    with pytest.raises(OutOfSpace, match=said):
        laid_out(size, filesystem, root_size)


@pytest.mark.parametrize("filesystem", ["ext4", "btrfs", "xfs"])
def test_the_size_that_a_refusal_names_is_enough(filesystem: str) -> None:
    with pytest.raises(OutOfSpace) as refused:
        laid_out(2 * GIB, filesystem)
    named = int(refused.value.why.split()[-2])
    laid_out(named * MIB, filesystem)
    with pytest.raises(OutOfSpace):
        laid_out((named - 1) * MIB, filesystem)


@pytest.mark.parametrize("filesystem", ["ext4", "btrfs", "xfs"])
def test_there_is_room_for_what_the_first_boot_puts_into_var(filesystem: str) -> None:
    needs = replace(NEEDS, var=Usage(blocks=(3 * GIB) // 4096, inodes=300_000))
    small = laid_out(8 * GIB, filesystem)
    with pytest.raises(OutOfSpace) as refused:
        plan("seed", needs, size=small.size, filesystem=filesystem)
    named = int(refused.value.why.split()[-2])
    planned = plan("seed", needs, size=named * MIB, filesystem=filesystem)
    holding = planned.var or planned.store
    assert holding.partition.size >= 6 * GIB
    if filesystem == "ext4":
        assert holding.inodes >= 600_000
    room = (named * MIB - planned.esp.partition.end) - 6 * GIB
    with pytest.raises(OutOfSpace, match="leaves" if filesystem != "btrfs" else "--root-size"):
        plan("seed", needs, size=20 * GIB, filesystem=filesystem, root_size=room if filesystem == "btrfs" else 15 * GIB)


def test_an_architecture_without_a_partition_type() -> None:
    with pytest.raises(CannotFinish, match="riscv64"):
        plan("seed", Needs(architecture="riscv64", esp=1, store=Usage()), size=20 * GIB, filesystem="ext4")


def test_two_installations_have_nothing_in_common() -> None:
    one, other = (
        plan(seed_of(random), NEEDS, size=20 * GIB, filesystem="ext4") for random in (b"one", b"other")
    )  # drawn for each
    for first, second in zip(one.volumes, other.volumes, strict=True):
        assert first.partition.uuid != second.partition.uuid
        assert (first.uuid, first.volume_id) != (second.uuid, second.volume_id)


@pytest.mark.parametrize("sector", [512, 4096])
def test_others_accept_the_table(tmp_path: Path, sector: int) -> None:
    if not shutil.which("sfdisk", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        pytest.skip("sfdisk is not installed")
    planned = laid_out(20 * GIB + 512 * MIB)
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.write(gpt.primary(planned, sector=sector))
        foot = gpt.backup(planned, sector=sector)
        file.truncate(planned.size)
        file.seek(planned.size - len(foot))
        file.write(foot)
    options = [] if sector == 512 else ["--sector-size", str(sector)]
    done = subprocess.run(["/usr/sbin/sfdisk", *options, "--json", disk], capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this sfdisk knows no --sector-size")
    table = json.loads(done.stdout)["partitiontable"]
    assert [one["name"] for one in table["partitions"]] == ["esp", "keelboot-store", "keelboot-var"]
    assert [one["start"] * sector for one in table["partitions"]] == [part.start for part in planned.partitions]
    assert (
        "No errors detected"
        in subprocess.run(
            ["/usr/sbin/sfdisk", *options, "--verify", disk], capture_output=True, text=True, check=True
        ).stdout
    )


@pytest.mark.parametrize("filesystem", ["ext4", "btrfs", "xfs"])
def test_the_commands_make_what_was_planned(tmp_path: Path, filesystem: str) -> None:
    planned = laid_out(8 * GIB, filesystem)
    for number, volume in enumerate(planned.volumes):
        file = tmp_path / f"part{number}"
        with file.open("wb") as stream:
            stream.truncate(volume.partition.size)
        argv = volume.command(str(file))
        program = shutil.which(argv[0], path="/usr/sbin:/sbin:/usr/bin:/bin")
        if program is None:
            pytest.skip(f"{argv[0]} is not installed")
        subprocess.run([program, *argv[1:]], check=True, capture_output=True, env={"MKE2FS_CONFIG": "/dev/null"})
        told = subprocess.run(
            ["/usr/sbin/blkid", "-p", "-o", "export", file], check=True, capture_output=True, text=True
        ).stdout
        facts = dict(line.split("=", 1) for line in told.splitlines())
        assert facts["TYPE"] == volume.filesystem
        assert facts["LABEL"] == volume.label
        if volume.uuid:
            assert facts["UUID"] == str(volume.uuid)
        if volume.filesystem == "ext4":
            said = subprocess.run(["/usr/sbin/dumpe2fs", "-h", file], check=True, capture_output=True, text=True).stdout
            assert "verity" in said
            assert "Block size:               4096" in said
        file.unlink()
