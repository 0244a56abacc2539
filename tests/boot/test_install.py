"""Machines that come to be by installing: onto a disk, into LVM on LUKS made by hand, and beside a running Debian.

One machine, the bench, boots from a disk of the image and has empty disks beside it; what it makes of these boots alone
afterwards. The image comes on a medium of its own, as on a rescue system.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from boot import plain_debian
from boot.computer import Answer, new_key
from boot.conftest import succeeded
from boot.partitions import partitions
from boot.workbench import PASSPHRASE, Workbench

# Each machine installs twice, which takes minutes without KVM.
pytestmark = [pytest.mark.machine, pytest.mark.long, pytest.mark.timeout(3600)]

Keelboot = Callable[..., subprocess.CompletedProcess[str]]
Answers = dict[str, Answer]

CONTEXT = Path(__file__).with_name("installer")
SOURCE = Path(__file__).resolve().parents[2] / "src/keelboot"
IMAGE = "localhost/keelboot-test/installer:1"
PLAIN = "localhost/keelboot-test/plain-debian:1"
TARGET = "registry.example.org/web:1"
FROM_MEDIUM = "--image oci-archive:/var/medium/image.oci"
MEDIUM = "mkdir -p /var/medium && mount -o ro /dev/{} /var/medium"
GIB = 1 << 30
SEEN = {
    "state": "systemctl is-system-running; systemctl --failed --no-legend",
    "root": "findmnt -no SOURCE,OPTIONS /",
    "store": "findmnt -no SOURCE,FSTYPE,OPTIONS /sysroot",
    "var": "findmnt -no SOURCE,FSTYPE /var",
    "command line": "cat /proc/cmdline",
    "keys": "cat /root/.ssh/authorized_keys",
    "origin": "cat /sysroot/state/deploy/*/origin.json",
    "status": "keelboot status --json",
    "fsck": "keelboot fsck",
    "write var": "echo mine >/var/lib/mine",
}


@dataclass(frozen=True)
class Room:
    """What every machine here has: a place for disks, a key, the medium with image and program, the image's digest."""

    place: Path
    key: Path
    medium: Path
    digest: str

    def disk(self, name: str, size: int) -> Path:
        file = self.place / name
        with file.open("wb") as stream:
            stream.truncate(size)
        return file

    def machine(self, *disks: Path, log: str) -> Workbench:
        return Workbench(*disks, key=self.key, log=self.place / f"{log}.log")


