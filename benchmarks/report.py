"""What was measured, for people and as JSON."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from sampling import Sample, Spread


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be at most, and whether it is; never asserted."""

    at_most: float
    unit: str
    met: bool

    @classmethod
    def of(cls, spread: Spread | None, at_most: float | None, unit: str = "") -> Self | None:
        """Compare the median of SPREAD; None where there is nothing to compare."""
        return None if spread is None or at_most is None else cls(at_most, unit, spread.median <= at_most)

    def __str__(self) -> str:
        return f"<= {self.at_most:g}{' ' if self.unit else ''}{self.unit}{'' if self.met else ' MISSED'}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line: what was run, its samples, and how it compares."""

    name: str
    samples: Sequence[Sample]
    ratio: Spread | None
    goal: Goal | None


@dataclass(frozen=True, slots=True)
class Table:
    """One comparison. `compared` is what its ratios are of."""

    key: str
    title: str
    compared: str
    figures: Sequence[Figure]
    notes: Sequence[str] = ()
    more: dict[str, Any] = field(default_factory=dict)  # for JSON only

    def __str__(self) -> str:
        rows = [["", "seconds", "min..max", "CPU", "MB", self.compared, "min..max" if self.compared else "", "goal"]]
        for figure in self.figures:
            wall, ratio = seconds(figure.samples), figure.ratio
            peak = max(sample.peak for sample in figure.samples)
            rows.append(
                [
                    figure.name,
                    f"{wall.median:.3f}",
                    f"{wall.low:.3f}..{wall.high:.3f}",
                    f"{Spread.of(sample.cpu for sample in figure.samples).median:.2f}",
                    f"{peak / 1e6:.0f}" if peak else "",
                    f"{ratio.median:.2f}" if ratio else "",
                    f"{ratio.low:.2f}..{ratio.high:.2f}" if ratio else "",
                    str(figure.goal or ""),
                ]
            )
        return "\n".join([self.title, *aligned(rows), *(f"  {note}" for note in self.notes)])

    def as_json(self) -> dict[str, Any]:
        """The table with every sample."""
        return asdict(self)


def seconds(samples: Sequence[Sample]) -> Spread:
    """How long SAMPLES took."""
    return Spread.of(sample.wall for sample in samples)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """ROWS as lines; the first column to the left, the others to the right, empty columns left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def machine() -> dict[str, Any]:
    """What it was measured on, without a name."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / (1 << 30)),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
    }


def disturbance(tables: Sequence[Table]) -> Spread:
    """How many cores other processes kept busy while samples were taken."""
    return Spread.of(sample.others for table in tables for figure in table.figures for sample in figure.samples)


def encoded(tables: Sequence[Table], **more: object) -> str:
    """All of it as JSON."""
    return json.dumps({"machine": machine(), "tables": [table.as_json() for table in tables], **more}, indent=1)
