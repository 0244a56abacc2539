"""Every point of every scenario: killed, refused, cut off from power. `make crash` runs all of it.

    campaign.py [--kinds kill,fail,cut-ext4,cut-xfs,cut-btrfs] [--sample N] [--seed N] [NAME...]

The tools are those in ../shared/tools beside the checkout. The last lines are a table of points survived of tried.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT.parent / "shared/tools"
# By script: what the work is done to, below the seed, and the scenarios.
SCRIPTS = {
    "scenarios.py": ("store", ("pull-first", "pull-new", "pull-remote", "gc", "repair")),
    "machine_scenarios.py": (
        "machine",
        ("install", "upgrade", "rollback", "host-gc", "download", "downloaded", "kargs", "settle", "bless"),
    ),
}
NAMES = tuple(name for _, names in SCRIPTS.values() for name in names)
# Options of `killpoints` and `powercut` for each kind.
KINDS = {
    "kill": ["--fail", "kill"],
    "fail": ["--fail", "ENOSPC,EIO", "--no-traceback"],
    "cut-ext4": ["--fs", "ext4", "--fsck"],
    "cut-xfs": ["--fs", "xfs", "--fsck"],
    "cut-btrfs": ["--fs", "btrfs", "--fsck"],
}
MAKERS = {"cut-ext4": "mkfs.ext4", "cut-xfs": "mkfs.xfs", "cut-btrfs": "mkfs.btrfs"}
_COUNTS = re.compile(r"^(\d+) points, (\d+) failed", re.MULTILINE)
_UNMOUNTED = re.compile(r"^FAIL point \d+ torn .*exit 32:.*mount", re.MULTILINE)
# `powercut` mounts one file again and again, with other blocks. A filesystem or loop device that outlives its being
# unmounted would show a point what it has cached of the one before. Two things make it do so. A mount namespace that
# any other process makes meanwhile (podman, a test) has a copy of every mount that it sees; nobody copies what is
# mounted in a namespace of its own. And whoever reads all block devices (LVM, blkid) may have this one open just then:
# so the next mount waits until the device is let go.
_ALONE = ("unshare", "--mount", "--propagation", "slave")
_UNMOUNT = """\
#!/bin/sh
loop=/sys/block/$(findmnt -n -o SOURCE "$1" | sed 's,.*/,,')/loop
released=$(cat "$loop/autoclear" 2>/dev/null)
file=$(cat "$loop/backing_file" 2>/dev/null)
PATH=/usr/bin:/bin umount "$@" || exit
for _ in $(seq 600); do
    [ "$released" = 1 ] && [ "$(cat "$loop/backing_file" 2>/dev/null)" = "$file" ] || exit 0
    sleep 0.1
