"""Where the time of a pull goes: one thread, sampled, by module and by line."""

import json
import sys
from operator import itemgetter
from pathlib import Path

from images import Layout
from report import aligned
from sampling import hollow, told

from keelboot import command

_SAMPLER = Path(__file__).with_name("sampler.py")


def profile(layout: Layout, scratch: Path, *, lines: int = 25) -> tuple[list[str], dict[str, float]]:
    """A table by module, one by line, and seconds by line for machines."""
    told("sampling a pull")
    store, result = scratch / "profiled", scratch / "profile.json"
    words = ["store", "pull", "--quiet", "--jobs", "1", str(layout), "--store", str(store)]
    command.run([sys.executable, str(_SAMPLER), str(result), *words], purpose="sample a pull")
    hollow(store)
    told("")
    found: dict[str, float] = json.loads(result.read_bytes())
    total = sum(found.values())
    modules: dict[str, float] = {}
    for where, seconds in found.items():
        module = where.partition(":")[0]
        modules[module] = modules.get(module, 0) + seconds
    return [
        f"Where a pull with one thread spends its {total:.2f} s",
        *aligned([["module", "seconds", "%"], *_rows(modules, total, 12)]),
        "Its lines",
        *aligned([["line", "seconds", "%"], *_rows(found, total, lines)]),
    ], found


def _rows(seconds: dict[str, float], total: float, most: int) -> list[list[str]]:
    largest = sorted(seconds.items(), key=itemgetter(1), reverse=True)[:most]
    return [[name, f"{spent:.3f}", f"{100 * spent / total:.1f}"] for name, spent in largest]
