"""A machine with more than one disk: where something is installed from, and what it is installed onto.

As a program it runs such a machine until that switches itself off: `workbench.py KEY LOG WRITES DISK...`. It boots
from the first disk, and prints a line of JSON once it is up.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from boot.computer import Computer
from keelboot.vm import credentials, firmware, ports, ssh
from keelboot.vm.acceleration import Acceleration
from keelboot.vm.forward import Forward
from keelboot.vm.lifetime import running
from keelboot.vm.machine import Drive, Machine
from keelboot.vm.startup import wait_until_up

_SOURCE = Path(__file__).resolve().parents[2] / "src"
_LONGEST = 900.0
PASSPHRASE = "of the test's disk"  # typed on the console whenever one is asked for


class Workbench(Computer):
    """A `Computer` that boots from DISK and has MORE disks, in the order /dev/vdb, /dev/vdc, ...

    WRITES is a file that keeps what a single disk is asked to write, as `boot.writelog` reads it.
    """

    def __init__(self, disk: Path, *more: Path, key: Path, log: Path, writes: Path | None = None) -> None:
        assert not (more and writes), "only a single disk's writes are kept"
        super().__init__(disk, key=key, log=log)
        self._more, self.writes = more, writes

    def power_on(self) -> None:
        log = self.log.with_name(f"{self.log.stem}-{time.monotonic_ns()}{self.log.suffix}")
        with self.log.with_suffix(".stderr").open("ab") as errors:
            self._run = subprocess.Popen(
                [sys.executable, __file__, self._key, log, self.writes or "", self.disk, *self._more],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": str(_SOURCE)},
            )
        assert self._run.stdout
        line = self._run.stdout.readline()
        assert line, f"the machine did not come up: {self.log.with_suffix('.stderr').read_text()[-3000:]}"
        self._ports = {22: json.loads(line)["ssh"], 80: json.loads(line)["http"]}
        self.dial()
        self.see_boot()


def serve(key_file: Path, log: Path, writes: str, disks: list[Path]) -> None:
    key = ssh.existing_key(key_file)
    forwards = ports.chosen([Forward.parse("0:80"), Forward.parse("0:22")])
    lines = credentials.authorized_key_lines(key.public)
    machine = Machine(
        drives=() if writes else tuple(Drive(disk.absolute(), persist=True) for disk in disks),
        acceleration=Acceleration.TCG,
        firmware=firmware.find_firmware(),
        forwards=forwards,
        credentials=(*credentials.announcer(), credentials.tmpfiles(lines)),
        extra=_logged(disks[0], writes) if writes else (),
    )
    asked = bytearray()

    def show(data: bytes) -> None:
        console.write(data)
        asked.extend(data)
        if b"passphrase" in asked:  # for the disk, by the initramfs
            guest.type(f"{PASSPHRASE}\n".encode())
            asked.clear()
        del asked[:-80]

    with log.open("wb", buffering=0) as console, running(firmware.qemu(), machine, show=show) as guest:
        wait_until_up(guest, within=_LONGEST, ssh=(forwards[1].address, forwards[1].host), may_restart=True)
        print(json.dumps({"http": forwards[0].host, "ssh": forwards[1].host}), flush=True)
        guest.wait(guest.stopped)


def _logged(disk: Path, writes: str) -> tuple[str, ...]:
    """QEMU's words for DISK behind a filter that keeps a log of what is written to it."""
    # Without discard=unmap the guest would read old bytes where it believes in zeros.
    plain = "discard=unmap,detect-zeroes=off"
    nodes = (
        f"driver=file,node-name=disk,filename={disk.absolute()},{plain}",
        f"driver=file,node-name=log,filename={writes},{plain}",
        f"driver=blklogwrites,node-name=logged,file=disk,log=log,log-sector-size=512,{plain}",
    )
    # Requests that are merged have as many pieces as writev(2) takes, and what the log gets of them has one more.
    device = "virtio-blk-pci,drive=logged,bootindex=1,request-merging=off"
    return (*(word for node in nodes for word in ("-blockdev", node)), "-device", device)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], [Path(word) for word in sys.argv[4:]])
