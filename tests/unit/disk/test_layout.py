import re
from itertools import pairwise

import pytest

from keelboot.disk.contents import Usage
from keelboot.disk.layout import ESP_TYPE, GIB, MIB, ROOT_TYPES, VAR_TYPE, Layout, ext4_size, journal, plan
from keelboot.failure import CannotFinish, OutOfSpace

WEB = Usage(blocks=110_000, inodes=7_700)  # an image of 420 MB


def layout(size: int | None = None, store: Usage = WEB, esp: int = 60 * MIB, architecture: str = "amd64") -> Layout:
    return plan("sha256:ab", architecture=architecture, esp=esp, store=store, size=size)


@pytest.mark.parametrize("size", [None, 20 * GIB, 20 * GIB + 12345])
def test_partitions_are_aligned_and_do_not_touch_the_tables(size: int | None) -> None:
    made = layout(size)
    assert made.partitions[0].start == MIB
    assert made.partitions[-1].end == made.size - MIB
    assert all(part.start % MIB == part.size % MIB == 0 for part in made.partitions)
    assert all(one.end == other.start for one, other in pairwise(made.partitions))


def test_what_it_is_for_is_said_by_types_and_names() -> None:
    assert [(part.type, part.name) for part in layout().partitions] == [
        (ESP_TYPE, "esp"),
        (ROOT_TYPES["amd64"], "keelboot-store"),
        (VAR_TYPE, "keelboot-var"),
    ]
    assert layout(architecture="arm64").store.type == ROOT_TYPES["arm64"]


def test_no_two_identifiers_are_alike() -> None:
    made = layout()
    known = [made.uuid, made.store.filesystem, made.var.filesystem, made.store.hash_seed, made.var.hash_seed]
    known += [part.uuid for part in made.partitions]
    assert len(set(known)) == len(known)


def test_var_takes_what_the_others_leave() -> None:
    small, large = layout(), layout(50 * GIB)
    assert (small.esp.size, small.store.size) == (large.esp.size, large.store.size)
    assert small.var.size == GIB
    assert large.size == 50 * GIB
    assert large.var.size == GIB + large.size - small.size


def test_kernels_of_three_deployments_fit() -> None:
    assert layout(esp=60 * MIB).esp.size == 512 * MIB
    assert layout(esp=300 * MIB).esp.size >= 3 * 300 * MIB


def test_too_small_names_a_size_that_works() -> None:
    with pytest.raises(OutOfSpace) as caught:
        layout(GIB)
    named = re.search(r"--size (\d+)M", caught.value.fix)
    assert named
    smallest = int(named[1]) * MIB
    assert layout(smallest).size == smallest
    with pytest.raises(OutOfSpace):
        layout(smallest - MIB)


def test_unknown_architecture() -> None:
    with pytest.raises(CannotFinish, match="riscv64"):
        layout(architecture="riscv64")


@pytest.mark.parametrize("blocks", [0, 1, 1000, 110_000, 5_000_000, 100_000_000])
def test_a_filesystem_has_room_for_more_than_its_content(blocks: int) -> None:
    size = ext4_size(Usage(blocks), 10_000, slack=16 * MIB)
    fixed = journal(size) * MIB + 10_000 * 256
    assert size >= blocks * 4096 + fixed + 16 * MIB
    assert size <= blocks * 4096 * 1.15 + fixed + 48 * MIB
