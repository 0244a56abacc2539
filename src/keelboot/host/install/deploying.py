"""The first deployment of a machine, into a store that is mounted: the same code stages it that stages an upgrade.

What is particular to a first one: the machine's settings, root's SSH keys, the boot loader.
"""

import base64
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from keelboot import durable
from keelboot.assembly.record import Record
from keelboot.assembly.settings import Settings
from keelboot.boot import esp
from keelboot.boot.systemd_boot import LOADER_CONF, LOADERS, SHELL_SCRIPT
from keelboot.failure import NoVerity
from keelboot.host import namespace, records, stage
from keelboot.host.admitted import Admitted
from keelboot.host.install import wishes as asked
from keelboot.host.install.look import Look
from keelboot.host.install.wishes import Wishes
from keelboot.host.stage import Candidate
from keelboot.host.sysroot import Sysroot
from keelboot.image.transports import Image
from keelboot.image.tree import External, ObjectId
from keelboot.progress import Progress
from keelboot.store import kernel_verity
from keelboot.store.draft import READ
from keelboot.store.repository import Repository

_KEYS: Final = "tmpfiles.d/bootc-root-ssh.conf"  # where bootc puts them, so that tools which look there find them


def deploy(
    sysroot: Sysroot,
    image: Image,
    look: Look,
    wishes: Wishes,
    settings: Settings,
    *,
    admitted: Admitted,
    verified: bool,
    progress: Progress,
    check: Callable[[Candidate], None] = lambda _: None,
) -> Record:
    """Have IMAGE, which LOOK is of, in the store of SYSROOT, and an entry on its ESP that boots it.

    ADMITTED proves that IMAGE may be that. CHECK is called once the contents are in the store and nothing names them,
    and may refuse. VERIFIED demands that everything is sealed. Running again after a cut finishes the work.

    Raises Failure.
    """
    source = str(wishes.target or wishes.image)
    with (
        namespace.locked(sysroot, progress),
        stage.fetched(sysroot, image, source=source, progress=progress) as candidate,
    ):
        asked.refuse_changed(look.digest.hex, candidate.digest.hex, source)
        if verified:
            with progress.step("Checking the seals"):
                require_sealed(candidate.repository)
        check(candidate)
        records.write_settings(sysroot, settings)
        record = stage.commit(
            sysroot,
            candidate,
            admitted,
            parent=None,
            settings=settings,
            tries=None,
            verified=verified,
            progress=progress,
        )
    if wishes.ssh_keys:
        write_keys(sysroot, record.digest, wishes.ssh_keys)
    for path, content in wishes.etc.items():
        write_etc(sysroot, record.digest, path, content)
    return record


def require_sealed(repository: Repository) -> None:
    """Raise NoVerity unless the kernel checks every object of REPOSITORY on each read."""
    objects = repository.objects
    for directory, file in objects.walk():
        name = ObjectId(directory + file)
        with objects.opened(name) as fd:
            try:
                measured = kernel_verity.measured(fd)
            except kernel_verity.Unsupported:
                measured = None
        if measured != name:
            raise NoVerity(
                "cannot install a verified root",
                why=f"the filesystem did not seal the object {name.hex[:12]}, so the machine would refuse to boot",
                fix="The filesystem needs its verity feature (`mke2fs -O verity`, `tune2fs -O verity`) and blocks "
                "of 4096 bytes; or add --allow-missing-verity.",
            )


def write_keys(sysroot: Sysroot, digest: ObjectId, keys: tuple[str, ...]) -> None:
    """Let the owners of KEYS log in as root of the deployment DIGEST. Durable when this returns."""
    # tmpfiles.d(5): "f~" takes its content in base64, so no character of a key means anything to it.
    content = base64.b64encode("".join(f"{key}\n" for key in keys).encode()).decode()
    lines = f"d /root/.ssh 0700 root root - -\nf~ /root/.ssh/authorized_keys 0600 root root - {content}\n"
    write_etc(sysroot, digest, f"/etc/{_KEYS}", lines.encode())


def write_etc(sysroot: Sysroot, digest: ObjectId, path: str, content: bytes) -> None:
    """Have CONTENT at PATH, below /etc, as a change of this machine under the deployment DIGEST.

    Durable when this returns.
    """
    upper = sysroot.deployment(digest) / "etc/upper"
    file = upper / path.removeprefix("/etc/")
    file.parent.mkdir(parents=True, exist_ok=True)
    with durable.replacing(file) as draft:
        draft.write(content)
    for directory in file.parent.parents:
        durable.sync_directory(directory)
        if directory == upper:
            break


def add_loader(sysroot: Sysroot, look: Look, *, fallback: bool, configuration: bytes = LOADER_CONF) -> None:
    """Put systemd-boot, as the image has it, onto the ESP: what makes the disk bootable, so it comes last.

    FALLBACK takes the place where firmware looks without being told. Raises OutOfSpace, NotWritable, Failure.
    """
    names = LOADERS[look.system.architecture]
    with esp.explained(sysroot.esp):
        for name in (names.installed, *((names.fallback,) if fallback else ())):
            _put(sysroot.esp / name, content(sysroot, look.system.loader))
        _put(sysroot.esp / "loader/entries.srel", [b"type1\n"])
        _put(sysroot.esp / "loader/loader.conf", [configuration])
        if fallback:
            _put(sysroot.esp / "startup.nsh", [SHELL_SCRIPT])
        fd = os.open(sysroot.esp, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            durable.sync_filesystem(fd)
        finally:
            os.close(fd)


def content(sysroot: Sysroot, external: External) -> Iterator[bytes]:
    """The bytes of an object in the store, block by block. Raises OSError."""
    with (sysroot.store / "objects" / external.object.path).open("rb") as file:
        while block := file.read(READ):
            yield block


def _put(path: Path, chunks: Iterable[bytes]) -> None:
    """Have CHUNKS at PATH of the ESP; a cut leaves the old file or the new one; a draft goes with the next call."""
    data = b"".join(chunks)
    path.parent.mkdir(parents=True, exist_ok=True)
    for draft in path.parent.glob(f".{path.name}.*"):
        draft.unlink()
    if path.exists() and path.read_bytes() == data:
        return
    with durable.replacing(path) as file:
        file.write(data)
