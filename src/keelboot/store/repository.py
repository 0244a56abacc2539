"""A store as it lies in a directory: opened, locked, and with links that appear at once or not at all."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NoReturn

from keelboot import durable
from keelboot.composefs.verity import Algorithm
from keelboot.failure import Failure, NotWritable, OutOfSpace
from keelboot.image.refusal import Refused
from keelboot.image.tree import ObjectId
from keelboot.progress import SILENT, Progress
from keelboot.store import names
from keelboot.store.draft import draft_name
from keelboot.store.imagerecord import ImageRecord
from keelboot.store.layerrecord import LayerRecord
from keelboot.store.meta import Meta
from keelboot.store.objects import Objects, files

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
# What the machine or the store is, not what keelboot does wrong.
_MACHINE = (
    errno.EIO, errno.ENXIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK, errno.EMLINK, errno.ESTALE,
    errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
)  # fmt: skip


class Lock(Enum):
    """How a store is locked: not at all, together with others, or alone. The lock ends with its process."""

    NONE = 0
    SHARED = fcntl.LOCK_SH
    ALONE = fcntl.LOCK_EX


@dataclass(frozen=True, slots=True)
class Link:
    """A link of the store: what it is called, and what it leads to; None where it leads to no object."""

    file: str
    object: ObjectId | None


@dataclass(frozen=True, slots=True)
class Repository:
    """An open store: its directories, as descriptors that live as long as the context it came from."""

    path: Path
    meta: Meta
    root: int
    images: int
    layers: int
    references: int
    objects: Objects

    def links(self, directory: int) -> list[Link]:
        """What is in DIRECTORY (`images`, `layers` or `references`), drafts left out, in order of names."""
        return [
            Link(file, self.follow(directory, file)) for file in files(directory) if not file.startswith(names.DRAFT)
        ]

    def follow(self, directory: int, file: str) -> ObjectId | None:
        """The object that the link FILE leads to; None where there is no link, or one that leads to no object."""
        try:
            return names.linked(os.readlink(file, dir_fd=directory))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG):  # EINVAL: it is no link
                return None
            raise

    def publish(self, directory: int, file: str, name: ObjectId) -> None:
        """Have the link FILE lead to the object. Durable after `settle`."""
        if self.follow(directory, file) == name:
            return
        draft = draft_name()
        os.symlink(names.target(name), draft, dir_fd=directory)
        try:
            os.rename(draft, file, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft, dir_fd=directory)
            raise

    def unpublish(self, directory: int, file: str) -> None:
        """Take the link FILE away. Durable after `settle`. Raises FileNotFoundError."""
        os.unlink(file, dir_fd=directory)

    def settle(self, directory: int) -> None:
        """Make the names in DIRECTORY durable."""
        os.fsync(directory)

    def barrier(self) -> None:
        """Make everything durable that was written to the store so far. Raises OSError."""
        try:
            durable.sync_filesystem(self.root)
        except OSError:
            self.objects.forget_unsynced()
            raise

    def image(self, name: ObjectId) -> ImageRecord | None:
        """The image record that the object is, if it is there, sound, and one."""
        data = self.objects.read(name)
        try:
            return None if data is None else ImageRecord.parse(data)
        except Refused:
            return None

    def layer(self, file: str) -> LayerRecord | None:
        """The record of the layer FILE, if it is there and sound."""
        name = self.follow(self.layers, file)
        data = self.objects.read(name) if name else None
        try:
            record = None if data is None else LayerRecord.parse(data)
        except Refused:
            return None
        return record if record and str(record.diff_id) == file else None


@contextmanager
def opened(path: Path, lock: Lock, *, create: bool = False, progress: Progress = SILENT) -> Iterator[Repository]:
    """The store at PATH, locked; CREATE makes one where there is none or an empty directory.

    A cut while it is created leaves a part of its directories, and no meta.json; the next call goes on. Every refusal
    of the operating system inside the context is raised as a Failure: OutOfSpace, NotWritable or their base class.
    """
    with explained(path), ExitStack() as stack:
        root = _directory(path, stack, create=create)
        if create:
            _refuse_others(path, root)
        _take_lock(root, lock, stack, progress)
        if create:
            _make(path, root)
        meta = _meta(path, root)
        if lock is not Lock.NONE and not meta.writable:
            _refuse(
                path, f"it has features that only a newer keelboot may write: {', '.join(meta.read_only_compatible)}"
            )
        found = {}
        for name in names.DIRECTORIES:
            found[name] = _inner(path, root, name, stack, make=lock is not Lock.NONE)
        yield Repository(
            path,
            meta,
            root,
            found[names.IMAGES],
            found[names.LAYERS],
            found[names.REFERENCES],
            Objects(found[names.OBJECTS], meta.algorithm),
        )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Tell what the operating system refused in the store at PATH. Raises OutOfSpace, NotWritable, Failure."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in _FULL:
            raise OutOfSpace(
                f"cannot write the store {path}",
                why=f"its filesystem is full, or your quota there ({why})",
                fix=f"The store is as it was before. `keelboot store gc --store {path}` frees what nothing needs; "
                "then try again.",
            ) from error
        if error.errno in _REFUSED:
            raise NotWritable(
                f"cannot use the store {path}", why=why, fix="Name a store that this user may write, with --store."
            ) from error
        if error.errno in _MACHINE:
            raise Failure(
                f"cannot use the store {path}",
                why=why,
                fix=f"Look for the cause in the kernel's log (`dmesg`), then run `keelboot store fsck --store {path}`.",
            ) from error
        raise


def write_meta(path: Path, algorithm: Algorithm) -> None:
    """Write the store's meta.json. Raises OSError."""
    with durable.replacing(path / names.META) as file:
        file.write(Meta(algorithm).encode())


