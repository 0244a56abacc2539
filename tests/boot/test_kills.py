"""The power is cut at random moments of upgrades: the machine always boots the old version or the new one.

Each round makes one upgrade, on top of whatever the cut before has left, and begins another one; the power is cut
between its begin and shortly after its end, and the machine boots. Versions have kernels of their own, so the ESP is
written to as well. KEELBOOT_KILLS says how many rounds there are: 30 without it, 200 for the full run. QEMU is killed,
so all that the guest has written is there; that a disk may also lose or tear what it was not told to flush is for the
replays in tests/crash and test_esp_cuts.py.
"""

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from boot.computer import Computer, new_key
from boot.conftest import Built, Keelboot, succeeded
from boot.derived import content_of, derive
from boot.registry import Registry, serving

KILLS = int(os.environ.get("KEELBOOT_KILLS", "30"))
SEED = int(os.environ.get("KEELBOOT_SEED", "1"))
pytestmark = [pytest.mark.machine, pytest.mark.long, pytest.mark.timeout(900 + 300 * KILLS)]

NAMES = ("a", "b", "c", "d", "e")
FSCK_EVERY = 10  # rounds; all of the store is read, which takes longer than a boot
LATEST = 1.1  # of the time that a whole upgrade takes


@dataclass(frozen=True)
class Kill:
    """An upgrade that was cut: after how many seconds, how long the whole one before took, whether it was reported."""

    at: float
    whole: float
    reported: bool  # it had said that it is done
    outcome: str  # what ran then: old or new


@dataclass
class Machine:
    """The machine, where its images are, and the digest that its loader takes next."""

    computer: Computer
    source: str
    following: str
    kills: list[Kill] = field(default_factory=list)

    def status(self) -> dict[str, Any]:
        return self.computer.status()["status"]

    def command(self, name: str) -> str:
        return f"keelboot switch --allow-downgrade {self.source}:{name}"

    def foreign(self) -> list[str]:
        """The versions that the machine does not have."""
        status = self.status()
        entries = [status["booted"], status["staged"], status["rollback"], *status.get("otherDeployments", ())]
        here = {version(entry) for entry in entries}
        return [name for name in NAMES if name not in here]

    def upgrade(self, name: str) -> float:
        """A whole upgrade to the version NAME: the seconds it took."""
        began = time.monotonic()
        assert "Queued for next boot: " in self.computer.told(self.command(name))
        seconds = time.monotonic() - began
        staged = self.status()["staged"]
        assert version(staged) == name
        self.following = staged["composefs"]["verity"]
        return seconds

    def cut(self, name: str, at: float, whole: float) -> None:
        """Begin an upgrade to NAME, cut the power AT seconds later, and look what boots."""
        process = self.computer.begin(self.command(name))
        with suppress(subprocess.TimeoutExpired):
            assert process.wait(at) == 0
            time.sleep(max(0.0, at - whole))
        self.computer.cut()
        said, _ = process.communicate()
        self.computer.power_on()
        self.computer.ask("systemctl is-system-running --wait")
        booted = self.status()["booted"]
        digest = booted["composefs"]["verity"]
        outcome = "old" if digest == self.following else "new"
        assert outcome == "old" or version(booted) == name, f"neither old nor new runs: {booted}"
        reported = "Queued for next boot: " in said
        assert outcome == "new" or not reported, f"it was reported as done, and the old one runs: {said}"
        self.following = digest
        self.kills.append(Kill(at, whole, reported, outcome))
        print(f"{len(self.kills)}: cut {at:.1f} s into an upgrade of {whole:.1f} s: {outcome}", flush=True)

    def sound(self) -> None:
        """Everything runs, and nothing is wrong with what it boots from."""
        assert self.computer.ask("systemctl is-system-running").text == "running"
        self.computer.told("keelboot fsck")


def version(entry: dict[str, Any] | None) -> str:
    return str(entry["image"]["version"]) if entry else ""


@pytest.fixture(scope="module")
def registry(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Versions that differ in files of every size, and in their initramfs."""
    draw = random.Random(SEED)
    modules = f"usr/lib/modules/{built.facts['kernels'][0]}"  # type: ignore[index]
    initramfs = content_of(built.name, f"{modules}/initramfs.img")
    with serving(tmp_path_factory.mktemp("registry")) as running:
        for number, name in enumerate(NAMES):
            sizes = (draw.choice((10, 900, 9000, 400_000)) for _ in range(60))
            files = {f"usr/share/example/{name}/{at}": draw.randbytes(size) for at, size in enumerate(sizes)}
            # Zeros may follow the archive of an initramfs: it is another file, and boots the same.
            files[f"{modules}/initramfs.img"] = initramfs + bytes(512 * (number + 1))
            labels = {"org.opencontainers.image.version": name}
            image = derive(f"localhost/keelboot-test/kill-{SEED}:{name}", built.name, files, labels=labels)
            running.push(image, f"example/kill:{name}")
        yield running


@pytest.fixture(scope="module")
def killed(
    keelboot: Keelboot, built: Built, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """The machine after all of it."""
    place = tmp_path_factory.mktemp("kills")
    key, disk = new_key(place), place / "machine.img"
    succeeded(keelboot("disk", built.name, "-o", disk, "--ssh-key", key.with_suffix(".pub")))
    draw = random.Random(SEED)
    with Computer(disk, key=key, log=place / "console.log") as computer:
        computer.told(registry.trust())
        machine = Machine(computer, f"docker://{registry.inside}/example/kill", built.digest)
        for number in range(KILLS):
            whole = machine.upgrade(machine.foreign()[0])
            machine.cut(machine.foreign()[0], draw.uniform(0, LATEST) * whole, whole)
            if number % FSCK_EVERY == FSCK_EVERY - 1:
                machine.sound()
        machine.upgrade(machine.foreign()[0])
        computer.reboot()
        machine.sound()
        yield machine
    disk.unlink()


def test_old_or_new_always_boots_and_upgrades_go_on(killed: Machine) -> None:
    outcomes = Counter(kill.outcome for kill in killed.kills)
    assert sum(outcomes.values()) == KILLS
    print(f"{KILLS} cuts: {outcomes['old']} times the old version, {outcomes['new']} times the new one")
    if KILLS >= 30:
        assert min(outcomes["old"], outcomes["new"]) >= 3, outcomes


def test_nothing_is_left_over(killed: Machine) -> None:
    """What interrupted upgrades left is gone after one that was not."""
    killed.computer.told("keelboot gc")
    assert "removed 0 objects" in killed.computer.told("keelboot gc")
