"""How long keelboot takes to say what it can, and what it imports for that."""

import re
import subprocess
import sys
from pathlib import Path

from report import Figure, Goal, Table, aligned, seconds
from sampling import Contender, in_turns

_MOST = 0.12
_IMPORT = re.compile(r"import time: +([0-9]+) \| +([0-9]+) \| ( *)(\S+)")


def table(*, keelboot: str, rounds: int, scratch: Path, patience: float) -> Table:
    """`--help` and `--version`, beside an interpreter that does nothing."""
    contenders = [
        Contender("keelboot --help", lambda _: [[keelboot, "--help"]]),
        Contender("keelboot --version", lambda _: [[keelboot, "--version"]]),
        Contender("keelboot store pull --help", lambda _: [[keelboot, "store", "pull", "--help"]]),
        Contender("python -c pass", lambda _: [[sys.executable, "-c", "pass"]]),
    ]
    samples = in_turns(contenders, rounds, scratch, patience=patience)
    figures = []
    for name, taken in samples.items():
        goal = Goal.of(seconds(taken), _MOST, "s") if name in ("keelboot --help", "keelboot --version") else None
        figures.append(Figure(name, taken, None, goal))
    return Table("start-up", "Start-up", "", figures)


def imports(words: list[str], *, lines: int = 12) -> list[str]:
    """The most expensive imports of the keelboot command WORDS, alone and with what they import, in milliseconds."""
    run = "import sys; from keelboot.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", run, *words],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    found = [(int(one[1]), int(one[2]), one[4]) for one in map(_IMPORT.match, done.stderr.decode().splitlines()) if one]
    total = sum(alone for alone, _, _ in found)
    rows = [["module", "alone ms", "with its own ms"]]
    rows += [
        [name, f"{alone / 1e3:.1f}", f"{whole / 1e3:.1f}"] for alone, whole, name in sorted(found, reverse=True)[:lines]
    ]
    return [f"Imports of `keelboot {' '.join(words)}`: {len(found)}, {total / 1e3:.0f} ms", *aligned(rows)]
