"""Trees of /etc as plain values, the naive answers to what a merge of them is, and how they get onto a disk.

A node is ("f", content, mode), ("l", target, 0) or ("d", {name: node}, mode); None is no file.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

Node = Any
OPAQUE = "user.overlay.opaque"


def children(node: Node) -> dict[str, Node]:
    return node[1] if node and node[0] == "d" else {}


def expected(base: Node, machine: Node, image: Node) -> Node:
    """What docs/formats/deployment.md promises, said as simply as possible."""
    if machine is None:
        return image if base is None else None
    same_kind = base is not None and base[0] == machine[0]
    if machine[0] == "d":
        names = {*children(machine), *children(base), *children(image)}
        sides = (children(base), children(machine), children(image))
        below = {name: node for name in names if (node := expected(*(side.get(name) for side in sides)))}
        untouched = same_kind and base[2] == machine[2]
        if untouched and not below and (image is None or image[0] != "d"):
            return image
        return "d", below, (image[2] if untouched and image and image[0] == "d" else machine[2])
    content_kept = same_kind and base[1] == machine[1]
    mode_kept = same_kind and base[2] == machine[2]
    if content_kept and mode_kept:
        return image
    if image is None or image[0] != machine[0]:
        return machine
    return machine[0], (image if content_kept else machine)[1], (image if mode_kept else machine)[2]


def changes(base: Node, machine: Node, path: str = "") -> dict[str, str]:
    """What drift is."""
    found: dict[str, str] = {}
    for name in {*children(base), *children(machine)}:
        was, now = children(base).get(name), children(machine).get(name)
        child = f"{path}/{name}" if path else name
        if now is None:
            found[child] = "removed"
        elif was is None:
            if now[0] != "d" or not now[1]:
                found[child] = "added"
        elif (was[0], was[0] != "d" and was[1]) != (now[0], now[0] != "d" and now[1]):
            found[child] = "changed"
        elif was[2] != now[2]:
            found[child] = "metadata"
        if now is not None and now[0] == "d":
            found |= changes(was if was and was[0] == "d" else None, now, child)
    return found


def write(path: Path, node: Node) -> None:
    """NODE as a file."""
    kind, content, mode = node
    if kind == "l":
        path.symlink_to(content)
        return
    if kind == "d":
        path.mkdir()
        for name, child in content.items():
            write(path / name, child)
    else:
        path.write_bytes(content)
    path.chmod(mode)


def write_upper(path: Path, base: Node, machine: Node, choose: Callable[[], bool], *, top: bool = True) -> None:
    """An upper layer that makes MACHINE of BASE. CHOOSE decides between ways of saying the same."""
    path.mkdir()
    opaque = not top and choose()
    if opaque:
        os.setxattr(path, OPAQUE, b"y")
    _fill_upper(path, base, machine, choose, opaque=opaque)
    path.chmod(machine[2])


def _fill_upper(path: Path, base: Node, machine: Node, choose: Callable[[], bool], *, opaque: bool) -> None:
    for name in sorted({*children(base), *children(machine)}):
        was, now = children(base).get(name), children(machine).get(name)
        if now is None:
            if not opaque:
                os.mknod(path / name, stat.S_IFCHR, 0)
        elif now[0] == "d":
            if opaque or was != now or choose():
                below = was if was and was[0] == "d" else None
                if opaque:
                    (path / name).mkdir()
                    _fill_upper(path / name, None, now, choose, opaque=True)
                    (path / name).chmod(now[2])
                else:
                    write_upper(path / name, below, now, choose, top=False)
        elif opaque or was != now or choose():
            write(path / name, now)


def read(path: Path) -> Node:
    """The file at PATH as a node; a whiteout as ("w", None, 0)."""
    found = path.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        return "l", str(path.readlink()), 0
    if stat.S_ISDIR(found.st_mode):
        return "d", {child.name: read(child) for child in path.iterdir()}, mode
    if stat.S_ISCHR(found.st_mode):
        return "w", None, 0
    return "f", path.read_bytes(), mode


def over(upper: Node, lower: Node) -> Node:
    """What overlayfs shows of UPPER above LOWER, where no directory is opaque."""
    if upper is None:
        return lower
    if upper[0] == "w":
        return None
    if upper[0] != "d":
        return upper
    names = {*children(upper), *children(lower)}
    below = {name: over(children(upper).get(name), children(lower).get(name)) for name in names}
    return "d", {name: node for name, node in below.items() if node}, upper[2]


def random_tree(random: Random, depth: int = 3) -> Node:
    return "d", {name: random_node(random, depth - 1) for name in "abc" if random.random() < 0.6}, 0o755


def random_node(random: Random, depth: int) -> Node:
    kind = random.choice("ffdl" if depth else "ffl")
    if kind == "d":
        return "d", random_tree(random, depth)[1], random.choice([0o755, 0o700])
    if kind == "l":
        return "l", random.choice(["a", "/nowhere"]), 0
    return "f", random.choice([b"", b"one\n", b"two\n"]), random.choice([0o644, 0o600])


def varied(random: Random, node: Node, depth: int = 3) -> Node:
    """NODE with a few changes."""
    found = {}
    for name in "abc":
        child = children(node).get(name)
        chance = random.random()
        if chance < 0.15:
            continue
        if chance < 0.3:
            child = random_node(random, depth - 1) if depth else child
        elif child and child[0] == "d":
            child = varied(random, child, depth - 1)
        if child:
            found[name] = child
    return "d", found, random.choice([node[2]] * 3 + [0o711])
