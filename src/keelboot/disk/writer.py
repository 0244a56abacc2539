"""A whole disk, from a layout and contents to a file under its final name."""

import os
from pathlib import Path

from keelboot.disk import drafts, esp, ext4, gpt
from keelboot.disk.contents import Contents
from keelboot.disk.formats import Format, convert
from keelboot.disk.layout import Layout
from keelboot.progress import SILENT, Progress

_RAW = "disk.raw"
_CONVERTED = "disk.converted"


def write(
    layout: Layout,
    contents: Contents,
    output: Path,
    *,
    epoch: int,
    form: Format = Format.RAW,
    progress: Progress = SILENT,
) -> None:
    """Write the disk of LAYOUT with CONTENTS to OUTPUT; the same arguments give the same bytes.

    It is put together in a hidden directory beside OUTPUT and renamed when it is complete and synced: until then OUTPUT
    is what it was, and after an error or an interruption nothing else is left. EPOCH, in seconds, becomes every time
    on the disk. Raises NotWritable, OutOfSpace, MissingTool, CommandFailed.
    """
    target = drafts.writable(output)
    with drafts.drafting(target.parent) as draft:
        with drafts.explained(target):
            _partition(draft / _RAW, layout)
        with progress.step("Writing the boot partition"):
            esp.write(draft, _RAW, layout.esp, contents.esp, epoch=epoch)
        for title, partition, entries in (
            ("Writing the store", layout.store, contents.store),
            ("Writing /var", layout.var, contents.var),
        ):
            with progress.step(title), drafts.explained(target):
                ext4.write(draft, _RAW, partition, entries, objects=contents.objects, epoch=epoch)
        complete = draft / _RAW
        if form is not Format.RAW:
            with progress.step(f"Converting to {form.value}"):
                convert(draft, _RAW, _CONVERTED, form)
            complete = draft / _CONVERTED
        with progress.step("Syncing"), drafts.explained(target):
            _publish(complete, target)


def _partition(disk: Path, layout: Layout) -> None:
    head, foot = gpt.primary(layout), gpt.backup(layout)
    with disk.open("wb") as file:
        file.write(head)
        file.truncate(layout.size)
        file.seek(layout.size - len(foot))
        file.write(foot)


def _publish(complete: Path, target: Path) -> None:
    fd = os.open(complete, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    complete.rename(target)
    # The new name is data of the directory: until that is synced, a cut can take it back.
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
