#!/usr/bin/env python3
"""Measures keelboot beside other tools and prints tables; docs/benchmarks.md tells how to read them. `make bench`."""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import hotspots
import images
import inodes
import memory
import pulls
import report
import startup
import transfers
from report import Table

from keelboot.failure import Failure

_CACHE = Path(__file__).resolve().parent.parent / ".cache" / "bench"
_PARTS = ("pull", "again", "fetch", "send", "inodes", "memory", "start-up", "profile")


def parser() -> argparse.ArgumentParser:
    """What may be asked for."""
    own = argparse.ArgumentParser("bench", description="Measure keelboot beside other tools.")
    own.add_argument(
        "--image", default="localhost/keelboot-demo/web:1", help="in podman's store (default: %(default)s)"
    )
    own.add_argument("--only", choices=_PARTS, action="append", help="this part, and others named so")
    own.add_argument("--quick", action="store_true", help="fewer rounds and smaller sizes: less than two minutes")
    own.add_argument("--rounds", type=int, help="samples of each (default: 5, quick 2)")
    own.add_argument(
        "--patience", type=float, default=60, help="seconds for samples taken again (default: %(default)g)"
    )
    own.add_argument("--scratch", type=Path, default=_CACHE, help="a filesystem to measure on (default: .cache/bench)")
    own.add_argument("--mkcomposefs", default=shutil.which("mkcomposefs"), help="where it is, if not in PATH")
    own.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    return own


def main() -> int:
    """Measure and print."""
    arguments = parser().parse_args()
    _CACHE.mkdir(parents=True, exist_ok=True)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=arguments.scratch) as scratch:
        try:
            run(arguments, Path(scratch))
        except Failure as failure:
            print(f"\nbench: {failure}", file=sys.stderr)
            return failure.exit_code
    return 0


def run(arguments: argparse.Namespace, scratch: Path) -> None:
    """Measure what ARGUMENTS ask for, below SCRATCH."""
    quick, parts = arguments.quick, arguments.only or _PARTS
    rounds = arguments.rounds or (2 if quick else 5)
    keelboot = str(Path(sys.executable).with_name("keelboot"))
    tables: list[Table] = []
    found: dict[str, object] = {"date": time.strftime("%Y-%m-%d"), "image": arguments.image, "rounds": rounds}
    patience = 0 if quick else arguments.patience / 3

    def show(*added: Table) -> None:
        for table in added:
            print(table, end="\n\n", flush=True)
        tables.extend(added)

    print(", ".join(f"{name} {value}" for name, value in report.machine().items()), end="\n\n")
    if {"pull", "again", "fetch", "send", "memory", "profile"} & set(parts):
        layout = images.reference(arguments.image, _CACHE)
    if "pull" in parts:
        show(pulls.first_pull(layout, keelboot=keelboot, rounds=rounds, scratch=scratch, patience=2 * patience))
    if "again" in parts:
        show(pulls.again(layout, keelboot=keelboot, rounds=rounds, scratch=scratch))
    alike = {"keelboot": keelboot, "rounds": rounds, "scratch": scratch, "patience": patience}
    if "fetch" in parts:
        show(transfers.fetch(layout, **alike))
    if "send" in parts:
        show(transfers.send(layout, arguments.image, **alike))
    if "inodes" in parts:
        counts = (10_000, 100_000) if quick else (10_000, 50_000, 100_000, 200_000)
        own = {"mkcomposefs": arguments.mkcomposefs, "rounds": rounds, "scratch": scratch, "patience": patience}
        show(*inodes.tables(counts, keelboot=keelboot, **own))
    if "memory" in parts:
        sizes = {"large": 512 << 20, "small": 20_000} if quick else {"large": 4 << 30, "small": 200_000}
        show(memory.table(layout, keelboot=keelboot, **sizes, cache=_CACHE, scratch=scratch))
    if "start-up" in parts:
        show(startup.table(keelboot=keelboot, rounds=20, scratch=scratch, patience=0))
        print(*startup.imports(["--version"]), "", sep="\n")
    if "profile" in parts:
        lines, found["profile"] = hotspots.profile(layout, scratch)
        print(*lines, "", sep="\n")
    if tables:
        others = report.disturbance(tables)
        print(f"Others kept {others.median:.2f} cores busy meanwhile ({others.low:.2f}..{others.high:.2f}).")
    if arguments.json:
        arguments.json.write_text(report.encoded(tables, **found), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
