"""A machine in a directory: images on the spot, and what its store, its state and its ESP look like from outside."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from conftest import BOOTABLE
from keelboot.assembly.record import Record, State
from keelboot.boot import esp
from keelboot.host import kept, records, stage
from keelboot.host.sysroot import Sysroot
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.image.tree import ObjectId
from keelboot.store.check import check
from keelboot.store.repository import Lock, opened
from small_images import Files, snapshot, write_layout

MODULES = "usr/lib/modules/6.12.1"


def version(
    directory: Path, number: int, *, kernel: bool = False, files: Mapping[str, bytes | None] | None = None
) -> Reference:
    """An image with the version NUMBER: the same base, one layer of its own, and with KERNEL a kernel of its own."""
    labels = {"containers.bootc": "1", "org.opencontainers.image.version": str(number)}
    return write_layout(directory / f"v{number}", *version_layers(number, kernel=kernel, files=files), labels=labels)


def version_layers(
    number: int, *, kernel: bool = False, files: Mapping[str, bytes | None] | None = None
) -> tuple[Files, Files]:
    """The layers of such an image, lowest first."""
    own: dict[str, bytes | str | None] = {"usr": None, "usr/version": f"{number}\n".encode() * 99}
    if kernel:
        own |= {f"{MODULES}/vmlinuz": f"kernel {number}".encode() * 900}
    base: Files = dict(BOOTABLE)
    return base, own | (files or {})


def machine(directory: Path) -> Sysroot:
    """A machine without anything."""
    for name in ("root", "esp", "run"):
        (directory / name).mkdir()
    return Sysroot(directory / "root", directory / "esp", directory / "run")


def staged(sysroot: Sysroot, source: Reference, **options: object) -> Record:
    """Stage SOURCE."""
    with open_image(source) as image:
        return stage.stage(sysroot, image, jobs=1, **options)  # type: ignore[arg-type]


def bless(sysroot: Sysroot, digest: ObjectId) -> None:
    """What happens after a healthy boot of DIGEST, and the /etc that its first boot gave it."""
    (sysroot.deployment(digest) / "etc/upper").mkdir(parents=True, exist_ok=True)
    for listed in esp.entries(sysroot.esp):
        if listed.digest == digest:
            esp.drop_counter(sysroot.esp, listed)
    records.write(sysroot, replace(records.read(sysroot, digest), state=State.GOOD, rolled_back=False))


def with_versions(directory: Path, count: int, **options: bool) -> tuple[Sysroot, list[ObjectId]]:
    """A machine that booted COUNT versions one after another and found them good; it runs the last."""
    sysroot = machine(directory)
    digests: list[ObjectId] = []
    for number in range(1, count + 1):
        source = version(directory, number, **options)  # type: ignore[arg-type]
        parent = digests[-1] if digests else None
        digests.append(staged(sysroot, source, parent=parent, tries=3 if parent else None).digest)
        bless(sysroot, digests[-1])
    return sysroot, digests


def faults(sysroot: Sysroot, *, needed: bool = False) -> list[str]:
    """What an entry names and is not there, whole; and what is wrong with the store, or with what is NEEDED of it."""
    found = []
    for digest, listed in kept.newest_entries(sysroot).items():
        if not esp.sound(sysroot.esp, listed.boot_digest):
            found.append(f"{listed.file_name}: no kernel")
        if not (sysroot.store / "images" / digest.hex).exists():
            found.append(f"{listed.file_name}: no image")
        if records.find(sysroot, digest) is None:
            found.append(f"{listed.file_name}: no record")
    if sysroot.store.exists() and (sysroot.store / "meta.json").exists():
        with opened(sysroot.store, Lock.SHARED) as repository:
            findings = check(repository, jobs=1).findings
        found += [f"{one.path}: {one.why}" for one in findings if one.references or not needed]
    return found


def boots(sysroot: Sysroot) -> list[str]:
    """The deployments as the loader would try them, each as the start of its digest and what is left of its tries."""
    return [
        listed.digest.hex[:8] + (f"+{listed.entry.tries.left}" if listed.entry.tries else "")
        for listed in esp.entries(sysroot.esp)
    ]


def everything(sysroot: Sysroot) -> dict[str, str]:
    """All files of the machine and what they are, but for generations, times, places of images and numbers of notes."""
    found = {}
    for name, what in snapshot(sysroot.root).items():
        path = sysroot.root / name
        if name.endswith("/origin.json"):
            one = Record.parse(path.read_bytes())
            told = (one.manifest_digest, one.boot_digest, one.arguments, one.parent, one.state)
            found[name] = f"{told} pinned={one.pinned} rolled_back={one.rolled_back}"
        else:
            found[name] = "" if path.parent == sysroot.boots else what
    found |= {f"esp/{name}": what for name, what in snapshot(sysroot.esp).items() if "loader/entries/" not in name}
    for path in sysroot.entries.glob("*"):
        words = [line for line in path.read_text().splitlines() if not line.startswith("version ")]
        name = path.name.split("-", 2)[-1]
        while f"esp/entry {name}" in found:
            name += " again"
        found[f"esp/entry {name}"] = "\n".join(words)
    return found
