"""What an image asks of its installation: bootc's `[install]` tables, /usr/lib/bootc/install/*.toml. Pure.

Files count in the order of their names, and a later one replaces what an earlier one says; `kargs` and `karg-deletes`
add up. A key that nobody knows is refused: it might be the one that matters.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from keelboot.boot import kernel_arguments
from keelboot.failure import CannotFinish, InvalidImage

DIRECTORIES: Final = ("usr/lib/bootc/install", "etc/bootc/install")  # the same name in a later one counts
FILESYSTEMS: Final = ("ext4", "btrfs", "xfs")
BLOCK_SETUPS: Final = ("direct", "tpm2-luks")
_LOADERS = ("grub", "grub-cc", "systemd", "none")
_RUST_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}
# Known and without meaning here: there is one state per machine, no OSTree and no bootupd.
_IGNORED = ("stateroot", "ostree", "bootupd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What the image's files say; an empty value where they are silent. A mount spec of "" means: no argument."""

    filesystem: str = ""
    block: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    arguments_deleted: tuple[str, ...] = ()
    root_mount_spec: str | None = None
    boot_mount_spec: str | None = None
    discoverable: bool | None = None  # whether the root is found by its partition's type, without root=
    strict: bool = False  # whether the machine enforces a policy of signatures


def as_json(found: Configuration) -> dict[str, object]:
    """FOUND under bootc's names, as `bootc install print-configuration` has it; what was not said is left out."""
    told: dict[str, object] = {
        "root-fs-type": found.filesystem or None,
        "filesystem": {"root": {"type": found.filesystem}} if found.filesystem else None,
        "block": list(found.block) or None,
        "kargs": list(found.arguments) or None,
        "karg-deletes": list(found.arguments_deleted) or None,
        "root-mount-spec": found.root_mount_spec,
        "boot-mount-spec": found.boot_mount_spec,
        "discoverable-partitions": found.discoverable,
        "enforce-container-sigpolicy": found.strict or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def read(files: Mapping[str, bytes], architecture: str) -> Configuration:
    """What FILES (name -> content) say for ARCHITECTURE, as OCI names it. Raises InvalidImage, CannotFinish."""
    found = Configuration()
    for name in sorted(files):
        if name.endswith(".toml"):
            found = _Reader(name).merged(found, files[name], architecture)
    return found


class _Reader:
    """Reads one file; its name is in every refusal."""

    def __init__(self, name: str) -> None:
        self._name = name

    def merged(self, before: Configuration, content: bytes, architecture: str) -> Configuration:
        try:
            document = tomllib.loads(content.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise self._refusal(str(error)) from error
        self._known(document, ("install",), "")
        table = self._table(document, "install")
        only = self._texts(table, "match-architectures")
        if "match-architectures" in table and _RUST_NAMES.get(architecture, architecture) not in only:
            return before
        return self._of_table(before, table)

    def _of_table(self, before: Configuration, table: Mapping[str, Any]) -> Configuration:
        known = (
            *("filesystem", "root-fs-type", "block", "kargs", "karg-deletes", "match-architectures"),
            *("root-mount-spec", "boot-mount-spec", "bootloader", "discoverable-partitions"),
            "enforce-container-sigpolicy",
            *_IGNORED,
        )
        self._known(table, known, "install.")
        self._loader(table)
        arguments = self._texts(table, "kargs")
        for word in arguments:
            try:
                kernel_arguments.check(word)
            except ValueError as error:
                raise self._refusal(str(error)) from error
        discoverable = table.get("discoverable-partitions", before.discoverable)
        if discoverable is not None and not isinstance(discoverable, bool):
            raise self._refusal("discoverable-partitions is not true or false")
        strict = table.get("enforce-container-sigpolicy", before.strict)
        if not isinstance(strict, bool):
            raise self._refusal("enforce-container-sigpolicy is not true or false")
        return replace(
            before,
            filesystem=self._filesystem(table) or before.filesystem,
            block=self._chosen(table, "block", BLOCK_SETUPS) or before.block,
            arguments=before.arguments + arguments,
            arguments_deleted=before.arguments_deleted + self._texts(table, "karg-deletes"),
            root_mount_spec=self._text(table, "root-mount-spec", before.root_mount_spec),
            boot_mount_spec=self._text(table, "boot-mount-spec", before.boot_mount_spec),
            discoverable=discoverable,
            strict=strict,
        )

    def _filesystem(self, table: Mapping[str, Any]) -> str:
        outer = self._table(table, "filesystem")
        self._known(outer, ("root",), "install.filesystem.")
        root = self._table(outer, "root")
        self._known(root, ("type",), "install.filesystem.root.")
        chosen = self._text(root, "type", None) or self._text(table, "root-fs-type", None) or ""
        if chosen and chosen not in FILESYSTEMS:
            raise self._refusal(f"the filesystem {chosen!a} is none of {', '.join(FILESYSTEMS)}")
        return chosen

    def _loader(self, table: Mapping[str, Any]) -> None:
        loader = self._text(table, "bootloader", None)
        if loader is not None and loader not in _LOADERS:
            raise self._refusal(f"the boot loader {loader!a} is none of {', '.join(_LOADERS)}")
        if loader not in (None, "systemd"):
            raise CannotFinish(
                "cannot install the image",
                why=f"it asks for the boot loader {loader!a} ({self._where}), and only systemd-boot is available",
                fix='Say bootloader = "systemd" in the image, or leave the key out.',
            )

    def _chosen(self, table: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> tuple[str, ...]:
        words = self._texts(table, key)
        for word in words:
            if word not in choices:
                raise self._refusal(f"{key} has {word!a}, which is none of {', '.join(choices)}")
        return words

    def _known(self, table: Mapping[str, Any], names: tuple[str, ...], prefix: str) -> None:
        unknown = sorted(set(table) - set(names))
        if unknown:
            raise self._refusal(f"unknown key {prefix}{unknown[0]}")

    def _table(self, table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = table.get(key, {})
        if not isinstance(value, dict):
            raise self._refusal(f"{key} is not a table")
        return value

    def _text(self, table: Mapping[str, Any], key: str, silent: str | None) -> str | None:
        value = table.get(key, silent)
        if value is not None and not isinstance(value, str):
            raise self._refusal(f"{key} is not a string")
        return value

    def _texts(self, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self._refusal(f"{key} is not a list of strings")
        return tuple(value)

    @property
    def _where(self) -> str:
        return f"bootc/install/{self._name}"

    def _refusal(self, why: str) -> InvalidImage:
        return InvalidImage(
            f"cannot use the image's {self._where}",
            why=why,
            fix="The keys of its table [install] are bootc's: filesystem, kargs, block, ... Correct the image.",
        )
