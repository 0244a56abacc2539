"""Records of deployments and the machine's settings, read from the state directory and replaced by renames."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256, sha512
from pathlib import Path

from keelboot import durable
from keelboot.assembly.record import Record
from keelboot.assembly.settings import Settings
from keelboot.failure import Failure, NotWritable, OutOfSpace
from keelboot.host.sysroot import Sysroot
from keelboot.image.refusal import Refused
from keelboot.image.tree import ObjectId

_ORIGIN = "origin.json"
_SIGNATURES = "signatures"
_NOTHING: Mapping[str, bytes] = {}
_GONE = ".gone-"  # a deployment that is being removed
_DRAFT = ".draft-"  # one that is being made


def deployments(sysroot: Sysroot) -> list[Record]:
    """All deployments that have a readable record, in order of their digests. Raises OSError."""
    found = []
    for digest in _directories(sysroot):
        with suppress(Refused, FileNotFoundError):
            found.append(_parsed(sysroot, digest))
    return found


def damaged(sysroot: Sysroot) -> list[str]:
    """The names in the deployments' directory that `deployments` passed over: no record, or one that is refused."""
    good = {record.digest.hex for record in deployments(sysroot)}
    return [name for name in _names(sysroot) if name not in good and not name.startswith((_GONE, _DRAFT))]


def read(sysroot: Sysroot, digest: ObjectId) -> Record:
    """The record of the deployment DIGEST. Raises Failure where there is none that can be read."""
    try:
        return _parsed(sysroot, digest)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Failure(
            f"cannot find the deployment {digest.hex[:12]}",
            why="this machine has no record of it",
            fix="`keelboot status` lists the deployments.",
        ) from error
    except Refused as error:
        raise Failure(
            f"cannot use the deployment {digest.hex[:12]}",
            why=f"its record is damaged: {error}",
            fix="`keelboot fsck` tells what else is; `keelboot upgrade` makes a new deployment.",
        ) from error


def find(sysroot: Sysroot, digest: ObjectId) -> Record | None:
    """The record of the deployment DIGEST, or None where none can be read."""
    with suppress(Refused, FileNotFoundError, NotADirectoryError):
        return _parsed(sysroot, digest)
    return None


def write(sysroot: Sysroot, record: Record) -> None:
    """Put RECORD in the place of the deployment's record; it has a directory. Durable when this returns."""
    with explained(sysroot), durable.replacing(sysroot.deployment(record.digest) / _ORIGIN) as file:
        file.write(record.encode())


def write_verified(sysroot: Sysroot, record: Record, evidence: Mapping[str, bytes]) -> None:
    """The same, with the EVIDENCE that RECORD names: it is there before the record is; a cut leaves one of the two."""
    directory = sysroot.deployment(record.digest)
    with explained(sysroot):
        _keep(directory, evidence)
    write(sysroot, record)
    with explained(sysroot), suppress(FileNotFoundError):
        for path in (directory / _SIGNATURES).iterdir():
            if path.name not in evidence:
                path.unlink()


def evidence(sysroot: Sysroot, record: Record) -> Mapping[str, bytes]:
    """The bytes that RECORD's verification names, as far as they are there and are what their names say."""
    found = {}
    for name in record.verification.evidence if record.verification else ():
        with suppress(OSError):
            data = (sysroot.deployment(record.digest) / _SIGNATURES / name).read_bytes()
            if (sha512 if len(name) == 128 else sha256)(data).hexdigest() == name:
                found[name] = data
    return found


def create(sysroot: Sysroot, record: Record, *, first: bool, evidence: Mapping[str, bytes] = _NOTHING) -> None:
    """Make the deployment's directory, with RECORD and EVIDENCE in it; it appears complete or not at all, and durable.

    FIRST gives it an /etc of its own at once, without changes; otherwise its first boot takes that of its parent.
    """
    with explained(sysroot):
        sysroot.deployments.mkdir(parents=True, exist_ok=True)
        draft = sysroot.deployments / f"{_DRAFT}{os.urandom(8).hex()}"
        draft.mkdir()
        try:
            with durable.replacing(draft / _ORIGIN) as file:
                file.write(record.encode())
            _keep(draft, evidence)
            if first:
                (draft / "etc/upper").mkdir(parents=True)
                (draft / "etc/work").mkdir()
                durable.sync_directory(draft / "etc")
            durable.sync_directory(draft)
            draft.rename(sysroot.deployment(record.digest))
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        for directory in (sysroot.deployments, sysroot.state, sysroot.root):
            durable.sync_directory(directory)


