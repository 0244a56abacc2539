"""Composefs images of many inodes, written from a dump, beside mkcomposefs where there is one."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from report import Figure, Goal, Table, seconds
from sampling import Contender, in_turns, ratio, told

from keelboot import command

_PER_DIRECTORY = 100
_OURS = "keelboot composefs create"


def dump(inodes: int, path: Path) -> None:
    """Write a dump of INODES inodes, the root and its directories included: the mix of files of a distribution."""
    random = Random(inodes)
    with path.open("w", encoding="ascii") as file:
        file.write("/ 4096 40755 2 0 0 0 1700000000.0 - - -\n")
        directories = (inodes - 1) // (_PER_DIRECTORY + 1)
        left = inodes - 1
        for number in range(directories + 1):
            if not left:
                break
            file.write(f"/d{number} 4096 40755 2 0 0 0 1700000000.0 - - -\n")
            left -= 1
            for entry in range(min(left, _PER_DIRECTORY)):
                file.write(_entry(random, f"/d{number}/entry-{entry}"))
            left -= min(left, _PER_DIRECTORY)


def _entry(random: Random, path: str) -> str:
    kind = random.random()
    time = f"{random.randrange(1_600_000_000, 1_700_000_000)}.0"
    if kind < 0.12:  # links are often to the same few places
        target = f"../lib/file-{random.randrange(300)}"
        return f"{path} {len(target)} 120777 1 0 0 0 {time} {target} - -\n"
    if kind < 0.15:
        text = "x" * random.randrange(1, 64)
        return f"{path} {len(text)} 100644 1 0 0 0 {time} - {text} -\n"
    name = random.randbytes(32).hex()
    attribute = " security.capability=\\x01\\x00\\x00\\x02\\x00" if kind > 0.999 else ""
    size = random.randrange(65, 200_000)
    return f"{path} {size} 100644 1 0 0 0 {time} {name[:2]}/{name[2:]} - {name}{attribute}\n"


def tables(
    counts: Sequence[int], *, keelboot: str, mkcomposefs: str | None, rounds: int, scratch: Path, patience: float
) -> list[Table]:
    """One table for each of COUNTS, and one of the cost per inode."""
    notes = [] if mkcomposefs else ["mkcomposefs: skipped, it is not in PATH and --mkcomposefs does not name one"]
    found, cost = [], []
    for count in counts:
        source = scratch / f"{count}.dump"
        told(f"making a dump of {count} inodes")
        dump(count, source)
        samples = in_turns(_contenders(source, keelboot, mkcomposefs), rounds, scratch, patience=patience)
        if mkcomposefs:
            _same(keelboot, mkcomposefs, source, scratch)
        ours = samples[_OURS]
        figures = []
        for name, taken in samples.items():
            compared = None if name == _OURS else ratio(ours, taken)
            figures.append(Figure(name, taken, compared, Goal.of(compared, 2 if count == 100_000 else None)))
        found.append(Table(f"inodes-{count}", f"EROFS image of {count} inodes", "ours / it", figures))
        cost.append(f"{seconds(ours).median / count * 1e6:.1f} us of {count}")
    found[-1] = replace(found[-1], notes=[f"Whole process, per inode: {', '.join(cost)}.", *notes])
    return found


def _contenders(source: Path, keelboot: str, mkcomposefs: str | None) -> list[Contender]:
    contenders = [Contender(_OURS, lambda place: [_create(keelboot, source, place)])]
    if mkcomposefs:
        theirs = [mkcomposefs, "--from-file", str(source)]
        contenders.append(Contender("mkcomposefs", lambda place: [[*theirs, str(place)]]))
    return contenders


def _create(keelboot: str, source: Path, target: Path) -> list[str]:
    return [keelboot, "composefs", "create", "--from-file", str(source), str(target)]


def _same(keelboot: str, mkcomposefs: str, source: Path, scratch: Path) -> None:
    """A race counts only when both arrive at the same place."""
    digests = []
    for words in (
        _create(keelboot, source, scratch / "image"),
        [mkcomposefs, "--from-file", str(source), str(scratch / "image")],
    ):
        command.run(words, purpose="compare the images")
        digests.append(hashlib.sha256((scratch / "image").read_bytes()).digest())
        (scratch / "image").unlink()
    if digests[0] != digests[1]:
        raise AssertionError("keelboot and mkcomposefs wrote different images")
