"""Versions of an image that differ in a few files, put onto its disk as an upgrade would have left them.

Nothing is built: the image's tree is changed as a value and sealed, and what is new is written into the disk file.
"""

import copy
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from boot.partitions import Partition, first_block, partitions
from keelboot.assembly import staged
from keelboot.assembly.record import Record, State
from keelboot.assembly.system import entry_of
from keelboot.boot.entries import Tries
from keelboot.composefs import erofs, sealing
from keelboot.disk.sealed_objects import SealedObjects
from keelboot.image import layers
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.image.tree import Directory, External, ObjectId, Regular, Symlink, resolve


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is different. `files` are new or replaced, or removed (None); `longer` get a byte more.

    What begins with #! is executable.
    """

    name: str
    files: Mapping[str, bytes | None] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    longer: Sequence[str] = ()
    damaged: str = ""  # a file of which one bit is flipped on the disk
    arguments: tuple[str, ...] = ()
    initrd: str = ""  # on the ESP, where it is not the one of the image
    initramfs: Mapping[str, bytes] = field(default_factory=dict)  # what is different in that
    swapped: bool = False  # the store has the good version's composefs image under this one's digest
    tries: int = 1


class Disk:
    """A disk file of the image NAME, whose deployment is RECORD."""

    def __init__(self, file: Path, name: str, objects: SealedObjects) -> None:
        self.file = file
        self._objects = objects
        with open_image(Reference.parse(f"containers-storage:{name}")) as image:
            self._tree = layers.read_tree(image, objects)
        self._store: Partition = partitions(file)["keelboot-store"]
        self._esp = f"{file}@@{partitions(file)['esp'].start}"
        digest = self._store.debugfs("ls -p /state/deploy").split("/")
        self.digest = ObjectId(next(word for word in digest if len(word) == 64))
        with tempfile.TemporaryDirectory() as directory:
            origin = Path(directory, "origin.json")
            self._store.debugfs(f"dump /state/deploy/{self.digest.hex}/origin.json {origin}")
            self.record = Record.parse(origin.read_bytes())

    def add(self, variant: Variant, generation: int) -> ObjectId:
        """Put VARIANT onto the disk, on trial, and return the digest that names it."""
        before = set(self._objects.objects())
        tree = copy.deepcopy(self._tree)
        self._change(tree, variant)
        content = erofs.image_bytes(sealing.seal(tree), version=1)
        digest = self._objects.add(len(content), [content])
        for new in set(self._objects.objects()) - before:
            self._add_object(new)
        record = Record(
            digest=digest,
            image=f"docker://registry.example/{variant.name}:latest",
            image_version=variant.name,
            architecture=self.record.architecture,
            kernel=self.record.kernel,
            title=self.record.title,
            boot_digest=self.record.boot_digest,
            parent=self.digest,
            staged="2026-01-01T00:00:00Z",
            state=State.STAGED,
        )
        entry = entry_of(record, generation, arguments=variant.arguments, tries=Tries(left=variant.tries))
        if variant.initrd:
            entry = replace(entry, initrd=variant.initrd)
        if variant.initramfs:
            entry = replace(entry, initrd=self._other_initramfs(entry.initrd, variant))
        named = self.digest if variant.swapped else digest
        with tempfile.TemporaryDirectory() as directory:
            origin, text = Path(directory, "origin.json"), Path(directory, "entry")
            origin.write_bytes(record.encode())
            text.write_text(entry.text())
            self._store.debugfs(
                f"symlink /composefs/images/{digest.hex} ../objects/{named.path}",
                f"mkdir /state/deploy/{digest.hex}",
                f"write {origin} /state/deploy/{digest.hex}/origin.json",
                write=True,
            )
            subprocess.run(["mcopy", "-i", self._esp, text, f"::/loader/entries/{entry.file_name}"], check=True)
        if variant.damaged:
            node = resolve(tree, variant.damaged)
            assert isinstance(node, Regular)
            assert isinstance(node.content, External)
            assert node.content.object not in before, "the good version has this object too"
            self._flip(node.content.object)
        return digest

    def entries(self) -> list[str]:
        """The names in loader/entries."""
        argv = ["mdir", "-b", "-i", self._esp, "::/loader/entries"]
        listed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        return sorted(line.rpartition("/")[2] for line in listed.splitlines())

    def _change(self, tree: Directory, variant: Variant) -> None:
        for path in variant.longer:
            node = resolve(tree, path)
            assert isinstance(node, Regular)
            assert isinstance(node.content, External)
            content = b"".join(staged.chunks(self._objects, node.content)) + b"\0"
            node.content = External(self._objects.add(len(content), [content]), len(content))
        # Each is another image, also where nothing but its boot entry differs.
        for path, content in {"usr/lib/variant": variant.name.encode() * 99, **variant.files}.items():
            parent, name = _parent(tree, path)
            if content is None:
                del parent.children[name]
            else:
                mode = 0o755 if content.startswith(b"#!") else 0o644
                held = External(self._objects.add(len(content), [content]), len(content))
                parent.children[name] = Regular(permissions=mode, content=held)
        for path, target in variant.links.items():
            parent, name = _parent(tree, path)
            parent.children[name] = Symlink(permissions=0o777, target=target.encode())

    def _other_initramfs(self, initrd: str, variant: Variant) -> str:
        """INITRD with more behind it, on the ESP: the kernel unpacks all archives of a file, one over the other."""
        path = f"/{variant.name}.img"
        with tempfile.TemporaryDirectory() as directory:
            whole, more = Path(directory, "initrd"), Path(directory, "more")
            for name, content in variant.initramfs.items():
                (more / name).parent.mkdir(parents=True, exist_ok=True)
                (more / name).write_bytes(content)
                (more / name).chmod(0o755)
            names = "".join(f"{name}\n" for name in variant.initramfs).encode()
            argv = ["cpio", "--quiet", "--create", "--format=newc"]
            archive = subprocess.run(argv, check=True, cwd=more, input=names, capture_output=True).stdout
            subprocess.run(["mcopy", "-i", self._esp, f"::{initrd}", whole], check=True)
            with whole.open("ab") as file:
                file.write(bytes(-file.tell() % 4) + archive)
            subprocess.run(["mcopy", "-i", self._esp, whole, f"::{path}"], check=True)
        return path

    def _add_object(self, name: ObjectId) -> None:
        size, target = self._objects.objects()[name], f"/composefs/objects/{name.path}"
        self._store.debugfs(
            f"write {self._objects.directory / name.path} {target}",
            f"set_inode_field {target} size {size}",
            f"set_inode_field {target} flags 0x180000",
            f"set_inode_field {target} mode 0100644",
            write=True,
        )

    def _flip(self, name: ObjectId) -> None:
        with self.file.open("r+b") as file:
            at = first_block(self._store, f"/composefs/objects/{name.path}") + 100
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))


@contextmanager
def disk_of(file: Path, name: str) -> Iterator[Disk]:
    """The disk FILE of the image NAME, to put variants onto."""
    with tempfile.TemporaryDirectory(dir=file.parent, prefix="objects-") as directory:
        yield Disk(file, name, SealedObjects(Path(directory)))


def _parent(tree: Directory, path: str) -> tuple[Directory, bytes]:
    """The directory that PATH is in, made where it is missing, and the last name."""
    *directories, name = path.encode().split(b"/")
    node = tree
    for part in directories:
        child = node.children.setdefault(part, Directory(permissions=0o755))
        assert isinstance(child, Directory), path
        node = child
    return node, name