@pytest.fixture(scope="module")
def room(keelboot: Keelboot, base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:  # noqa: ARG001
    place = tmp_path_factory.mktemp("install")
    succeeded(keelboot("build", "-t", IMAGE, CONTEXT, timeout=1200))
    content = place / "content"
    content.mkdir()
    saving = ["podman", "save", "-q", "--format", "oci-archive", "-o", content / "image.oci", IMAGE]
    subprocess.run(saving, check=True)
    shutil.copytree(SOURCE, content / "src/keelboot", ignore=shutil.ignore_patterns("__pycache__"))
    medium = place / "medium.img"
    with medium.open("wb") as stream:
        stream.truncate((content / "image.oci").stat().st_size + (256 << 20))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", content, medium], check=True)
    digest = json.loads(succeeded(keelboot("inspect", "--json", IMAGE)))["composefs"]
    shutil.rmtree(content)
    yield Room(place, new_key(place), medium, digest)
    for disk in place.glob("*.img"):  # what the machines said stays
        disk.unlink()


def ask(machine: Workbench, questions: dict[str, str]) -> Answers:
    answers: Answers = {}
    with machine.log.with_suffix(".answers").open("a") as record:
        for name, command in questions.items():
            answers[name] = machine.ask(command, within=1800)
            record.write(f"{name}: {answers[name]}\n")
            record.flush()
    return answers


def install(way: str, words: str) -> str:
    return f"keelboot install {way} {FROM_MEDIUM} {words}"


BY_HAND = f"""
set -e
printf 'label: gpt\\nsize=600M, type=uefi\\ntype=linux\\n' | sfdisk -q /dev/vdc
udevadm settle
mkfs.fat -F 32 /dev/vdc1 >/dev/null
printf %s "{PASSPHRASE}" | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/vdc2 -
printf %s "{PASSPHRASE}" | cryptsetup open /dev/vdc2 opened -
pvcreate -q /dev/mapper/opened
vgcreate -q our-group /dev/mapper/opened
lvcreate -q -y -n the-root -L 5G our-group
mke2fs -q -t ext4 -O ^verity /dev/our-group/the-root
mkdir -p /var/target
mount /dev/our-group/the-root /var/target
mkdir -p /var/target/boot/efi
mount /dev/vdc1 /var/target/boot/efi
"""
TO_DISK = (
    f"--target-imgref {TARGET} --karg mine=1 --root-ssh-authorized-keys /root/.ssh/authorized_keys /dev/vdb --json"
)


@pytest.fixture(scope="module")
def bench(keelboot: Keelboot, room: Room) -> tuple[Answers, Path, Path]:
    """What the bench answered, the disk that it installed to, and the one with LVM on LUKS."""
    own = room.place / "bench.img"
    succeeded(keelboot("disk", IMAGE, "-o", own, "--size", "8G"))
    whole, layered = room.disk("whole.img", 9 * GIB), room.disk("layered.img", 8 * GIB)
    small = room.disk("small.img", GIB)
    with room.machine(own, whole, layered, small, room.medium, log="bench") as machine:
        machine.told(MEDIUM.format("vde"))
        answers = ask(
            machine,
            {
                "own disk": install("to-disk", "--wipe /dev/vda"),
                "partition": install("to-disk", "--wipe /dev/vda3"),
                "too small": install("to-disk", "/dev/vdd"),
                "no image": "keelboot install to-disk --image oci-archive:/var/medium/none.oci /dev/vdb",
                "xfs": install("to-disk", "--filesystem xfs /dev/vdb"),
                "tpm": install("to-disk", "--block-setup tpm2-luks /dev/vdb"),
                "dry run": install("to-disk", f"--dry-run {TO_DISK}"),
                "untouched": "test -z \"$(tr -d '\\0' </dev/vdb | head -c 1)\"",
                "cut": f"timeout --signal=KILL 75 {install('to-disk', TO_DISK)}",
                "no table": "dd if=/dev/vdb bs=1M count=1 status=none | tr -d '\\0' | wc -c; blkid -p /dev/vdb",
                "data": install("to-disk", "/dev/vdb"),
                "install": install("to-disk", f"--wipe {TO_DISK}"),
                "table": "sfdisk --verify /dev/vdb",
                "full": install("to-disk", "/dev/vdb"),
                "by hand": BY_HAND,
                "held": install("to-disk", "--wipe /dev/vdc"),
                "no verity": install("to-filesystem", "/var/target"),
                "verity": "tune2fs -O verity /dev/our-group/the-root",
                "files": "mkdir /var/target/data && keelboot install to-filesystem "
                f"{FROM_MEDIUM} /var/target; code=$?; rmdir /var/target/data; exit $code",
                "layered": install("to-filesystem", "--json /var/target"),
                "state": SEEN["state"],
            },
        )
    return answers, whole, layered


@pytest.fixture(scope="module")
def from_disk(room: Room, bench: tuple[Answers, Path, Path]) -> Answers:
    """What the machine answers that has nothing but the disk that was installed to."""
    assert bench[0]["install"].status == 0, str(bench[0]["install"])
    with room.machine(bench[1], log="from-disk") as machine:
        return ask(machine, SEEN)


@pytest.fixture(scope="module")
def from_layers(room: Room, bench: tuple[Answers, Path, Path]) -> Answers:
    """What the machine answers whose root is on LVM on LUKS; its passphrase is typed on the console."""
    assert bench[0]["layered"].status == 0, str(bench[0]["layered"])
    with room.machine(bench[2], log="from-layers") as machine:
        return ask(machine, SEEN | {"layers": "lsblk --noheadings --output TYPE --inverse /dev/our-group/the-root"})


@pytest.fixture(scope="module")
def beside(room: Room, base: str) -> dict[str, Answers]:  # noqa: ARG001 - the base has to be there
    """A Debian that becomes a keelboot machine, goes back once, and is then removed: answers by the boot."""
    building = ["podman", "build", "-q", "--isolation=chroot", "--network=host", "-t", PLAIN]
    subprocess.run([*building, "-f", CONTEXT / "Containerfile.plain", CONTEXT], check=True, capture_output=True)
    disk = room.place / "plain.img"
    plain_debian.write(PLAIN, disk)
    run = "PYTHONPATH=/var/medium/src python3 -m keelboot.cli.main"
    way = f"{run} install to-existing-root {FROM_MEDIUM} --root-ssh-authorized-keys /root/.ssh/authorized_keys"
    files = {"old files": "cat /sysroot/home/mine; ls -d /sysroot/usr/bin/apt"}
    once = "\\007\\0\\0\\0" + "".join(f"{letter}\\0" for letter in "before-keelboot-debian.conf") + "\\0\\0"
    with room.machine(disk, room.medium, log="beside") as machine:
        machine.told(MEDIUM.format("vdb"))
        answers = {
            "debian": ask(
                machine,
                {
                    "features": "dumpe2fs -h /dev/vda2 2>/dev/null | grep features",
                    "dry run": f"{way} --dry-run",
                    "install": f"{way} --json",
                    "firmware": "efibootmgr",
                    "mine": "cat /home/mine",
                },
            )
        }
        assert answers["debian"]["install"].status == 0, str(answers["debian"]["install"])
        machine.reboot()
        answers["new"] = ask(machine, SEEN | files | {"entries": "keelboot status"})
        machine.told(f"printf '{once}' >/sys/firmware/efi/efivars/LoaderEntryOneShot-{_LOADER}")
        machine.reboot()
        answers["old"] = ask(machine, {"root": "findmnt -no SOURCE,FSTYPE /; hostname", "mine": "cat /home/mine"})
        machine.reboot()
        removing = "keelboot install remove-old-root --acknowledge-destructive"
        answers["back"] = ask(machine, {"root": SEEN["root"], "remove": removing, "left": "ls /sysroot"})
        machine.reboot()
        answers["alone"] = ask(machine, SEEN | files)
    return answers


_LOADER = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"  # the vendor of systemd-boot's variables


def healthy(answers: Answers, digest: str) -> None:
    """Everything runs, from a verified root of DIGEST."""
    assert answers["state"].text == "running", str(answers["state"])
    assert answers["root"].text.startswith(f"composefs:{digest} ro,"), str(answers["root"])
    assert "verity=require" in answers["root"].text
    assert "ro" in answers["store"].text.split()[-1].split(",")
    assert answers["write var"].status == 0
    assert answers["fsck"].status == 0, str(answers["fsck"])
    status = json.loads(answers["status"].text)
    assert status["status"]["booted"]["composefs"]["verity"] == digest


@pytest.mark.parametrize(
    ("question", "code", "said"),
    [
        ("own disk", 21, "/dev/vda2 is mounted at /sysroot"),
        ("partition", 9, "it is a partition"),
        ("too small", 8, "MiB or more"),
        ("no image", 4, "none.oci"),
        ("xfs", 23, "xfs has no fs-verity"),
        ("tpm", 1, "to-filesystem"),
        ("full", 22, "a partition table (gpt) with 3 partitions"),
        ("data", 22, "/dev/vdb2: ext4 ('keelboot-store')"),
        ("held", 21, "/dev/mapper/opened is an open LUKS volume on it"),
        ("no verity", 23, "tune2fs -O verity"),
        ("files", 22, "'data'"),
    ],
)
def test_refused(bench: tuple[Answers, Path, Path], question: str, code: int, said: str) -> None:
    answer = bench[0][question]
    assert answer.status == code, str(answer)
    assert said in answer.text
    assert "Traceback" not in answer.text


def test_a_dry_run_tells_and_touches_nothing(bench: tuple[Answers, Path, Path], room: Room) -> None:
    told = told_json(bench[0]["dry run"])
    assert told["composefs"] == room.digest
    assert told["lost"] == []
    assert [part["name"] for part in told["partitions"]] == ["esp", "keelboot-store", "keelboot-var"]
    assert bench[0]["untouched"].status == 0


def test_a_cut_leaves_nothing_that_firmware_would_find(bench: tuple[Answers, Path, Path]) -> None:
    assert bench[0]["cut"].status == 137, str(bench[0]["cut"])
    assert bench[0]["no table"].text.split()[0] == "0"


def test_the_disk_is_sound(bench: tuple[Answers, Path, Path], from_disk: Answers, room: Room) -> None:  # noqa: ARG001
    told = told_json(bench[0]["install"])
    assert (told["composefs"], told["verified"]) == (room.digest, True)
    assert "No errors detected" in bench[0]["table"].text
    for name in ("keelboot-store", "keelboot-var"):
        part = partitions(bench[1])[name].extract(room.place / "extracted")
        subprocess.run(["e2fsck", "-fn", part], check=True, capture_output=True)
        part.unlink()


def test_the_bench_is_well_afterwards(bench: tuple[Answers, Path, Path]) -> None:
    assert bench[0]["state"].text == "running"


def test_the_disk_boots_alone(from_disk: Answers, room: Room) -> None:
    healthy(from_disk, room.digest)
    assert from_disk["var"].text.split() == ["/dev/vda3", "ext4"]
    words = from_disk["command line"].text.split()
    assert {"installed.by=test", "mine=1"} <= set(words)
    assert not [word for word in words if word.startswith("root=")]
    assert room.key.with_suffix(".pub").read_text().strip() in from_disk["keys"].text


def test_upgrades_follow_the_target(from_disk: Answers) -> None:
    record = json.loads(from_disk["origin"].text)
    assert record["image"] == f"docker://{TARGET}"
    assert (record["state"], record["parent"]) == ("good", None)


def test_lvm_on_luks_boots(bench: tuple[Answers, Path, Path], from_layers: Answers, room: Room) -> None:
    healthy(from_layers, room.digest)
    assert from_layers["layers"].text.split() == ["disk", "part", "crypt", "lvm"]
    assert from_layers["var"].text.split() == ["/dev/mapper/our--group-the--root[/state/var]", "ext4"]
    arguments = told_json(bench[0]["layered"])["kargs"]
    assert [word.partition("=")[0] for word in arguments[:3]] == ["root", "rd.lvm.lv", "rd.luks.uuid"]


def test_debian_becomes_a_machine_beside_its_old_root(beside: dict[str, Answers], room: Room) -> None:
    debian = beside["debian"]
    assert "verity" not in debian["features"].text
    assert "the filesystem gets the feature verity" in debian["dry run"].text
    told = told_json(debian["install"])
    assert (told["enablesVerity"], told["takesFallback"], told["verified"]) == (True, False, True)
    assert "keelboot" in debian["firmware"].text
    assert debian["mine"].text == "precious"
    healthy(beside["new"], room.digest)
    assert beside["new"]["old files"].text.split() == ["precious", "/sysroot/usr/bin/apt"]


def test_the_old_system_stays_reachable(beside: dict[str, Answers]) -> None:
    assert beside["old"]["root"].text.split() == ["/dev/vda2", "ext4", "plain"]
    assert beside["old"]["mine"].text == "precious"


def test_the_old_system_can_be_removed(beside: dict[str, Answers], room: Room) -> None:
    assert beside["back"]["root"].text.startswith("composefs:")
    assert beside["back"]["remove"].status == 0, str(beside["back"]["remove"])
    assert beside["back"]["left"].text.split() == ["composefs", "lost+found", "ostree", "state"]
    healthy(beside["alone"], room.digest)
    assert beside["alone"]["old files"].status != 0


def told_json(answer: Answer) -> dict[str, object]:
    """The JSON that a command printed between its remarks."""
    assert answer.status == 0, str(answer)
    text = answer.text
    return json.loads(text[text.index("\n{") if not text.startswith("{") else 0 : text.rindex("\n}") + 2])
