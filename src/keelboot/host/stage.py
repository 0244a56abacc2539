"""An image becomes the next boot. The same for the first version of a machine and for every one after it.

Everything is done before anything is named, and the boot entry comes last: that is the commit.

cut after   is left behind                                        cleared by
contents    objects that nothing names, perhaps not durable       gc; the next try uses them
records     the same, with records and composefs image            the same
barrier     the same, durable                                     the same
layers      layer records that no image needs                     gc; the next try does not read those layers
image       a composefs image that no reference needs             the same
reference   an image without a deployment                         gc; the next try reads nothing again
state       a deployment without a boot entry                     gc; the next try goes on
kernel      a kernel that no entry names                          gc; the next try goes on
entry       the new version, with its tries to prove itself       boot counting: blessed, or passed over

Running again after a cut finishes. Up to `entry` the machine boots what it booted before, from then on the new one.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from keelboot import durable
from keelboot.assembly.record import Record, State, reference_of
from keelboot.assembly.settings import Settings
from keelboot.assembly.system import System, entry_of, system_in
from keelboot.boot import esp
from keelboot.boot.entries import Tries
from keelboot.boot.systemd_boot import boot_digest
from keelboot.composefs import reader, trees
from keelboot.failure import CannotFinish, Failure, InvalidImage, SignatureRefused
from keelboot.host import admission, arguments, records, space
from keelboot.host.admission import Terms
from keelboot.host.admitted import Admitted
from keelboot.host.sysroot import Sysroot
from keelboot.image import bootable
from keelboot.image.digest import Digest
from keelboot.image.documents import Config, normal_architecture, parse_config
from keelboot.image.refusal import Refused
from keelboot.image.transports import Image
from keelboot.image.tree import Directory, External, Node, ObjectId, Regular, resolve
from keelboot.progress import SILENT, Progress
from keelboot.store import names, pull
from keelboot.store.imagerecord import ImageRecord
from keelboot.store.naming import Naming
from keelboot.store.objects import Objects
from keelboot.store.repository import Lock, Repository, explained, opened
from keelboot.store.survey import survey

STEPS: Final = ("contents", "records", "barrier", "layers", "image", "reference", "state", "kernel", "entry")
TRIES: Final = 3
_SMALL = 1 << 20  # bytes; files that are read by name (os-release, kargs.d) have a few hundred


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An image whose contents are in the store, so that all can be known of it; nothing may name it yet."""

    repository: Repository
    digest: ObjectId
    record: ImageRecord
    name: ObjectId  # of that record
    system: System
    tree: Directory  # as it is deployed
    boot_digest: str
    taken: pull.Taken | None  # None where the store has named the image already


def stage(
    sysroot: Sysroot,
    image: Image,
    *,
    source: str | None = None,
    terms: Terms | None = None,
    parent: ObjectId | None = None,
    settings: Settings | None = None,
    tries: int | None = TRIES,
    verified: bool = True,
    download_only: bool = False,
    jobs: int = 2,
    progress: Progress = SILENT,
    reached: Callable[[str], None] = lambda _: None,
) -> Record:
    """Make IMAGE the next boot of SYSROOT, with so many TRIES to prove itself, and return its record.

    TERMS decide whether it may be that, before any layer of it is read. SOURCE is the reference that upgrades follow,
    IMAGE's own if it is None. PARENT is the deployment whose /etc goes on, None for a machine's first; TRIES is None
    where nothing has to be proved. VERIFIED is false for a filesystem without fs-verity, DOWNLOAD_ONLY leaves the
    kernel and the entry for later. Raises SignatureRefused, OutOfSpace, CannotFinish, InvalidImage and what reading an
    image raises.
    """
    admitted = admission.admit(image, terms or Terms())
    with fetched(sysroot, image, source=source, jobs=jobs, progress=progress, reached=reached) as candidate:
        return commit(
            sysroot,
            candidate,
            admitted,
            parent=parent,
            settings=settings,
            tries=tries,
            verified=verified,
            download_only=download_only,
            progress=progress,
            reached=reached,
        )


