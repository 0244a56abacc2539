"""Makes the disk that test_disk.py looks at, in a process of its own: make_disk.py OUTPUT FORMAT ORDER [STOP].

ORDER is 1 or -1, the order in which contents arrive; STOP names the step at which it interrupts or kills itself, as in
`interrupt:store`. It prints the layout as JSON; a failure is printed by its class and ends with status 1.
"""

import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from keelboot.disk import layout, sealed_objects, writer
from keelboot.disk.contents import Contents, Directory, Entry, File, Sealed, Symlink, Usage
from keelboot.disk.formats import Format
from keelboot.failure import Failure
from keelboot.progress import SILENT, Step

SIZES = [0, 1, 64, 4095, 4096, 4097, 65536, 65537, 524288, 524289, (1 << 20) + 1, 5_000_001]
EPOCH = 1_700_000_000


def content(size: int) -> bytes:
    """SIZE bytes; a run of zeros in the middle of the longer ones, as programs have."""
    data = bytearray(random.Random(size).randbytes(size))
    if size > 100_000:
        data[20_000:60_000] = bytes(40_000)
    return bytes(data)


def esp_files() -> dict[str, bytes]:
    return {
        "EFI/BOOT/BOOTX64.EFI": content(65537),
        "EFI/systemd/systemd-bootx64.efi": content(65537),
        f"keelboot/{'b' * 64}/vmlinuz": content((1 << 20) + 1),
        f"loader/entries/keelboot-{'a' * 64}+3.conf": b"title web\n",
        "loader/loader.conf": b"timeout 3\n",
    }


def other_files(source: Path) -> list[Entry]:
    return [
        Directory(path=b"/", mode=0o700),
        Directory(path=b"/state/deploy/a b", mode=0o1750, uid=100_000, gid=7),
        File(path=b'/state/deploy/a b/it is "x"', content=b"quoted\n", mode=0o4711, uid=3, gid=70_000),
        File(path=b"/state/from-host", content=source, size=source.stat().st_size, mode=0o600),
        Symlink(path=b"/composefs/images/short", target=b"../objects"),
        Symlink(path=b"/composefs/images/long", target=b"../objects/" + b"l" * 300),
    ]


class Stopping:
    """Progress that ends the process at a step."""

    def __init__(self, how: str, where: str) -> None:
        self.signal = {"interrupt": signal.SIGINT, "kill": signal.SIGKILL}[how]
        self.where = where

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Step]:
        if title == self.where:
            os.kill(os.getpid(), self.signal)
        with SILENT.step(title, total) as step:
            yield step


def main() -> int:
    output, form, order = Path(sys.argv[1]), Format(sys.argv[2]), int(sys.argv[3])
    progress = Stopping(*sys.argv[4].split(":")) if sys.argv[4:] else SILENT
    try:
        with sealed_objects.staging(output) as sealed:
            for size in SIZES[::order]:
                sealed.add(size, [content(size)])
            source = sealed.directory / "source"
            source.write_bytes(b"from the host\n")
            store = [*Sealed.below(b"/composefs/objects", sealed.objects()), *other_files(source)]
            esp = esp_files()
            usage = Usage.of(store)
            plan = layout.plan(
                "sha256:test", architecture="amd64", esp=sum(map(len, esp.values())), store=usage, size=1 << 30
            )
            contents = Contents(esp=esp, store=tuple(store), var=(Directory(path=b"/log"),), objects=sealed.directory)
            writer.write(plan, contents, output, epoch=EPOCH, form=form, progress=progress)
            objects = {str(size): name.hex for name, size in sealed.objects().items()}
    except Failure as failure:
        print(type(failure).__name__, failure)
        return 1
    print(json.dumps({"layout": asdict(plan), "usage": asdict(usage), "objects": objects}, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
