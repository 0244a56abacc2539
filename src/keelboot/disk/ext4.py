"""An ext4 filesystem written into the disk's file at its offset, by mke2fs and one run of debugfs, without mounting it.

Files of the store are written with their fs-verity metadata in place (see `ext4_verity`), so they are sealed before any
kernel saw them. Nothing of the machine this runs on gets into the result: neither clock nor owner, mode or mke2fs.conf.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from keelboot import command
from keelboot.disk import drafts
from keelboot.disk.contents import Directory, Entry, File, Sealed, Symlink, with_parents
from keelboot.disk.layout import BLOCK, EXT4_FEATURES, Ext4Partition

_SEALED_FLAGS = 0x180000  # EXT4_VERITY_FL, EXT4_EXTENTS_FL: fs/ext4/ext4.h
_OBJECTS = "objects"  # in the draft: the way to the staged objects
_SOURCES = "sources"  # in the draft: contents that debugfs has to read from a file
_SCRIPT = "debugfs.commands"
_CONFIGURATION = "mke2fs.conf"
_LINE = 8000  # bytes; debugfs reads its commands into a buffer of 8192

_OWN_CONFIGURATION = f"""\
[defaults]
base_features = none
blocksize = {BLOCK}
inode_size = 256
enable_periodic_fsck = 0
default_mntopts = acl,user_xattr
[fs_types]
ext4 = {{
    features = {",".join(EXT4_FEATURES)}
}}
"""
# All that debugfs says when nothing is wrong: its banner, the commands, and the number of each file it made.
_BANNER = re.compile(rb"debugfs \d")
_ECHO = b"debugfs: "
_MADE = b"Allocated inode: "


def write(
    draft: Path, image: str, partition: Ext4Partition, entries: Iterable[Entry], *, objects: Path | None, epoch: int
) -> None:
    """Put an ext4 with ENTRIES at PARTITION of the file IMAGE in the directory DRAFT.

    `Sealed` entries are looked for in OBJECTS. All times become EPOCH, seconds. Raises OutOfSpace where the host's
    filesystem is full, MissingTool, CommandFailed.
    """
    # Zero means to both programs that no time is given, and they would take the clock's.
    moment = str(max(epoch, 1))
    environment = {"E2FSPROGS_FAKE_TIME": moment, "SOURCE_DATE_EPOCH": moment, "TZ": "UTC"}
    _make(draft, image, partition, environment)
    ordered = with_parents(entries)
    sources = _provide(draft, ordered, objects)
    script = [line for entry in ordered for line in commands(entry, sources.get(entry.path, ""))]
    if not script:
        return
    (draft / _SCRIPT).write_bytes(b"".join(line + b"\n" for line in script))
    argv = ["debugfs", "-w", "-f", _SCRIPT, f"{image}?offset={partition.start}"]
    purpose = f"fill the filesystem {partition.label}"
    stdout, stderr = drafts.run_in(draft, argv, purpose=purpose, environment=environment)
    _judge(draft, argv, script, stdout, stderr, purpose=purpose)
    checking = ["e2fsck", "-fn", argv[-1]]  # a quarter of a second for 7,500 files
    drafts.run_in(draft, checking, purpose=f"check the filesystem {partition.label}", environment=environment)


def commands(entry: Entry, source: str = "") -> Iterator[bytes]:
    """The lines by which debugfs makes ENTRY; SOURCE is the host's file that holds its content, safe to write as it is.

    Raises ValueError for a name that no line can hold.
    """
    path = _quoted(entry.path)
    match entry:
        case Directory(mode=mode):
            if entry.path != b"/":
                yield _line(b"mkdir", path)
            yield from _attributes(path, entry, 0o040000 | mode)
        case File(mode=mode):
            yield _line(b"write", source.encode(), path)
            yield from _attributes(path, entry, 0o100000 | mode)
        case Symlink(target=target):
            yield _line(b"symlink", path, _quoted(target))
            yield from _attributes(path, entry, None)
        case Sealed(size=size):
            yield _line(b"write", source.encode(), path)
            yield _line(b"set_inode_field", path, b"size", b"%d" % size)
            yield _line(b"set_inode_field", path, b"flags", b"0x%x" % _SEALED_FLAGS)
            yield from _attributes(path, entry, 0o100644)
        case _:
            raise TypeError(f"not an entry of a filesystem: {entry!r}")


def _attributes(path: bytes, entry: Entry, mode: int | None) -> Iterator[bytes]:
    if mode is not None:
        yield _line(b"set_inode_field", path, b"mode", b"0%o" % mode)
    for name, value in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if value:
            yield _line(b"set_inode_field", path, name, b"%d" % value)


def _line(*words: bytes) -> bytes:
    line = b" ".join(words)
    if len(line) > _LINE:
        raise ValueError(f"too long a name for debugfs: {words[1]!r}")
    return line


def _quoted(word: bytes) -> bytes:
    if b"\n" in word:
        raise ValueError(f"debugfs takes no name with a line break: {word!r}")
    # The rules of libss: within double quotes only the quote itself is special, and is written twice.
    return b'"' + word.replace(b'"', b'""') + b'"'


def _make(draft: Path, image: str, partition: Ext4Partition, environment: dict[str, str]) -> None:
    (draft / _CONFIGURATION).write_text(_OWN_CONFIGURATION)
    # With discard, which punches holes into an already sparse file, mke2fs knows the inode tables to be zero and leaves
    # them holes; the journal likewise. The bytes are the same without.
    extended = f"offset={partition.start},hash_seed={partition.hash_seed},root_owner=0:0,lazy_journal_init=1,discard"
    argv = [
        *("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-m", str(partition.reserved)),
        *("-N", str(partition.inodes), "-J", f"size={partition.journal}", "-L", partition.label),
        *("-U", str(partition.filesystem), "-E", f"{extended},lazy_itable_init=0"),
        *(image, str(partition.size // BLOCK)),
    ]
    drafts.run_in(
        draft,
        argv,
        purpose=f"make the filesystem {partition.label}",
        environment=environment | {"MKE2FS_CONFIG": _CONFIGURATION},
    )


def _provide(draft: Path, entries: list[Entry], objects: Path | None) -> dict[bytes, str]:
    # Through links and numbered files, so that no path of the host is ever written into a line of commands.
    sources: dict[bytes, str] = {}
    if objects is not None:
        (draft / _OBJECTS).unlink(missing_ok=True)
        (draft / _OBJECTS).symlink_to(objects.absolute())
    folder = draft / _SOURCES
    folder.mkdir(exist_ok=True)
    for number, entry in enumerate(entries):
        match entry:
            case Sealed(object=name):
                if objects is None:
                    raise ValueError("no directory of staged objects is given")
                sources[entry.path] = f"{_OBJECTS}/{name.path}"
            case File(content=content):
                place = folder / str(number)
                place.unlink(missing_ok=True)
                if isinstance(content, bytes):
                    place.write_bytes(content)
                else:
                    place.symlink_to(content.absolute())
                sources[entry.path] = f"{_SOURCES}/{number}"
            case _:
                pass
    return sources


def _judge(draft: Path, argv: list[str], script: list[bytes], stdout: bytes, stderr: bytes, *, purpose: str) -> None:
    """Read what debugfs printed: its exit status is 0 whatever happened."""
    lines = stdout.split(b"\n")
    echoed = [line for line in lines if line.startswith(_ECHO)]
    made = sum(line.startswith(_MADE) for line in lines)
    complaints = [line for line in stderr.splitlines() if line.strip() and not _BANNER.match(line)]
    complaints += [line for line in lines if line.strip() and not line.startswith((_ECHO, _MADE))]
    wanted = sum(line.startswith(b"write ") for line in script)
    if complaints or len(echoed) != len(script) or made != wanted:
        if drafts.out_of_room(draft, b"\n".join(complaints)):
            raise drafts.full(draft.parent)
        said = b"\n".join(complaints[:8]) or b"%d of %d files were made" % (made, wanted)
        raise command.failed(argv, 0, said, purpose=purpose)