@contextmanager
def fetched(
    sysroot: Sysroot,
    image: Image,
    *,
    source: str | None = None,
    var: Path | None = None,
    jobs: int = 2,
    progress: Progress = SILENT,
    reached: Callable[[str], None] = lambda _: None,
) -> Iterator[Candidate]:
    """IMAGE in the store, read as far as it was not there yet, so that one can decide. Raises as `stage` does.

    VAR is the machine's /var where it has one. What the image says that it needs is asked for before a layer is read.
    """
    called = source or str(image.reference)
    refuse_unfit(called, image.config)
    with explained(sysroot.store):
        sysroot.store.mkdir(mode=0o700, parents=True, exist_ok=True)
    with opened(sysroot.store, Lock.SHARED, create=True, progress=progress) as repository:
        taken = None
        name = known(repository, str(image.manifest_digest))
        record = repository.image(name) if name else None
        if record is None or name is None:
            size = space.missing(image.layers, lambda diff_id: has_layer(repository, diff_id))
            space.require_store(sysroot, called, size)
            if size:  # else nothing is fetched, and what the layers say is known at once
                space.require_needed(
                    sysroot,
                    image,
                    called,
                    var=var,
                    survey=lambda: survey(
                        repository, image, lambda one: _sha256(repository, one).hex(), jobs=jobs, progress=progress
                    ),
                )
            taken = pull.take(repository, image, jobs=jobs, progress=progress, reached=reached)
            record, name = taken.record, taken.object
        yield _candidate(repository, (name, record), called, image.config, taken)


@contextmanager
def stored(sysroot: Sysroot, record: Record, *, progress: Progress = SILENT) -> Iterator[Candidate]:
    """The image of the deployment that RECORD is of, out of the store. Raises Failure where it is not there."""
    with opened(sysroot.store, Lock.SHARED, progress=progress) as repository:
        for link in repository.links(repository.references):
            image = repository.image(link.object) if link.object else None
            if image and link.object and image.composefs and image.composefs.object == record.digest:
                data = repository.objects.read(image.config.object)
                if data is not None and pull.complete(repository, image):
                    config = _config(data, record.image)
                    yield _candidate(repository, (link.object, image), record.image, config, None)
                    return
        raise Failure(
            f"cannot use what was downloaded of {record.image}",
            why="the store does not have all of it any more",
            fix="Download it again with `keelboot upgrade --download-only`.",
        )


def commit(
    sysroot: Sysroot,
    candidate: Candidate,
    admitted: Admitted,
    *,
    parent: ObjectId | None,
    settings: Settings | None = None,
    tries: int | None = TRIES,
    verified: bool = True,
    download_only: bool = False,
    progress: Progress = SILENT,
    reached: Callable[[str], None] = lambda _: None,
) -> Record:
    """Name what was fetched, from the bottom up, if it was ADMITTED; other arguments as for `stage`. Raises Failure."""
    require_admitted(candidate, admitted)
    system, objects = candidate.system, candidate.repository.objects
    space.require_esp(sysroot, candidate.boot_digest, (system.kernel.size, system.initramfs.size))
    record = system.record(
        candidate.digest,
        manifest_digest=candidate.record.manifest_digest,
        config_digest=candidate.record.config_digest,
        boot_digest=candidate.boot_digest,
        parent=parent,
        staged=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        state=State.GOOD if tries is None else State.STAGED,
        verification=admitted.verification,
    )
    wanted = arguments.effective(system.arguments, settings or Settings())
    with progress.step("Syncing"):
        _publish(candidate, reached)
    with progress.step("Staging"):
        record = _keep_state(sysroot, record, admitted.evidence)
        reached("state")
        if download_only:
            note_downloaded(sysroot, candidate.digest)
            return record
        esp.add_kernel(
            sysroot.esp,
            candidate.boot_digest,
            objects.chunks(system.kernel.object),
            objects.chunks(system.initramfs.object),
        )
        reached("kernel")
        # Once more, for whatever the record leads to: what an entry names is on the disk before the entry is.
        candidate.repository.barrier()
        esp.add_entry(
            sysroot.esp,
            entry_of(
                record,
                esp.next_generation(sysroot.esp),
                arguments=wanted,
                tries=None if tries is None else Tries(left=tries),
                verified=verified,
            ),
        )
        reached("entry")
        sysroot.downloaded.unlink(missing_ok=True)
    return record


