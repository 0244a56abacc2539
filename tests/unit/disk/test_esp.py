from pathlib import Path

import pytest

from keelboot.disk import esp
from keelboot.disk.contents import Usage
from keelboot.disk.layout import plan

PARTITION = plan("sha256:ab", architecture="amd64", esp=0, store=Usage()).esp


def test_parents_come_in_order() -> None:
    assert esp.parents(["EFI/Linux/a.efi", "loader/loader.conf", "top"]) == ["EFI", "EFI/Linux", "loader"]


@pytest.mark.parametrize(
    "names",
    [
        ["/absolute"],
        ["a/../b"],
        ["a//b"],
        ["./a"],
        [""],
        ["trailing."],
        ["folder /a"],
        ["what?"],
        ["a:b"],
        ["tab\t"],
        ["naïve"],
        ["EFI/BOOT", "efi/boot"],
        ["EFI/a", "efi/b"],
        ["file", "file/below"],
    ],
)
def test_refuses_names_that_fat_cannot_keep(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FAT"):
        esp.write(tmp_path, "disk.raw", PARTITION, dict.fromkeys(names, b""), epoch=0)
