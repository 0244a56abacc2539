"""The formats a disk can be delivered in, by qemu-img."""

from enum import StrEnum
from pathlib import Path

from keelboot.disk import drafts


class Format(StrEnum):
    """A disk's format; its name is what qemu-img and `--format` call it."""

    RAW = "raw"
    QCOW2 = "qcow2"


def convert(draft: Path, raw: str, target: str, form: Format) -> None:
    """Write the raw disk RAW as TARGET, both in the directory DRAFT; zeros stay holes.

    qemu-img writes in order unless told otherwise, so the same disk gives the same bytes.
    Raises OutOfSpace where the filesystem is full, MissingTool, CommandFailed.
    """
    options = {"-f": "raw", "-O": form.value, "-S": "4k"}
    words = [word for option in options.items() for word in option]
    drafts.run_in(draft, ["qemu-img", "convert", *words, raw, target], purpose=f"convert the disk to {form.value}")