def forget_etc(sysroot: Sysroot, digest: ObjectId) -> None:
    """Take away what the deployment had in /etc, so that its next boot takes that of its parent."""
    directory = sysroot.deployment(digest)
    gone = directory / f"{_GONE}{os.urandom(8).hex()}"
    with explained(sysroot), suppress(FileNotFoundError):
        (directory / "etc").rename(gone)
        durable.sync_directory(directory)
        shutil.rmtree(gone)


def remove(sysroot: Sysroot, name: str) -> None:
    """Remove the deployment's directory called NAME. A cut leaves all of it, or a rest that `rests` tells of."""
    gone = sysroot.deployments / f"{_GONE}{os.urandom(8).hex()}"
    with explained(sysroot):
        (sysroot.deployments / name).rename(gone)
        durable.sync_directory(sysroot.deployments)
        shutil.rmtree(gone)


def rests(sysroot: Sysroot) -> list[Path]:
    """What was being made, replaced or removed when its process was killed; for who holds the machine's lock."""
    deployments = sysroot.deployments
    found = [deployments / name for name in _names(sysroot) if name.startswith((_GONE, _DRAFT))]
    each = "deploy/[0-9a-f]*"
    for pattern in (f"{each}/.{_ORIGIN}.*", f"{each}/{_SIGNATURES}/.*", f"{each}/{_GONE}*", ".*", "boots/.*"):
        found += sorted(sysroot.state.glob(pattern))
    return found


def remove_rests(sysroot: Sysroot) -> None:
    """Remove what `rests` tells of."""
    with explained(sysroot):
        for path in rests(sysroot):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def settings(sysroot: Sysroot) -> Settings:
    """What the machine wants of every version; nothing where it never said. Raises Failure."""
    try:
        return Settings.parse(sysroot.settings.read_bytes())
    except FileNotFoundError:
        return Settings()
    except Refused as error:
        raise Failure(
            "cannot use the machine's settings",
            why=f"{sysroot.settings}: {error}",
            fix="Remove that file, then set the kernel arguments again with `keelboot kargs set`.",
        ) from error


def write_settings(sysroot: Sysroot, wanted: Settings) -> None:
    """Put WANTED in the place of the machine's settings. Durable when this returns."""
    with explained(sysroot):
        sysroot.state.mkdir(parents=True, exist_ok=True)
        with durable.replacing(sysroot.settings) as file:
            file.write(wanted.encode())


@contextmanager
def explained(sysroot: Sysroot) -> Iterator[None]:
    """Tell what the operating system refused in the machine's state. Raises OutOfSpace, NotWritable, Failure."""
    try:
        yield
    except OSError as error:
        what, why = f"cannot write the machine's state in {sysroot.state}", error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(what, why=why, fix="`keelboot gc` frees what no deployment needs.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NotWritable(
                what, why=why, fix="A filesystem with errors becomes read-only: look into the kernel's log (`dmesg`)."
            ) from error
        raise Failure(
            what,
            why=f"{error.filename or sysroot.state}: {why}",
            fix="Look for the cause in the kernel's log (`dmesg`), then run `keelboot fsck`.",
        ) from error


def _keep(directory: Path, evidence: Mapping[str, bytes]) -> None:
    """Have EVIDENCE in the deployment's DIRECTORY, durable. Raises OSError."""
    if not evidence:
        return
    place = directory / _SIGNATURES
    place.mkdir(exist_ok=True)
    for name, data in evidence.items():
        with durable.replacing(place / name) as file:
            file.write(data)
    durable.sync_directory(directory)


def _names(sysroot: Sysroot) -> list[str]:
    try:
        return sorted(path.name for path in sysroot.deployments.iterdir())
    except FileNotFoundError:
        return []


def _directories(sysroot: Sysroot) -> list[ObjectId]:
    found = []
    for name in _names(sysroot):
        with suppress(ValueError):
            found.append(ObjectId(name))
    return found


def _parsed(sysroot: Sysroot, digest: ObjectId) -> Record:
    record = Record.parse((sysroot.deployment(digest) / _ORIGIN).read_bytes())
    if record.digest != digest:
        raise Refused(f"it is that of {record.digest.hex[:12]}")
    return record