def _directory(path: Path, stack: ExitStack, *, create: bool) -> int:
    try:
        if create:
            path.mkdir(parents=True, exist_ok=True)
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        _refuse(path, error.strerror or str(error))
    stack.callback(os.close, root)
    return root


def _inner(path: Path, root: int, name: str, stack: ExitStack, *, make: bool) -> int:
    # A store that was written as part of a disk has objects and images only.
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=root)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError) as error:
        _refuse(path, f"{name}: {error.strerror}")
    stack.callback(os.close, fd)
    return fd


def _refuse_others(path: Path, root: int) -> None:
    """Refuse a directory that has something in it, and nothing that says it is a store."""
    present = {name for name in files(root) if not name.startswith(f".{names.META}.")}
    others = present - {*names.DIRECTORIES, names.LOCK}
    if names.META not in present and others:
        raise NotWritable(
            f"cannot make a store in {path}",
            why=f"it is no store, and not empty: it has {', '.join(map(ascii, sorted(others)[:3]))}",
            fix="Name another directory with --store; one that does not exist is made.",
        )


def _make(path: Path, root: int) -> None:
    for name in names.DIRECTORIES:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=root)
    try:
        os.stat(names.META, dir_fd=root)
    except FileNotFoundError:
        write_meta(path, "sha256")


def _meta(path: Path, root: int) -> Meta:
    try:
        fd = os.open(names.META, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root)
    except FileNotFoundError:
        _refuse(path, "it has no meta.json")
    with open(fd, "rb") as file:
        data = file.read(1 << 20)
    try:
        return Meta.parse(data)
    except Refused as error:
        _refuse(path, f"meta.json: {error}")


def _take_lock(root: int, lock: Lock, stack: ExitStack, progress: Progress) -> None:
    if lock is Lock.NONE:
        return
    fd = os.open(names.LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=root)
    stack.callback(os.close, fd)
    try:
        fcntl.flock(fd, lock.value | fcntl.LOCK_NB)
    except BlockingIOError:
        with progress.step("Waiting for another keelboot to leave the store"):
            fcntl.flock(fd, lock.value)


def _refuse(path: Path, why: str) -> NoReturn:
    raise Failure(
        f"cannot use {path} as a store",
        why=why,
        fix=f"`keelboot store pull IMAGE --store DIR` makes a store; `keelboot store fsck --store {path}` "
        "tells what is wrong with one.",
    )
