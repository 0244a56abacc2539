"""An ESP is a directory here; what FAT makes of a cut is for tests/crash and the campaign of power cuts."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from keelboot.boot import esp
from keelboot.boot.entries import Entry, Generation, Tries
from keelboot.boot.systemd_boot import boot_digest
from keelboot.failure import Failure, NotWritable, OutOfSpace
from keelboot.image.tree import ObjectId

KERNEL, INITRAMFS = b"kernel" * 999, b"initramfs" * 999
BOOT = boot_digest(hashlib.sha256(KERNEL).digest(), hashlib.sha256(INITRAMFS).digest())


def digest(letter: str) -> ObjectId:
    return ObjectId(letter * 64)


def entry(generation: int, letter: str, tries: Tries | None = None, kernel: str = BOOT) -> Entry:
    named = Generation(generation, digest(letter))
    return Entry(
        id=named.id,
        title="Debian",
        version=named.version("1"),
        sort_key="keelboot",
        linux=f"/EFI/keelboot/{kernel}/vmlinuz",
        initrd=f"/EFI/keelboot/{kernel}/initrd",
        options=f"composefs={digest(letter).hex}",
        tries=tries,
    )


def names(path: Path) -> list[str]:
    return sorted(str(one.relative_to(path)) for one in path.rglob("*") if one.is_file())


def test_a_kernel_comes_once_per_content(tmp_path: Path) -> None:
    assert esp.add_kernel(tmp_path, BOOT, [KERNEL], [INITRAMFS[:99], INITRAMFS[99:]])
    inode = (tmp_path / f"EFI/keelboot/{BOOT}/vmlinuz").stat().st_ino
    assert not esp.add_kernel(tmp_path, BOOT, [KERNEL], [INITRAMFS])
    assert (tmp_path / f"EFI/keelboot/{BOOT}/vmlinuz").stat().st_ino == inode
    assert names(tmp_path) == [f"EFI/keelboot/{BOOT}/initrd", f"EFI/keelboot/{BOOT}/vmlinuz"]


@pytest.mark.parametrize("damage", [b"", KERNEL[:-1] + b"x", None])
def test_a_damaged_kernel_is_replaced(damage: bytes | None, tmp_path: Path) -> None:
    esp.add_kernel(tmp_path, BOOT, [KERNEL], [INITRAMFS])
    file = tmp_path / f"EFI/keelboot/{BOOT}/vmlinuz"
    file.unlink() if damage is None else file.write_bytes(damage)
    assert not esp.sound(tmp_path, BOOT)
    assert esp.add_kernel(tmp_path, BOOT, [KERNEL], [INITRAMFS])
    assert file.read_bytes() == KERNEL
    assert esp.sound(tmp_path, BOOT)


def test_a_kernel_that_is_not_the_one_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="does not read back"):
        esp.add_kernel(tmp_path, BOOT, [KERNEL], [b"other"])
    assert names(tmp_path) == []


def test_the_order_is_the_loaders(tmp_path: Path) -> None:
    for one in (entry(1, "a"), entry(4, "d", Tries(left=0, done=3)), entry(3, "c", Tries(left=3)), entry(2, "b")):
        esp.add_entry(tmp_path, one)
    (tmp_path / "loader/entries/debian.conf").write_text("title x\nlinux /vmlinuz\ninitrd /initrd\n")
    (tmp_path / "loader/entries/keelboot-000009-broken.conf").write_text("")
    found = esp.entries(tmp_path)
    assert [one.generation for one in found] == [3, 2, 1, 4]
    assert [one.usable for one in found] == [True, True, True, False]
    assert found[0].boot_digest == BOOT
    assert found[0].digest == digest("c")
    assert esp.foreign(tmp_path) == ["debian.conf", "keelboot-000009-broken.conf"]
    assert esp.next_generation(tmp_path) == 10


def test_an_entry_is_never_written_twice(tmp_path: Path) -> None:
    esp.add_entry(tmp_path, entry(1, "a"))
    with pytest.raises(Failure):
        esp.add_entry(tmp_path, entry(1, "a"))
    assert names(tmp_path) == [f"loader/entries/{entry(1, 'a').file_name}"]


def test_blessing_is_a_rename(tmp_path: Path) -> None:
    esp.add_entry(tmp_path, entry(2, "b", Tries(left=2, done=1)))
    [listed] = esp.entries(tmp_path)
    blessed = esp.drop_counter(tmp_path, listed)
    assert names(tmp_path) == [f"loader/entries/keelboot-000002-{'b' * 64}.conf"]
    assert esp.entries(tmp_path) == [blessed]
    assert esp.drop_counter(tmp_path, blessed) == blessed


def test_removing_is_no_error_when_it_is_gone(tmp_path: Path) -> None:
    esp.add_entry(tmp_path, entry(1, "a"))
    for _ in range(2):
        esp.remove_entry(tmp_path, entry(1, "a").file_name)
    assert names(tmp_path) == []


def test_only_kernels_that_nobody_names_are_unused(tmp_path: Path) -> None:
    kernels = tmp_path / "EFI/keelboot"
    for name in ("1" * 64, "2" * 64, "3" * 64, ".draft-1"):
        (kernels / name).mkdir(parents=True)
        (kernels / name / "vmlinuz").touch()
    esp.add_entry(tmp_path, entry(1, "a", kernel="1" * 64))
    (tmp_path / "loader/entries/by-hand.conf").write_text(f"linux \\efi\\KEELBOOT\\{'2' * 64}\\vmlinuz\n")
    (tmp_path / "loader/entries/keelboot-000002-x.1234.draft").write_text(f"linux /EFI/keelboot/{'3' * 64}/vmlinuz\n")
    assert esp.unused_kernels(tmp_path) == [".draft-1", "3" * 64]
    assert esp.remove_unused(tmp_path) == [".draft-1", "3" * 64]
    assert sorted(path.name for path in kernels.iterdir()) == ["1" * 64, "2" * 64]
    assert esp.drafts(tmp_path) == []
    assert esp.remove_unused(tmp_path) == []


def test_space_counts_only_what_is_missing(tmp_path: Path) -> None:
    sizes = (len(KERNEL), len(INITRAMFS))
    before = esp.needed(tmp_path, BOOT, sizes)
    esp.add_kernel(tmp_path, BOOT, [KERNEL], [INITRAMFS])
    after = esp.needed(tmp_path, BOOT, sizes)
    cluster = os.statvfs(tmp_path).f_frsize
    assert after == 3 * cluster
    assert before - after == sum(-(-size // cluster) * cluster for size in sizes)
    assert esp.free(tmp_path) > 0


def test_what_would_be_freed_is_counted_and_stays(tmp_path: Path) -> None:
    sizes = (len(KERNEL), len(INITRAMFS))
    assert esp.reclaimable(tmp_path) == 0
    esp.add_kernel(tmp_path, BOOT, [KERNEL], [INITRAMFS])
    used = sum(path.stat().st_blocks * 512 for path in (tmp_path / f"EFI/keelboot/{BOOT}").iterdir())
    assert used <= esp.reclaimable(tmp_path) <= used + 8192, "and its directory"
    assert esp.needed(tmp_path, BOOT, sizes, without=esp.unused_kernels(tmp_path)) > esp.needed(tmp_path, BOOT, sizes)
    assert esp.sound(tmp_path, BOOT)
    esp.add_entry(tmp_path, entry(1, "a"))
    assert esp.reclaimable(tmp_path) == 0
    (tmp_path / "loader/entries/keelboot-000002-x.1234.draft").write_text("title never finished\n")
    assert esp.reclaimable(tmp_path) > 0
    esp.remove_unused(tmp_path)
    assert esp.reclaimable(tmp_path) == 0


@pytest.mark.parametrize(("number", "failure"), [(28, OutOfSpace), (30, NotWritable), (5, Failure)])
def test_what_the_kernel_refuses_is_told(number: int, failure: type[Failure], tmp_path: Path) -> None:
    with pytest.raises(failure) as raised, esp.explained(tmp_path):
        raise OSError(number, os.strerror(number))
    assert type(raised.value) is failure


@pytest.fixture
def fat(tmp_path: Path) -> Path:
    """A FAT with a draft whose first cluster counts as free, and a cluster that nothing names, as a cut leaves them."""
    if not all(map(shutil.which, ("mkfs.fat", "fsck.fat", "mcopy"))):
        pytest.skip("needs dosfstools and mtools")
    image, file = tmp_path / "esp.img", tmp_path / "file"
    with image.open("wb") as stream:
        stream.truncate(40 << 20)
    file.write_text("title x\n")
    subprocess.run(["mkfs.fat", "-F", "32", "-s", "1", image], check=True, capture_output=True)
    subprocess.run(["mcopy", "-i", image, file, "::/x.draft"], check=True)
    with image.open("r+b") as stream:
        head = stream.read(512)
        first, copies, size = head[14] | head[15] << 8, head[16], int.from_bytes(head[36:40], "little")
        for table in range(copies):
            stream.seek((first + table * size) * 512 + 3 * 4)  # cluster 2 is the root, 3 the draft's, 4 is lost
            stream.write(bytes(4) + b"\xff\xff\xff\x0f")
    return image


def mark(image: Path, *, mounted: bool) -> None:
    with image.open("r+b") as stream:
        stream.seek(0x41)
        stream.write(bytes([mounted]))


def test_a_fat_that_was_not_unmounted_is_mended(fat: Path) -> None:
    mark(fat, mounted=True)
    assert esp.mend(fat)
    assert subprocess.run(["fsck.fat", "-n", fat], check=False, capture_output=True).returncode == 0
    assert not esp.mend(fat)


def test_a_fat_that_was_unmounted_is_left_alone(fat: Path) -> None:
    mark(fat, mounted=False)
    before = fat.read_bytes()
    assert not esp.mend(fat)
    assert fat.read_bytes() == before


def test_what_is_no_fat_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"\xff" * 99)
    assert not esp.mend(tmp_path / "short")


def test_salvaged_clusters_go(tmp_path: Path) -> None:
    for name in ("FSCK0000.REC", "FSCK0001.REC", "FSCK.REC", "startup.nsh"):
        (tmp_path / name).touch()
    esp.remove_salvaged(tmp_path)
    assert names(tmp_path) == ["FSCK.REC", "startup.nsh"]


def test_a_name_is_synced_before_its_file_and_once_it_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync(2) of a file on FAT writes but the last sector of its name: Linux would add no more names after a cut."""
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()).removeprefix(f"{tmp_path}").lstrip("/"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    esp.add_kernel(tmp_path, BOOT, [KERNEL], [INITRAMFS])
    draft = synced[1]
    assert draft.startswith("EFI/keelboot/.draft-")
    files = [draft, f"{draft}/vmlinuz", draft, f"{draft}/initrd"]
    assert synced == ["EFI/keelboot", *files, "", "EFI/keelboot", ""]
    synced.clear()
    esp.add_entry(tmp_path, entry(1, "a", Tries(left=3)))
    assert synced[1].endswith(".draft")
    assert synced == ["loader/entries", synced[1], "", "loader/entries", ""]
    synced.clear()
    esp.drop_counter(tmp_path, esp.entries(tmp_path)[0])
    assert synced == ["", "loader/entries", ""]