def require_admitted(candidate: Candidate, admitted: Admitted) -> None:
    """Raise SignatureRefused where CANDIDATE is not the very image that was ADMITTED."""
    if candidate.record.manifest_digest != admitted.manifest:
        raise SignatureRefused(
            f"cannot stage {candidate.system.image}",
            why=f"{admitted.manifest} was accepted, and what is in the store is {candidate.record.manifest_digest}",
            fix="Run `keelboot upgrade`, which looks for signatures again.",
        )


def note_downloaded(sysroot: Sysroot, digest: ObjectId) -> None:
    """Let DIGEST wait for `upgrade --from-downloaded`, until the next boot. Raises NotWritable, Failure."""
    with records.explained(sysroot):
        sysroot.run.mkdir(mode=0o755, parents=True, exist_ok=True)
        with durable.replacing(sysroot.downloaded) as file:
            file.write(digest.hex.encode() + b"\n")


def known(repository: Repository, mark: str) -> ObjectId | None:
    """The record of a complete image whose manifest or config has the digest MARK, as `fingerprint` gives it."""
    for name in dict.fromkeys(link.object for link in repository.links(repository.references)):
        record = repository.image(name) if name else None
        if record and mark in (str(record.manifest_digest), record.config_digest.hex):
            return name if pull.complete(repository, record) else None
    return None


def has_layer(repository: Repository, diff_id: Digest) -> bool:
    """Whether the store has a record of the layer, so that it is not fetched."""
    return repository.follow(repository.layers, str(diff_id)) is not None


def tree_of(repository: Repository, digest: ObjectId) -> Directory:
    """The tree of the composefs image DIGEST of the store. Raises InvalidImage where it is missing or damaged."""
    data = repository.objects.read(digest)
    if data is None:
        raise InvalidImage(
            f"cannot read the image {digest.hex[:12]}",
            why="it is missing in the store, or damaged",
            fix="`keelboot fsck --repair` mends the store.",
        )
    return trees.to_tree(reader.read(data).root)


def kernel_in(tree: Directory) -> tuple[External, External]:
    """Kernel and initramfs of a deployment's tree. Raises InvalidImage where it has not one of each."""
    modules = resolve(tree, bootable.MODULES)
    for version in modules.children.values() if isinstance(modules, Directory) else ():
        kernel, initramfs = _content(version, bootable.KERNEL), _content(version, bootable.INITRAMFS)
        if kernel and initramfs:
            return kernel, initramfs
    raise InvalidImage(
        "cannot find the kernel", why="the deployment has none", fix="`keelboot fsck --repair` mends the store."
    )


def small_file(objects: Objects, node: Regular) -> bytes:
    """The content of a configuration file, checked against its name. Raises InvalidImage."""
    if isinstance(node.content, bytes):
        return node.content
    content = objects.read(node.content.object) if node.content.size <= _SMALL else None
    if content is None:
        raise InvalidImage(
            "cannot use the image",
            why=f"a configuration file in it is damaged, or has more than {_SMALL} bytes",
            fix="`keelboot fsck --repair` mends the store; else correct the image's /usr/lib/os-release and kargs.d.",
        )
    return content


