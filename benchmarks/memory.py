"""How much memory a pull takes, whatever the image is like."""

import tempfile
from pathlib import Path

import images
from report import Figure, Goal, Table
from sampling import Sample, Spread, apart, hollow, measure, told

_MOST = 150  # MB


def table(reference: images.Layout, *, keelboot: str, large: int, small: int, cache: Path, scratch: Path) -> Table:
    """One pull each of the reference image, of one layer of LARGE bytes, and of one of SMALL files."""
    figures = [
        _figure("reference image", reference, keelboot, scratch),
        _figure(f"a layer of {large / (1 << 30):g} GiB", apart(images.large, large, cache), keelboot, scratch),
        _figure(f"a layer of {small} small files", apart(images.small, small, cache), keelboot, scratch),
    ]
    return Table("memory", "Peak memory of a pull (MB)", "", figures, ["the goal is for the column MB"])


def _figure(name: str, layout: images.Layout, keelboot: str, scratch: Path) -> Figure:
    told(f"pulling {name}")
    store = Path(tempfile.mkdtemp(prefix="memory-", dir=scratch)) / "store"
    words = [keelboot, "store", "pull", "--quiet", str(layout), "--store", str(store)]
    sample = measure(words, errors=scratch / "errors")
    hollow(store)
    told("")
    return Figure(name, [sample], None, Goal.of(_megabytes(sample), _MOST, "MB"))


def _megabytes(sample: Sample) -> Spread:
    return Spread.of([sample.peak / 1e6])
