"""Whether an ESP, as a cut of the power left it, still leads to the version before or after what was going on.

As a program it judges one image of many: `esp_judge.py IMAGE STEPS RESULTS`. STEPS is a file with what each step may
lead to, RESULTS gets a line of JSON; the exit status is 0 where all is well. `powercut` tells which steps are over.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from keelboot.boot import esp
from keelboot.boot.systemd_boot import KERNELS

# A user's ~/.mtoolsrc may change names and drives.
_ENVIRONMENT = {**os.environ, "MTOOLSRC": "/dev/null", "HOME": "/nonexistent", "LC_ALL": "C"}
# A name that shares clusters with another is emptied, then found to lead nowhere and removed, then its long name is.
_PASSES = 3
# What fsck.fat says of a FAT that is well but for being mounted, and of what is no error to it.
_HARMLESS = re.compile(
    r"^(fsck\.fat [0-9].*|There are differences between boot sector.*|This is mostly harmless.*|  65:01/00"
    r"|  Not automatically fixing this\.|Dirty bit is set\..*| Automatically removing dirty bit\."
    r"|Leaving filesystem unchanged\.|.* files, .* clusters)?\n",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Step:
    """What the loader boots, and all that is there, before and after a step; ALSO is what a trial may lead to."""

    name: str
    old: str
    new: str
    old_names: list[str]
    new_names: list[str]
    also: list[str] = field(default_factory=list)

    def outcome(self, seen: "Seen") -> str:
        """Where that leaves the machine: with the old, the new, something between them, or nothing that is allowed."""
        if seen.head not in (self.old, self.new, *self.also):
            return "neither"
        names = self.old == self.new
        what, old, new = (seen.names, self.old_names, self.new_names) if names else (seen.head, self.old, self.new)
        return "old" if what == old else "new" if what == new else "between"


@dataclass(frozen=True)
class Seen:
    """An ESP: the entry that boots, the names of entries and kernels, and what is wrong with what may boot."""

    head: str
    names: list[str]
    usable: list[str]
    faults: list[str]


def look(image: Path) -> Seen:
    """Read the ESP in IMAGE as the loader does: its entries, and whether their kernels are what they should be."""
    with tempfile.TemporaryDirectory(dir=image.parent) as directory:
        copy = Path(directory)
        (copy / esp.ENTRIES).mkdir(parents=True)
        (copy / KERNELS).mkdir(parents=True)
        said = _mtools("mdir", "-b", "-i", image, f"::/{esp.ENTRIES}", f"::/{KERNELS}")
        names = sorted(line.removeprefix("::/").rstrip("/") for line in said.splitlines())
        for name in names:
            if name.endswith(".conf"):  # one by one: mcopy ends at what it cannot read
                _mtools("mcopy", "-n", "-i", image, f"::/{name}", copy / esp.ENTRIES)
        usable = [listed for listed in esp.entries(copy) if listed.usable]
        for kernel in {listed.boot_digest for listed in usable}:
            _mtools("mcopy", "-sn", "-i", image, f"::/{KERNELS}/{kernel}", copy / KERNELS)
        faults = [listed.file_name for listed in usable if not _complete(copy, listed)]
    faults += [f"Linux adds no more names to {path}" for path in (esp.ENTRIES, KERNELS) if _has_a_gap(image, path)]
    return Seen(usable[0].file_name if usable else "", names, [listed.file_name for listed in usable], faults)


def checked(image: Path, *, repair: bool = False) -> tuple[int, str]:
    """fsck.fat's verdict on IMAGE, and its words: 0 is clean, 1 is something that it repairs, or has repaired."""
    argv = ["fsck.fat", "-a" if repair else "-n", image]
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", env=_ENVIRONMENT, check=False)
    return done.returncode, done.stdout + done.stderr


def judge(image: Path, step: Step) -> dict[str, Any]:
    """What became of STEP in IMAGE; `faults` is empty where the machine is well."""
    seen, (status, said) = look(image), checked(image)
    found: dict[str, Any] = {"step": step.name, "outcome": step.outcome(seen), **asdict(seen), "fsck": status}
    found["shared"], found["said"] = "share clusters" in said, said
    if found["outcome"] == "neither":
        found["faults"].append(f"{seen.head or 'nothing'} boots")
    if status > 1:
        found["faults"].append(f"fsck.fat cannot read it: {said}")
    elif status == 1 and _HARMLESS.sub("", said):
        with tempfile.TemporaryDirectory(dir=image.parent) as directory:
            mended = Path(directory, "mended.img")
            subprocess.run(["cp", "--sparse=always", image, mended], check=True)
            for _ in range(_PASSES):
                checked(mended, repair=True)
            status, said = checked(mended)
            again = look(mended)
        if status:
            found["faults"].append(f"fsck.fat does not repair it: {said}")
        found["lost"] = sorted(set(seen.usable) - set(again.usable))
        found["faults"] += [f"after fsck.fat: {name}" for name in again.faults]
        if step.outcome(again) == "neither":
            found["faults"].append(f"after fsck.fat {again.head or 'nothing'} boots")
    return found


def _complete(copy: Path, listed: esp.Listed) -> bool:
    directory = f"/{KERNELS}/{listed.boot_digest}"
    named = (listed.entry.linux, listed.entry.initrd)
    return named == tuple(f"{directory}/{name}" for name in esp.FILES) and esp.sound(copy, listed.boot_digest)


def _has_a_gap(image: Path, path: str) -> bool:
    """Whether the directory PATH has a used slot behind one that never was: fs/fat/dir.c then fails with EIO."""
    chain = _mtools("mshowfat", "-i", image, f"::/{path}")
    data = bytearray()
    with image.open("rb") as file:
        head = file.read(512)
        cluster, copies, fat = head[13] * 512, head[16], int.from_bytes(head[36:40], "little")
        first = (int.from_bytes(head[14:16], "little") + copies * fat) * 512
        for found in re.finditer(r"<(\d+)(?:-(\d+))?>", chain):
            for number in range(int(found[1]), int(found[2] or found[1]) + 1):
                file.seek(first + (number - 2) * cluster)
                data += file.read(cluster)
    slots = bytes(data[::32])  # the first byte of each: 0 was never used, E5 is free again
    return bool(slots.partition(b"\0")[2].strip(b"\0\xe5"))


def _mtools(*argv: str | Path) -> str:
    """What an mtool printed. It may complain: of what it could not read, something is missing afterwards."""
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=_ENVIRONMENT, check=False
    )
    return done.stdout


def main(image: Path, steps: Path, results: Path) -> int:
    passed = [name for name in os.environ["POWERCUT_MARKS"].split(",") if name]
    step = Step(**json.loads(steps.read_text())[len(passed)])
    found = judge(image, step)
    found["point"] = f"{os.environ['POWERCUT_POINT']} {os.environ['POWERCUT_VARIANT']}"
    with results.open("a") as lines:
        lines.write(json.dumps(found) + "\n")
    print(f"{step.name}:", *(re.sub(r"\s+", " ", fault) for fault in found["faults"]))
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