def refuse_unfit(called: str, config: Config) -> None:
    """What can be told without reading a layer. Raises CannotFinish."""
    machine = normal_architecture(os.uname().machine)
    if config.architecture != machine:
        raise CannotFinish(
            f"cannot boot {called}",
            why=f"it is an image for {config.architecture}, and this machine is {machine}",
            fix=f"Build it for {machine}: keelboot build --platform linux/{machine}.",
        )
    if not any(config.labels.get(name) in ("1", "true") for name in bootable.LABELS):
        raise CannotFinish(
            f"cannot boot {called}",
            why="it does not have the label containers.bootc=1",
            fix=f"Make it bootable with `keelboot build --from {called} -t NAME`.",
        )


def _candidate(
    repository: Repository, found: tuple[ObjectId, ImageRecord], called: str, config: Config, taken: pull.Taken | None
) -> Candidate:
    name, record = found
    if record.composefs is None:
        raise CannotFinish(
            f"cannot boot {called}",
            why=record.unsealed,
            fix=f"Make it bootable with `keelboot build --from {called} -t NAME`.",
        )
    digest, objects = record.composefs.object, repository.objects
    tree = tree_of(repository, digest)
    system = system_in(tree, called, config, lambda node: small_file(objects, node))
    return Candidate(
        repository=repository,
        digest=digest,
        record=record,
        name=name,
        system=system,
        tree=tree,
        boot_digest=boot_digest(_sha256(repository, system.kernel), _sha256(repository, system.initramfs)),
        taken=taken,
    )


def _publish(candidate: Candidate, reached: Callable[[str], None]) -> None:
    """Let the store name the image. Afterwards nothing but a damaged disk can take it away."""
    repository, taken = candidate.repository, candidate.taken
    repository.barrier()
    reached("barrier")
    if taken:
        pull.publish_layers(repository, taken)
    reached("layers")
    pull.publish_image(repository, candidate.digest)
    reached("image")
    repository.publish(repository.references, names.reference_file(reference_of(candidate.digest)), candidate.name)
    repository.settle(repository.references)
    reached("reference")


def _keep_state(sysroot: Sysroot, record: Record, evidence: Mapping[str, bytes]) -> Record:
    """The deployment's directory, with RECORD and the EVIDENCE that it names.

    A version that failed before starts from its parent's /etc once more.
    """
    before = records.find(sysroot, record.digest)
    if not sysroot.deployment(record.digest).is_dir():
        records.create(sysroot, record, first=record.parent is None, evidence=evidence)
        return record
    if before:
        record = replace(record, pinned=before.pinned, unknown=before.unknown)
    if record.parent not in (None, record.digest) and (before is None or before.state is not State.GOOD):
        records.forget_etc(sysroot, record.digest)
        (sysroot.boots / record.digest.hex).unlink(missing_ok=True)
    records.write_verified(sysroot, record, evidence)
    return record


def _content(directory: Node, name: bytes) -> External | None:
    node = directory.children.get(name) if isinstance(directory, Directory) else None
    return node.content if isinstance(node, Regular) and isinstance(node.content, External) else None


def _config(data: bytes, called: str) -> Config:
    try:
        return parse_config(data)
    except Refused as error:
        raise InvalidImage(
            f"cannot use {called}", why=f"its config is refused: {error}", fix="`keelboot fsck` tells more."
        ) from error


def _sha256(repository: Repository, content: External) -> bytes:
    """The SHA-256 of CONTENT, raw. Raises InvalidImage where it is not what its name says."""
    digest, naming = hashlib.sha256(), Naming(repository.objects.algorithm)
    try:
        for chunk in repository.objects.chunks(content.object):
            digest.update(chunk)
            naming.update(chunk)
    except OSError as error:
        raise _damaged(content) from error
    if naming.finish() != content.object:
        raise _damaged(content)
    return digest.digest()


def _damaged(content: External) -> InvalidImage:
    return InvalidImage(
        "cannot use the image's kernel",
        why=f"the object {content.object.hex[:12]} of the store is damaged",
        fix="`keelboot fsck --repair` mends the store.",
    )
