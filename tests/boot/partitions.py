"""Looking into a disk file, and changing it, with the tools of others."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Partition:
    """Where a partition lies in its disk, in bytes."""

    disk: Path
    start: int
    size: int

    def debugfs(self, *commands: str, write: bool = False) -> str:
        """Run debugfs on the partition in place, and return what it printed."""
        argv = ["debugfs", *(["-w"] if write else []), "-f", "-", f"{self.disk}?offset={self.start}"]
        done = subprocess.run(argv, input="\n".join(commands), text=True, capture_output=True, check=True)
        return done.stdout + done.stderr

    def extract(self, target: Path) -> Path:
        """Copy the partition to a file of its own, with its holes."""
        argv = ["dd", f"if={self.disk}", f"of={target}", "bs=1M", "conv=sparse", "status=none"]
        mib = 1 << 20
        subprocess.run([*argv, f"skip={self.start // mib}", f"count={self.size // mib}"], check=True)
        return target


def partitions(disk: Path) -> dict[str, Partition]:
    """The partitions of DISK by name."""
    table = json.loads(subprocess.run(["sfdisk", "--json", disk], check=True, capture_output=True).stdout)
    return {
        entry["name"]: Partition(disk, entry["start"] * 512, entry["size"] * 512)
        for entry in table["partitiontable"]["partitions"]
    }


def first_block(partition: Partition, path: str) -> int:
    """At which byte of the disk the content of the file at PATH begins; the filesystem has blocks of 4 KiB."""
    said = partition.debugfs(f"bmap {path} 0")
    block = int(re.findall(r"^(\d+)$", said, re.MULTILINE)[-1])
    return partition.start + block * 4096
