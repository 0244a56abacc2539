#!/usr/bin/env python3
"""Measures machines in QEMU: a boot with and without composefs, an upgrade, and `status`. `make bench-machines`.

Boots are those of one image with one kernel and initramfs: sealed as keelboot makes a disk, and as a plain ext4 without
composefs, overlay and verification; what keelboot's own units do at boot is left out of both. They are taken in turns.
`status` is asked on the machine that was upgraded. Where QEMU emulates its processor, what it takes on one like this
computer's follows from the same interpreter's start, there and here.
It takes root, as the plain disk has the owners that the image has.
"""

import argparse
import base64
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(_TESTS))

from boot.computer import Computer, new_key  # noqa: E402 - of the tests beside this
from boot.derived import derive  # noqa: E402
from boot.partitions import partitions  # noqa: E402
from boot.registry import serving  # noqa: E402

_MIB = 1 << 20
_ESP_MIB, _ROOT_MIB = 512, 2048
# What only a deployment has to do at boot, and what fails where there is none.
_MASKED = [f"--karg=systemd.mask=keelboot-{name}.service" for name in ("boot", "health", "bless", "collect")]
_CARRIED = "/sys/block/vda/stat"  # field 7: sectors of 512 bytes written


@dataclass(frozen=True)
class Boot:
    """What systemd-analyze says of one boot, in seconds, and the time from QEMU's start to its announcement."""

    kernel: float
    initrd: float
    userspace: float
    whole: float


def main() -> int:
    """Measure and print."""
    own = argparse.ArgumentParser("machines", description=__doc__.splitlines()[0])
    own.add_argument("--image", default="localhost/keelboot-demo/web:1", help="in podman's store")
    own.add_argument("--only", choices=("boots", "upgrade"), help="this part")
    own.add_argument("--rounds", type=int, default=3, help="boots of each (default: %(default)s)")
    own.add_argument("--scratch", type=Path, default=Path("/var/tmp"), help="where disks lie (default: %(default)s)")
    arguments = own.parse_args()
    with tempfile.TemporaryDirectory(prefix="keelboot-bench-", dir=arguments.scratch) as scratch:
        place = Path(scratch)
        key = new_key(place)
        if arguments.only != "upgrade":
            sealed = place / "sealed.img"
            keelboot("disk", arguments.image, "-o", sealed, *_MASKED)
            plain = plain_disk(arguments.image, sealed, place / "plain.img")
            show_boots(boots(sealed, plain, rounds=arguments.rounds))
            plain.unlink()
            sealed.unlink()
        if arguments.only != "boots":
            show_upgrade(arguments.image, place, key, rounds=arguments.rounds)
    return 0


def keelboot(*words: str | Path) -> str:
    """Run keelboot and return what it printed."""
    program = [sys.executable, "-m", "keelboot.cli.main", *map(str, words)]
    return subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout


# -- boots --------------------


def plain_disk(image: str, sealed: Path, disk: Path) -> Path:
    """DISK with IMAGE unpacked onto ext4; loader, kernel, initramfs and arguments are those of the disk SEALED."""
    esp = partitions(sealed)["esp"].extract(disk.with_suffix(".esp"))
    root = disk.with_suffix(".root")
    mounted = told("podman", "image", "mount", image).strip()
    try:
        with root.open("wb") as file:
            file.truncate(_ROOT_MIB * _MIB)
        told("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0", "-d", mounted, str(root))
    finally:
        told("podman", "image", "unmount", image)
    (name,) = told("mdir", "-b", "-i", str(esp), "::/loader/entries").splitlines()
    entry = told("mcopy", "-n", "-i", str(esp), name, "-")
    # The root is found by its name and is writable. The unit that would verify it is required, so it cannot be masked:
    # it does nothing instead.
    nothing = base64.b64encode(b"[Service]\nExecStart=\nExecStart=/bin/true\n").decode()
    dropin = f"systemd.set_credential_binary=systemd.unit-dropin.keelboot-root.service:{nothing}"
    options = f"root=PARTLABEL=plain rw {dropin}"
    changed = disk.with_suffix(".conf")
    changed.write_text(re.sub(r"composefs=[0-9a-f]+", options, entry))
    assert options in changed.read_text()
    told("mcopy", "-o", "-i", str(esp), str(changed), name)
    with disk.open("wb") as file:
        file.truncate((_ESP_MIB + _ROOT_MIB + 4) * _MIB)
    size = esp.stat().st_size // _MIB
    table = (
        "label: gpt\n"
        f"start=2048, size={size * 2048}, type=uefi, name=esp\n"
        f"start={(1 + size) * 2048}, size={_ROOT_MIB * 2048}, type=linux, name=plain\n"
    )
    subprocess.run(["sfdisk", "-q", disk], check=True, input=table, text=True)
    for part, start in ((esp, 1), (root, 1 + size)):
        told("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={start}", "conv=notrunc,sparse", "status=none")
        part.unlink()
    return disk


def boots(sealed: Path, plain: Path, *, rounds: int) -> dict[str, list[Boot]]:
    """ROUNDS boots of each, in turns."""
    taken: dict[str, list[Boot]] = {"composefs, verified": [], "plain ext4": []}
    for _ in range(rounds):
        for name, disk in zip(taken, (sealed, plain), strict=True):
            began = time.monotonic()
            words = ("run", "--json", "--snapshot", "--ssh", disk, "--", "sh", "-c")
            seen = keelboot(*words, "systemctl is-system-running --wait; systemd-analyze time; findmnt -no FSTYPE /")
            whole = time.monotonic() - began
            assert ("overlay" in seen) == (disk == sealed), seen
            taken[name].append(parsed(seen, whole))
            print(f"{name}: {seen.splitlines()[1]}", file=sys.stderr, flush=True)
    return taken


