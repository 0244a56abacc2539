"""An image becomes a deployment: a verified root with a name of its own, and the kernel that starts it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from keelboot.assembly import staged
from keelboot.boot import kernel_arguments
from keelboot.boot.entries import Entry
from keelboot.boot.systemd_boot import LOADERS, kernel_directory
from keelboot.composefs import erofs, sealing
from keelboot.disk.sealed_objects import SealedObjects
from keelboot.failure import CannotFinish
from keelboot.image import bootable, layers
from keelboot.image.release import Release, read_release
from keelboot.image.transports import Image
from keelboot.image.tree import Directory, External, ObjectId, Regular, resolve
from keelboot.progress import SILENT, Progress

_KARGS = "usr/lib/bootc/kargs.d"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What will run. `digest` is the fs-verity digest of the composefs image: the deployment's name."""

    digest: ObjectId
    image_name: str
    manifest_digest: str
    created: str
    architecture: str
    release: Release
    kernel_version: str
    kernel: External
    initramfs: External
    loader: External
    entry: Entry

    def origin(self) -> bytes:
        """The record kept beside the deployment's state (docs/formats/store.md, "origin.json")."""
        record = {
            "version": 1,
            "image": self.image_name,
            "manifest-digest": self.manifest_digest,
            "composefs": self.digest.hex,
            "created": self.created,
            "architecture": self.architecture,
            "kernel": self.kernel_version,
        }
        return json.dumps(record, indent=2, sort_keys=True).encode() + b"\n"


def prepare(
    image: Image, objects: SealedObjects, *, arguments: tuple[str, ...] = (), progress: Progress = SILENT
) -> Deployment:
    """Read IMAGE into OBJECTS, seal its tree, and say what boots it. ARGUMENTS are added to the kernel command line.

    Raises InvalidImage for a damaged image, CannotFinish for one that is not bootable.
    """
    tree = layers.read_tree(image, objects, progress)
    state = bootable.examine(tree, labels=image.config.labels)
    if state.reasons:
        raise CannotFinish(
            f"cannot boot {image.reference}",
            why="; ".join(state.reasons),
            fix=f"Make it bootable with `keelboot build --from {image.reference} -t NAME`.",
        )
    architecture = image.config.architecture
    if architecture not in LOADERS:
        raise CannotFinish(
            f"cannot boot {image.reference}",
            why=f"no boot loader is known for the architecture {architecture}",
            fix=f"Build the image for one of {', '.join(LOADERS)}.",
        )
    release = read_release(tree, lambda node: staged.read(objects, node))
    version = state.kernel_versions[0]
    kernel = _external(tree, f"usr/lib/modules/{version}/vmlinuz")
    initramfs = _external(tree, f"usr/lib/modules/{version}/initramfs.img")
    loader = _external(tree, LOADERS[architecture].in_image)
    with progress.step("Sealing the root"):
        root = sealing.seal(tree)
        content = erofs.image_bytes(root, version=1)
        digest = objects.add(len(content), [content])
    names = kernel_directory(staged.sha256(objects, kernel), staged.sha256(objects, initramfs))
    asked = kernel_arguments.of_image(_kargs(tree, objects), architecture)
    entry = Entry(
        id=f"keelboot-{digest.hex}",
        title=_one_line(release.pretty_name or release.id or "Linux"),
        version=_one_line(
            image.config.labels.get("org.opencontainers.image.version", "") or image.config.created or ""
        ),
        sort_key=_one_line(release.id or "keelboot"),
        linux=f"/{names}/vmlinuz",
        initrd=f"/{names}/initrd",
        options=kernel_arguments.command_line(digest.hex, architecture, image=asked, machine=arguments),
        architecture=architecture,
    )
    return Deployment(
        digest=digest,
        image_name=str(image.reference),
        manifest_digest=str(image.manifest_digest),
        created=image.config.created or "",
        architecture=architecture,
        release=release,
        kernel_version=version,
        kernel=kernel,
        initramfs=initramfs,
        loader=loader,
        entry=entry,
    )


def _external(tree: Directory, path: str) -> External:
    node = resolve(tree, path)
    if not isinstance(node, Regular) or not isinstance(node.content, External):
        raise CannotFinish(
            "cannot boot the image",
            why=f"/{path} is missing or not a file",
            fix="Make the image bootable with `keelboot build --from IMAGE -t NAME`.",
        )
    return node.content


def _kargs(tree: Directory, objects: SealedObjects) -> Mapping[str, bytes]:
    directory = resolve(tree, _KARGS)
    if not isinstance(directory, Directory):
        return {}
    files = {name: resolve(tree, _KARGS.encode() + b"/" + name) for name in directory.children}
    return {
        name.decode(errors="replace"): staged.read(objects, node)
        for name, node in files.items()
        if isinstance(node, Regular)
    }


def _one_line(text: str) -> str:
    return "".join(character for character in text if ord(character) >= 0x20)
