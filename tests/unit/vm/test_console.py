import pytest

from keelboot.vm.console import KEPT, Console, Meaning, clean, read

# As captured from real boots.
PANIC = (
    "[    5.312] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n"
    "[    5.313] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0) ]---\r\n"
)
SHELL = (
    '\x1b[2J\x1b[01;01H\x1b[=3h\x1b[2J\x1b[01;01HBdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0): '
    "Not Found\r\n\x1b[1m\x1b[33m\x1b[40mUEFI Interactive Shell v2.2\r\n"
)
PROMPT = "\x1b[!p\x1b]104\x07\x1b[?7h\r\nDebian GNU/Linux 13 vm ttyS0\r\n\r\nvm login: "


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (PANIC, "the kernel panicked: VFS: Unable to mount root fs on unknown-block(0,0)"),
        (SHELL, "opened its shell"),
        ("BdsDxe: No bootable option or device was found.\r\n", "no bootable device"),
        ("Boot failed: not a bootable disk\r\n\r\nNo bootable device.\r\n", "no bootable device"),
        ("[  9.9] keelboot: refusing to boot: the store has no image\r\n", "refuses to boot: the store has no image"),
        ("You are in emergency mode. After logging in, type...\r\n", "emergency mode"),
        ('Generating "/run/initramfs/rdsosreport.txt"\r\nEntering emergency mode. Exit the shell\r\n', "emergency"),
        ("ALERT!  LABEL=root does not exist.  Dropping to a shell!\r\n", "did not find the root filesystem"),
        ("(initramfs) ", "did not find the root filesystem"),
        ("dracut Warning: Could not boot.\r\n", "did not find the root filesystem"),
        ("[!!!!!!] Failed to mount API filesystems.\r\n", "systemd could not start"),
        ('BdsDxe: failed to load Boot0001 "UEFI" from PciRoot(0x0)/Pci(0x3,0x0): Access Denied\r\n', "Secure Boot"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 10000])
def test_knows_when_a_boot_is_over(text: str, why: str, size: int) -> None:
    console = Console()
    signs = [s for at in range(0, len(text), size) for s in console.feed(text[at : at + size].encode())]
    assert why in signs[0].why
    assert signs[0].meaning is Meaning.DEAD
    assert signs[0].fix


@pytest.mark.parametrize("size", [1, 3, 10000])
def test_sees_a_login_prompt_once(size: int) -> None:
    console = Console()
    signs = [s for at in range(0, len(PROMPT), size) for s in console.feed(PROMPT[at : at + size].encode())]
    assert [sign.meaning for sign in signs] == [Meaning.LOGIN]


@pytest.mark.parametrize(
    "line",
    [
        "[   12.1] systemd[1]: Reached target emergency.target - not started",
        "dracut-initqueue[300]: Warning: dracut-initqueue: timeout, still waiting for following initqueue hooks:",
        "Last login: Mon Nov 23 14:23:42 UTC on ttyS0",
        "[    0.000000] Command line: root=LABEL=root rw console=ttyS0 panic=5",
        'BdsDxe: failed to load Boot0002 "UEFI PXE" from PciRoot(0x0): Not Found',
    ],
)
def test_most_lines_mean_nothing(line: str) -> None:
    assert read(line) is None


def test_keeps_the_last_megabyte_of_a_flood() -> None:
    console = Console()
    for number in range(300):
        list(console.feed(b"%05d" % number + b"x" * 16384 + b"\r\n"))
    kept = console.content()
    assert KEPT <= len(kept) <= 2 * KEPT + 20000
    assert kept.endswith(b"x\r\n")
    assert b"00299" in kept
    assert console.size == 300 * (5 + 16384 + 2)


def test_the_tail_is_lines_one_can_read() -> None:
    console = Console()
    list(console.feed(b"\x1b[0;32m  OK  \x1b[0m one\r\n\r\n \r\n\x1b]0;title\x07tw\xc3\xb6\r\nthr\x08ee"))
    assert console.tail(10) == ["  OK   one", "twö", "three"]
    assert console.tail(1) == ["three"]


def test_clean_lets_no_escape_through() -> None:
    assert clean("a\x1b[31mb\x1b]52;c;x\x1b\\c\x1bPd\x9be\x00\r") == "abcde" or "\x1b" not in clean("\x1bP\x1b")
