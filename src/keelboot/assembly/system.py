"""What an image has that boots: its kernel, the arguments it asks for, what it calls itself.

The same for a disk that is written and for a machine that is upgraded: only where contents lie differs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from keelboot.assembly.record import Record, State
from keelboot.assembly.verification import Verification
from keelboot.boot import kernel_arguments
from keelboot.boot.entries import SORT_KEY, Entry, Generation, Tries
from keelboot.boot.systemd_boot import KERNELS, LOADERS
from keelboot.failure import CannotFinish
from keelboot.image import bootable
from keelboot.image.digest import Digest
from keelboot.image.documents import Config
from keelboot.image.release import read_release
from keelboot.image.tree import Directory, External, ObjectId, Regular, resolve

_KARGS = "usr/lib/bootc/kargs.d"
_VERSION_LABEL = "org.opencontainers.image.version"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """An image that boots. Contents lie where the tree says; `arguments` are those that the image asks for."""

    image: str
    title: str
    image_version: str
    created: str
    architecture: str
    kernel_version: str
    kernel: External
    initramfs: External
    loader: External
    arguments: tuple[str, ...]

    def record(
        self,
        digest: ObjectId,
        *,
        manifest_digest: Digest,
        config_digest: Digest,
        boot_digest: str,
        parent: ObjectId | None = None,
        staged: str = "",
        state: State = State.GOOD,
        verification: Verification | None = None,
    ) -> Record:
        """The record of the deployment DIGEST of this image, whose kernel is BOOT_DIGEST."""
        return Record(
            digest=digest,
            image=self.image,
            manifest_digest=str(manifest_digest),
            config_digest=str(config_digest),
            created=self.created,
            image_version=self.image_version,
            architecture=self.architecture,
            kernel=self.kernel_version,
            title=self.title,
            boot_digest=boot_digest,
            arguments=self.arguments,
            parent=parent,
            staged=staged,
            state=state,
            verification=verification,
        )


def entry_of(
    record: Record,
    generation: int,
    *,
    arguments: Sequence[str],
    tries: Tries | None = None,
    verified: bool = True,
) -> Entry:
    """The boot entry GENERATION of the deployment that RECORD is of; ARGUMENTS are those of image and machine together.

    VERIFIED is false for a machine whose filesystem has no fs-verity. Raises ValueError for an argument that is none.
    """
    named = Generation(generation, record.digest)
    return Entry(
        id=named.id,
        title=one_line(record.title) or "Linux",
        version=one_line(named.version(record.image_version or record.created)),
        sort_key=SORT_KEY,
        linux=f"/{KERNELS}/{record.boot_digest}/vmlinuz",
        initrd=f"/{KERNELS}/{record.boot_digest}/initrd",
        options=kernel_arguments.command_line(
            ("" if verified else "?") + record.digest.hex, record.architecture, machine=arguments
        ),
        architecture=record.architecture,
        tries=tries,
    )


def system_in(tree: Directory, image: str, config: Config, read: Callable[[Regular], bytes]) -> System:
    """What boots in the image called IMAGE, whose tree is TREE. READ gives the content of a small file.

    Raises CannotFinish for an image that is not bootable, InvalidImage for a damaged one, and what READ raises.
    """
    state = bootable.examine(tree, labels=config.labels)
    if state.reasons:
        raise CannotFinish(
            f"cannot boot {image}",
            why="; ".join(state.reasons),
            fix=f"Make it bootable with `keelboot build --from {image} -t NAME`.",
        )
    architecture = config.architecture
    if architecture not in LOADERS:
        raise CannotFinish(
            f"cannot boot {image}",
            why=f"no boot loader is known for the architecture {architecture}",
            fix=f"Build the image for one of {', '.join(LOADERS)}.",
        )
    release = read_release(tree, read)
    version = state.kernel_versions[0]
    return System(
        image=image,
        title=release.pretty_name or release.id or "Linux",
        image_version=config.labels.get(_VERSION_LABEL, ""),
        created=config.created or "",
        architecture=architecture,
        kernel_version=version,
        kernel=_external(tree, f"{bootable.MODULES}/{version}/vmlinuz"),
        initramfs=_external(tree, f"{bootable.MODULES}/{version}/initramfs.img"),
        loader=_external(tree, LOADERS[architecture].in_image),
        arguments=tuple(kernel_arguments.of_image(_kargs(tree, read), architecture)),
    )


def one_line(text: str) -> str:
    """TEXT without what would end a line or hide in one."""
    return "".join(character for character in text if ord(character) >= 0x20)


def _external(tree: Directory, path: str) -> External:
    node = resolve(tree, path)
    if not isinstance(node, Regular) or not isinstance(node.content, External):
        raise CannotFinish(
            "cannot boot the image",
            why=f"/{path.lstrip('/')} is missing or not a file",
            fix="Make the image bootable with `keelboot build --from IMAGE -t NAME`.",
        )
    return node.content


def _kargs(tree: Directory, read: Callable[[Regular], bytes]) -> Mapping[str, bytes]:
    directory = resolve(tree, _KARGS)
    if not isinstance(directory, Directory):
        return {}
    files = {name: resolve(tree, _KARGS.encode() + b"/" + name) for name in directory.children}
    return {name.decode(errors="replace"): read(node) for name, node in files.items() if isinstance(node, Regular)}
