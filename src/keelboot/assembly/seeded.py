"""What the first boot of an image puts into /var: that has to fit there, besides what the machine will write."""

from pathlib import Path

from keelboot.disk.contents import File, Usage
from keelboot.image import needs
from keelboot.image.tree import Directory


def seeded(tree: Directory) -> Usage:
    """What the files that TREE seeds take of the filesystem with /var."""
    return Usage.of(File(path=path, content=Path(), size=size) for path, size in needs.seeds(tree))