def parsed(text: str, whole: float) -> Boot:
    """What systemd-analyze printed."""
    found = {}
    for words in re.findall(r"((?:[0-9.]+(?:min|ms|s) )+)\((\w+)\)", text):
        units = re.findall(r"([0-9.]+)(min|ms|s)", words[0])
        found[words[1]] = sum(float(number) * {"min": 60, "s": 1, "ms": 0.001}[unit] for number, unit in units)
    return Boot(found["kernel"], found["initrd"], found["userspace"], whole)


def show_boots(taken: dict[str, list[Boot]]) -> None:
    """Print the medians, and the first as a ratio of the second."""
    columns = ("kernel", "initrd", "userspace", "whole")
    print("| boot, seconds | kernel | initramfs | userspace | these three | min..max | session, switched on to off |")
    print("|---|---:|---:|---:|---:|---|---:|")
    sums = {}
    for name, of_one in taken.items():
        middle = [statistics.median(getattr(boot, column) for boot in of_one) for column in columns]
        added = sorted(boot.kernel + boot.initrd + boot.userspace for boot in of_one)
        sums[name] = statistics.median(added)
        cells = " | ".join(f"{value:.1f}" for value in middle[:3])
        print(f"| {name} | {cells} | {sums[name]:.1f} | {added[0]:.1f}..{added[-1]:.1f} | {middle[3]:.1f} |")
    first, second = sums.values()
    print(f"\nRatio: {first / second:.2f}\n")


# -- an upgrade --------------------


def show_upgrade(image: str, place: Path, key: Path, *, rounds: int) -> None:
    """Print what upgrades cost: one that changes a page, one that changes a kernel's worth of files. Then `status`."""
    disk = place / "machine.img"
    with serving(place) as registry:
        name = "localhost/keelboot-bench/version"
        small = derive(f"{name}:small", image, {"var/www/html/index.html": b"two\n", "usr/share/new": b"two\n" * 999})
        content = {f"usr/share/example/{at}": at.to_bytes(2) * 25_000 for at in range(400)}
        large = derive(f"{name}:large", image, content)
        keelboot("disk", image, "-o", disk, "--ssh-key", key.with_suffix(".pub"))
        print("| upgrade, from a registry on this computer | seconds | bytes written to the disk | fetched |")
        print("|---|---:|---:|---:|")
        with Computer(disk, key=key, log=place / "upgrade.log") as computer:
            computer.told(registry.trust())
            for what, tag, source in (("one page and one file", "small", small), ("400 files, 20 MB", "large", large)):
                registry.push(source, f"bench/web:{tag}")
                reference = f"docker://{registry.inside}/bench/web:{tag}"
                offer = json.loads(computer.told(f"keelboot switch --dry-run --json {reference}"))
                computer.told("sync")
                before, began = written(computer), time.monotonic()
                computer.told(f"keelboot switch {reference}")
                seconds = time.monotonic() - began
                computer.told("sync")
                size = written(computer) - before
                print(f"| {what} | {seconds:.1f} | {size / 1e6:.1f} MB | {offer['missingSize'] / 1e6:.1f} MB |")
            show_status(image, computer, rounds=rounds)


# -- status --------------------


def show_status(image: str, computer: Computer, *, rounds: int) -> None:
    """Print how long `status` takes in COMPUTER, and what follows from that for a processor that nobody emulates."""
    start = "python3 -I -c pass"
    mounted = told("podman", "image", "mount", image).strip()
    try:
        here = statistics.median(_timed(lambda: told("chroot", mounted, *start.split()), rounds * 5))
    finally:
        told("podman", "image", "unmount", image)
    print("\n| `status`, of a machine with a staged version | in the machine | as its interpreter starts here |")
    print("|---|---:|---:|")
    there = _asked(computer, start, rounds * 5)
    for who, command in (
        ("root", "keelboot status"),
        ("a user", "setpriv --reuid=65534 --clear-groups keelboot status"),
    ):
        taken = _asked(computer, command, rounds * 5)
        print(f"| {who} | {taken * 1e3:.0f} ms | {taken * here / there * 1e3:.0f} ms |")
    print(f"| {start} | {there * 1e3:.0f} ms | {here * 1e3:.0f} ms |")


def _timed(act: Callable[[], object], rounds: int) -> list[float]:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return taken


def _asked(computer: Computer, command: str, rounds: int) -> float:
    """The median of so many runs of COMMAND, in seconds, by the machine's own clock; a first one does not count."""
    once = f"a=$(date +%s%N); {command} >/dev/null || exit; b=$(date +%s%N); echo $((b - a))"
    times = computer.told(f"{command} >/dev/null; for i in $(seq {rounds}); do {once}; done").split()
    return statistics.median(map(int, times)) / 1e9


def written(computer: Computer) -> int:
    """Bytes that the machine has written to its disk so far."""
    return int(computer.told(f"cat {_CARRIED}").split()[6]) * 512


def told(*words: str) -> str:
    """What a program printed; it has to succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
