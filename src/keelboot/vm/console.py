"""The serial console: its last megabyte, and what certain lines of it say about the boot. Pure."""

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

KEPT = 1024 * 1024
_LONGEST_LINE = 4096
# CSI, OSC and two-character sequences (ECMA-48), and control characters other than tab.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.|[\x00-\x08\x0b-\x1f\x7f]")


class Meaning(enum.Enum):
    """What a line says."""

    DEAD = "dead"  # this boot will not come up
    LOGIN = "login"  # someone may log in


@dataclass(frozen=True, slots=True)
class Sign:
    """A line of the console that matters, with the reason to give the user and what to do about it."""

    meaning: Meaning
    why: str
    fix: str = ""


_SEE_OUTPUT = "Run it again with --console to watch, and read the first error."
_MEANINGS = (
    (
        re.compile(r"keelboot: refusing to boot: (.*)$"),
        "its initramfs refuses to boot: {0}",
        "Where the image on the disk is damaged, write the disk again, or repair the store: keelboot fsck --repair.",
    ),
    (re.compile(r"Kernel panic - not syncing: ?(.*?)(?: \]---)?$"), "the kernel panicked: {0}", _SEE_OUTPUT),
    (
        re.compile(r"You are in emergency mode|Entering emergency mode|Cannot open access to console"),
        "it stopped in emergency mode: something that the boot depends on failed",
        "The lines before it name the unit or the mount; --console gives its shell where root may log in.",
    ),
    (
        re.compile(r"dracut.*Could not boot|ALERT!.*does not exist|^\(initramfs\)"),
        "the initramfs did not find the root filesystem",
        "Compare `root=` on the kernel's command line with the disk's partitions; the initramfs needs their drivers.",
    ),
    (
        re.compile(r"systemd\[1\]: Freezing execution|\[!!!!!!\]"),
        "systemd could not start and froze",
        _SEE_OUTPUT,
    ),
    (
        re.compile(r"Shell>|UEFI Interactive Shell"),
        "the firmware found nothing to boot and opened its shell",
        "The disk needs an EFI system partition with EFI/BOOT/BOOTX64.EFI; `keelboot disk` writes one.",
    ),
    (
        re.compile(r"No bootable (?:device|option or device)|no bootable device|Boot failed: not a bootable disk"),
        "the firmware found no bootable device",
        "The disk needs a boot loader; `keelboot disk` writes one that has it.",
    ),
    (
        re.compile(r"failed to load Boot.*Access Denied|Error loading.*Access denied|Security Violation"),
        "Secure Boot refused the boot loader or the kernel",
        "Sign them with a key that the firmware's variables hold, or boot without Secure Boot.",
    ),
)  # fmt: skip
_LOGIN = re.compile(r"(?<!Last )\blogin: ?$")
# Lines that wait for an answer, and so have no end: every other is judged when it is whole.
_PROMPT = re.compile(r"(?:login:|\(initramfs\)|Shell>) ?$")


class Console:
    """What the guest wrote, for reading afterwards, and the signs in it as they come."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._line = ""
        self._told: Sign | None = None
        self.size = 0

    def feed(self, data: bytes) -> Iterator[Sign]:
        """Add DATA, and give the signs that it completes, each once for the line it is on."""
        self.size += len(data)
        self._kept += data
        if len(self._kept) > 2 * KEPT:
            del self._kept[:-KEPT]
        *complete, rest = (self._line + data.decode("latin-1")).split("\n")
        self._line = rest[-_LONGEST_LINE:]
        for line in complete:
            sign = read(clean(line))
            if sign is not None and sign != self._told:
                yield sign
            self._told = None
        # A prompt is told once, though more of its line may come.
        if self._told is None and _PROMPT.search(prompt := clean(self._line)):
            self._told = read(prompt)
            if self._told:
                yield self._told

    def content(self) -> bytes:
        """The last megabyte or more, as it came."""
        return bytes(self._kept)

    def tail(self, lines: int) -> Sequence[str]:
        """The last LINES lines that hold anything, without escape sequences."""
        text = self._kept[-256 * (lines + 40) :].decode("utf-8", errors="replace")
        return [line for line in map(clean, text.split("\n")) if line.strip()][-lines:]


def read(line: str) -> Sign | None:
    """What LINE, free of escape sequences, says; None for most lines."""
    for pattern, why, fix in _MEANINGS:
        match = pattern.search(line)
        if match:
            return Sign(Meaning.DEAD, why.format(*match.groups()), fix)
    return Sign(Meaning.LOGIN, "the login prompt appeared") if _LOGIN.search(line) else None


def clean(line: str) -> str:
    """LINE without escape sequences and control characters: safe to show on the user's terminal."""
    return _ESCAPES.sub("", line).rstrip()
