"""Whether all that a machine boots from is there and whole: store, records, boot entries, kernels; and mending it."""

from contextlib import suppress
from dataclasses import dataclass

from keelboot.boot import esp
from keelboot.failure import Failure
from keelboot.host import kept, namespace, records, stage
from keelboot.host.sysroot import Sysroot
from keelboot.image.reference import Reference
from keelboot.image.tree import ObjectId
from keelboot.progress import SILENT, Progress
from keelboot.store import names
from keelboot.store.check import Finding, Report, check
from keelboot.store.repair import repair
from keelboot.store.repository import Lock, opened


@dataclass(frozen=True, slots=True)
class Soundness:
    """What was found wrong with the machine, and with its store; `mended` was, and is not any more."""

    findings: tuple[Finding, ...]
    store: Report
    mended: tuple[Finding, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings and not self.store.findings


def examine(
    sysroot: Sysroot, booted: ObjectId | None = None, *, jobs: int = 2, progress: Progress = SILENT
) -> Soundness:
    """Read all of it; nothing is changed. Raises Failure, OSError."""
    with opened(sysroot.store, Lock.SHARED, progress=progress) as repository:
        report = check(repository, jobs=jobs, progress=progress)
    return Soundness(tuple(_machine(sysroot, booted or namespace.booted_digest())), report)


def mend(
    sysroot: Sysroot,
    booted: ObjectId | None = None,
    *,
    jobs: int = 2,
    progress: Progress = SILENT,
) -> Soundness:
    """Mend what can be: the store from the images that the deployments came from, kernels from the store.

    What stays is found again. Raises Failure, OSError.
    """
    before = examine(sysroot, booted, jobs=jobs, progress=progress)
    store, mended, remarks = before.store, list[Finding](), list[str]()
    # What was written as part of a disk has no reference in the store.
    roots = {record.digest for record in records.deployments(sysroot)}
    for source in dict.fromkeys(record.image for record in records.deployments(sysroot)):
        if not store.findings:
            break
        try:
            image = Reference.parse(source)
            done = repair(sysroot.store, image, roots=roots, known=store, jobs=jobs, progress=progress)
        except Failure as failure:
            remarks.append(f"{source} could not be used: {str(failure).splitlines()[0]}")
            continue
        store = done.after
        mended += done.healed
    for record in records.deployments(sysroot):
        if record.boot_digest and not esp.sound(sysroot.esp, record.boot_digest):
            with suppress(Failure):
                _put_kernel_back(sysroot, record.digest, record.boot_digest, progress)
    with suppress(Failure):
        esp.remove_unused(sysroot.esp)
    findings = tuple(_machine(sysroot, booted or namespace.booted_digest()))
    left = {finding.path for finding in (*findings, *store.findings)}
    gone = [finding for finding in (*before.findings, *before.store.findings) if finding.path not in left]
    return Soundness(findings, store, tuple(dict.fromkeys([*gone, *mended])), tuple(remarks))


def _machine(sysroot: Sysroot, booted: ObjectId | None) -> list[Finding]:
    """What is wrong outside the store."""
    found = [Finding(f"state/deploy/{name}", "it has no record that can be read") for name in records.damaged(sysroot)]
    found += [
        Finding(
            f"state/deploy/{record.digest.hex}/signatures", "not all are there and whole; `keelboot upgrade` renews"
        )
        for record in records.deployments(sysroot)
        if record.verification and records.evidence(sysroot, record).keys() != record.verification.evidence
    ]
    found += [
        Finding(f"ESP loader/entries/{name}", "it is damaged, or not keelboot's")
        for name in esp.foreign(sysroot.esp)
        if name.startswith("keelboot-")
    ]
    known = {record.digest: record for record in records.deployments(sysroot)}
    for listed in esp.entries(sysroot.esp):
        path = f"ESP loader/entries/{listed.file_name}"
        if listed.digest not in known:
            found.append(Finding(path, "there is no record of its deployment"))
        if not (sysroot.store / names.IMAGES / listed.digest.hex).exists():
            found.append(Finding(path, "the store does not have its image"))
    kernels = {listed.boot_digest for listed in kept.newest_entries(sysroot).values()}
    found += [
        Finding(f"ESP EFI/keelboot/{name}", "the kernel is missing or damaged")
        for name in sorted(kernels)
        if not esp.sound(sysroot.esp, name)
    ]
    if booted and booted not in {listed.digest for listed in esp.entries(sysroot.esp)}:
        found.append(Finding("ESP loader/entries", "what runs has no boot entry"))
    with suppress(Failure):
        records.settings(sysroot)
        return found
    return [*found, Finding("state/host.json", "it is damaged: the machine's kernel arguments are lost")]


def _put_kernel_back(sysroot: Sysroot, digest: ObjectId, boot_digest: str, progress: Progress) -> None:
    with opened(sysroot.store, Lock.SHARED, progress=progress) as repository:
        tree = stage.tree_of(repository, digest)
        kernel, initramfs = stage.kernel_in(tree)
        chunks = repository.objects.chunks
        esp.add_kernel(sysroot.esp, boot_digest, chunks(kernel.object), chunks(initramfs.object))
