"""What a machine does not need any more goes: from the top down, so that nothing left behind names what is gone."""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from keelboot.assembly.record import REFERENCES, reference_of
from keelboot.boot import esp
from keelboot.host import kept, namespace, records, retention
from keelboot.host.retention import Kept
from keelboot.host.sysroot import Sysroot
from keelboot.image.tree import ObjectId
from keelboot.progress import SILENT, Progress
from keelboot.store import garbage, names
from keelboot.store.garbage import Garbage
from keelboot.store.repository import Lock, Repository, opened

STEPS: Final = ("entries", "deployments", "kernels", "boots", "references", *garbage.STEPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What went, or would go. Names are those of files and directories; `store` is what the store had of it."""

    kept: tuple[Kept, ...]
    deployments: tuple[str, ...]
    entries: tuple[str, ...]
    kernels: tuple[str, ...]
    boots: tuple[str, ...]
    store: Garbage

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to remove."""
        store = self.store
        return not (
            self.deployments
            or self.entries
            or self.kernels
            or self.boots
            or store.images
            or store.layers
            or store.objects
            or store.drafts
        )


def collect(
    sysroot: Sysroot,
    booted: ObjectId | None = None,
    *,
    dry_run: bool = False,
    progress: Progress = SILENT,
    reached: Callable[[str], None] = lambda _: None,
) -> Collected:
    """Remove the deployments that nothing keeps, and all that only they needed; return what that was.

    cut after     is left behind                                                   cleared by
    entries       deployments without a boot entry                                 gc
    deployments   kernels, boot records, images and objects that nothing names     gc
    kernels       boot records, images and objects that nothing names              gc
    boots         images and objects that nothing names                            gc
    references    the same                                                         gc

    BOOTED is what runs, found out if it is None. With DRY_RUN nothing is removed. Raises Failure, also where the store
    cannot tell what it needs; then nothing of the store is removed.
    """
    runs = booted or namespace.booted_digest()
    plan = _plan(sysroot, runs)
    if not dry_run:
        # The entry goes first: nothing may boot what is being taken apart.
        for name in plan.entries:
            esp.remove_entry(sysroot.esp, name)
        reached("entries")
        for name in plan.deployments:
            with suppress(FileNotFoundError):
                records.remove(sysroot, name)
        records.remove_rests(sysroot)
        reached("deployments")
        esp.remove_unused(sysroot.esp)
        reached("kernels")
        with records.explained(sysroot):
            for name in plan.boots:
                (sysroot.boots / name).unlink(missing_ok=True)
        reached("boots")
    roots = {one.digest for one in plan.kept} | ({runs} if runs else set())
    with opened(sysroot.store, Lock.ALONE, progress=progress) as repository:
        forgotten = _forgotten(repository, roots)
        found = garbage.find(repository, roots, forgotten=forgotten)
        if not dry_run:
            with progress.step("Removing what nothing needs"):
                for file in forgotten:
                    repository.unpublish(repository.references, file)
                repository.settle(repository.references)
                reached("references")
                garbage.remove(repository, found, reached)
    return replace(plan, store=found)


def due(sysroot: Sysroot, booted: ObjectId) -> bool:
    """Whether a deployment, an entry or a kernel may go; the store is not looked at, which would take long."""
    plan = _plan(sysroot, booted)
    return bool(plan.deployments or plan.entries or plan.kernels)


def _plan(sysroot: Sysroot, booted: ObjectId | None) -> Collected:
    """What may go, but for the store's part."""
    held = kept.held(sysroot)
    stay = retention.keep(held, booted=booted, downloaded=kept.downloaded(sysroot))
    staying = {one.digest for one in stay}
    needed_entries = kept.needed_entries(sysroot)
    entries = [
        one.file_name
        for one in esp.entries(sysroot.esp)
        # Of several entries of one deployment one boots; the others were left by a cut, or by arguments that failed.
        if one.digest not in staying or one not in needed_entries[one.digest]
    ]
    needed = {digest.hex for digest in staying} | ({booted.hex} if booted else set())
    return Collected(
        kept=tuple(stay),
        deployments=tuple(name for name in _names(sysroot.deployments) if name not in needed),
        entries=tuple(entries),
        kernels=tuple(esp.unused_kernels(sysroot.esp, without=entries)),
        boots=tuple(name for name in _names(sysroot.boots) if name not in needed),
        store=Garbage((), (), (), ()),
    )


def _names(directory: Path) -> list[str]:
    """What DIRECTORY has that is called like a deployment; the rest is not keelboot's to remove."""
    try:
        found = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return []
    return [name for name in found if names.image_called(name)]


def _forgotten(repository: Repository, roots: Collection[ObjectId]) -> list[str]:
    """Files of refs/ that name images of deployments which are gone."""
    wanted = {reference_of(digest) for digest in roots}
    return [
        link.file
        for link in repository.links(repository.references)
        if (reference := names.reference_called(link.file))
        and reference.startswith(REFERENCES)
        and reference not in wanted
    ]