done
"""
_NO_LOG = 2  # what `powercut` ends with when the log it made is not to be trusted: a known fault of QEMU 7.2
_TRIES = 3
_TIMEOUT = "600"  # seconds for a run or a check, on a computer that is busy with others


@dataclass(frozen=True)
class Outcome:
    """How many points of one scenario were tried in one way; OUTPUT is what the tool printed."""

    kind: str
    name: str
    points: int
    failed: int
    unmounted: int  # points beside these, at which what was left of the filesystem itself did not mount
    output: str


def missing(kinds: Sequence[str]) -> str:
    """Why these kinds cannot be run here; empty if they can."""
    tools = {"powercut" if kind in MAKERS else "killpoints" for kind in kinds}
    for tool in sorted(tools):
        if not (TOOLS / tool).exists():
            return f"{tool} is not beside this checkout"
    for kind in kinds:
        if kind in MAKERS and (os.geteuid() or not Path("/dev/fuse").exists()):
            return "power cuts need root and /dev/fuse"
        if kind in MAKERS and shutil.which(MAKERS[kind]) is None:
            return f"{MAKERS[kind]} is not installed"
    return ""


def campaign(
    directory: Path, kinds: Sequence[str], names: Sequence[str], sample: int | None = None, seed: int = 1
) -> Iterator[Outcome]:
    """Run the scenarios NAMES in each of the KINDS; SAMPLE bounds the points of each."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}/src:{ROOT}/tests",
        # Compiled files of the first run would change the counts of the second.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for script in {_script(name)[0] for name in names}:
        argv = [sys.executable, script, "prepare", directory]
        subprocess.run(argv, check=True, env=environment, stdout=subprocess.DEVNULL)
    unmount = directory / "bin/umount"
    unmount.parent.mkdir()
    unmount.write_text(_UNMOUNT)
    unmount.chmod(0o755)
    environment["PATH"] = f"{unmount.parent}:{environment['PATH']}"
    chosen = ["--timeout", _TIMEOUT, "--seed", str(seed), *(["--sample", str(sample)] if sample else [])]
    for kind in kinds:
        for name in names:
            script, target = _script(name)
            python = f"{sys.executable} {script}"
            if kind in MAKERS:
                argv = [*_ALONE, TOOLS / "powercut", "run", *KINDS[kind], *chosen]
                argv += ["--setup", f"cp -a {directory}/seed-{name}/. {{}}"]
                argv += ["--workload", f"{python} work {name} {directory} {{}}/{target}"]
                argv += ["--check", f"{python} judge {name} {directory} {{}}/{target}"]
            else:
                place = directory / f"{kind}-{name}"
                argv = [TOOLS / "killpoints", *KINDS[kind], *chosen, "--under", place]
                argv += ["--reset", f"rm -rf {place}; cp -a {directory}/seed-{name} {place}"]
                argv += ["--check", f"{python} judge {name} {directory} {place}/{target}", "--"]
                argv += [sys.executable, script, "work", name, directory, place / target]
            for _ in range(_TRIES):
                done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
                if done.returncode != _NO_LOG:
                    break
            yield _outcome(kind, name, done.stdout + done.stderr, ended=done.returncode)


def _script(name: str) -> tuple[Path, str]:
    """The script that has the scenario NAME, and what the work is done to."""
    for script, (target, names) in SCRIPTS.items():
        if name in names:
            return Path(__file__).with_name(script), target
    raise ValueError(f"no scenario is called {name}")


def _outcome(kind: str, name: str, output: str, *, ended: int) -> Outcome:
    counts = _COUNTS.findall(output) if ended in (0, 1) else []
    if not counts:
        return Outcome(kind, name, 1, 1, 0, output)
    points, failed = map(int, counts[-1])
    # A superblock torn in two is the filesystem's to survive; a disk that writes 4096 bytes at once does not tear it.
    unmounted = len(_UNMOUNTED.findall(output))
    return Outcome(kind, name, points - unmounted, failed - unmounted, unmounted, output)


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("names", nargs="*", default=NAMES)
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    if why := missing(kinds[:1]):
        print(why)
        return 1
    for kind in kinds:
        if why := missing([kind]):
            print(f"{kind}: left out, {why}")
    kinds = [kind for kind in kinds if not missing([kind])]
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="keelboot-crash-", dir="/var/tmp") as directory:
        for outcome in campaign(Path(directory), kinds, arguments.names, arguments.sample, arguments.seed):
            outcomes.append(outcome)
            if outcome.failed or outcome.unmounted:
                print(outcome.output)
            beside = f", {outcome.unmounted} more did not mount" if outcome.unmounted else ""
            survived = f"survived {outcome.points - outcome.failed} of {outcome.points}{beside}"
            print(f"{outcome.kind:9} {outcome.name:10} {survived}", flush=True)
    points, failed = sum(one.points for one in outcomes), sum(one.failed for one in outcomes)
    unmounted = sum(one.unmounted for one in outcomes)
    beside = f", {unmounted} more did not mount" if unmounted else ""
    print(f"all       {'':10} survived {points - failed} of {points}{beside}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run())
