"""The firmware's list of boot entries, as efibootmgr prints it."""

from keelboot.host.install.firmware import entries

LISTING = """\
BootCurrent: 0001
Timeout: 3 seconds
BootOrder: 0001,0004,0000
Boot0000* UiApp\tFvVol(7cb8bdc9)/FvFile(462caa21)
Boot0001* keelboot\tHD(1,GPT,f0)/\\EFI\\systemd\\systemd-bootx64.efi
Boot0002  keelboot\tHD(1,GPT,f1)/\\EFI\\systemd\\systemd-bootx64.efi
Boot0004* debian\tHD(1,GPT,f0)/\\EFI\\debian\\shimx64.efi
Boot0005* keelboot-like\tHD(1,GPT,f0)/\\EFI\\x.efi
"""


def test_only_entries_of_ours_are_replaced() -> None:
    assert entries(LISTING) == ["0001", "0002"]
    assert entries("") == []
