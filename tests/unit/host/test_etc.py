"""Drift, preflight, diff and reset: on directories, on trees of images, and on a mounted /etc."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

import etc_trees
from keelboot.composefs.verity import measure
from keelboot.failure import Failure
from keelboot.host import etc, etcdiff, restore
from keelboot.host.etc import Change, Stored
from keelboot.image.tree import Directory, External, Regular, Special, Symlink

SOURCE = Path(__file__).resolve().parents[3] / "src"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and trusted attributes need root")


def put(directory: Path, name: str, content: str = "", mode: int = 0o644) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
    return path


def tree_of(path: Path, *, external: bool) -> Directory:
    """The directory as an image's tree; owners are those on disk."""
    found = path.lstat()
    top = Directory(permissions=stat.S_IMODE(found.st_mode), uid=found.st_uid, gid=found.st_gid)
    for child in path.iterdir():
        at = child.lstat()
        name = os.fsencode(child.name)
        if child.is_symlink():
            top.children[name] = Symlink(target=os.fsencode(child.readlink()))
        elif child.is_dir():
            top.children[name] = tree_of(child, external=external)
            continue
        elif child.is_file():
            content = child.read_bytes()
            stored = external and content
            top.children[name] = Regular(
                content=External(measure([content]).object, len(content)) if stored else content
            )
        else:
            top.children[name] = Special(kind=stat.S_IFMT(at.st_mode), rdev=at.st_rdev)
        node = top.children[name]
        node.permissions, node.uid, node.gid = stat.S_IMODE(at.st_mode), at.st_uid, at.st_gid
    return top


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_tree_says_the_same_as_a_directory(tmp_path: Path, seed: int, external: bool) -> None:
    random = Random(seed)
    base = etc_trees.random_tree(random)
    here, image = (etc_trees.varied(random, base) for _ in range(2))
    etc_trees.write(tmp_path / "base", base)
    etc_trees.write(tmp_path / "image", image)
    etc_trees.write_upper(tmp_path / "upper", base, here, lambda: random.random() < 0.3)
    trees = [tree_of(tmp_path / name, external=external) for name in ("base", "image")]
    paths, upper = (tmp_path / "base", tmp_path / "image"), tmp_path / "upper"
    assert etc.drift(upper, Stored(trees[0])) == etc.drift(upper, paths[0])
    assert etc.conflicts(trees[0], upper, trees[1]) == etc.conflicts(paths[0], upper, paths[1])
    assert etc.both(trees[0], upper, trees[1]) == etc.both(paths[0], upper, paths[1])


def test_drift_needs_more_than_a_copy(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for side in (lower, upper):
        put(side, "sub/same", "x")
    put(lower, "mode")
    put(upper, "mode", mode=0o600)
    put(upper, ".updated")
    (upper / "empty").mkdir()
    assert etc.drift(upper, lower).changes == (Change("empty", "added"), Change("mode", "metadata"))


@needs_root
def test_drift_without_the_image_tells_what_the_layer_says(tmp_path: Path) -> None:
    upper = tmp_path
    for name in ("copied", "sub/new"):
        put(upper, name)
    for name in ("copied", "sub"):
        os.setxattr(upper / name, "trusted.overlay.origin", b"")
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    assert etc.drift(upper).changes == (
        Change("copied", "changed"),
        Change("gone", "removed"),
        Change("sub/new", "added"),
    )
    assert etc.drift(upper).count == 3


def root_of(etc_directory: Directory, **more: Regular) -> Directory:
    usr = Directory(children={os.fsencode(name): node for name, node in more.items()})
    return Directory(children={b"etc": etc_directory, b"usr": usr})


def test_preflight_tells_of_files_that_would_be_another_users(tmp_path: Path) -> None:
    def passwd(name: str, number: int) -> Regular:
        line = f"{name}:x:{number}:{number}::/:/bin/sh\n".encode()
        return Regular(content=External(measure([line]).object, len(line)))

    contents = {}

    def read(node: Regular) -> bytes:
        assert isinstance(node.content, External)
        return contents[node.content.object]

    for name, number in (("db", 101), ("db", 105)):
        line = f"{name}:x:{number}:{number}::/:/bin/sh\n".encode()
        contents[measure([line]).object] = line
    before = root_of(Directory(children={b"passwd": passwd("db", 101)}))
    after = root_of(Directory(children={b"passwd": passwd("db", 105)}), tool=Regular(uid=105), other=Regular(uid=101))
    found = etc.preflight(before, tmp_path, after, read)
    assert found.foreign == ("/usr/tool",)
    assert etc.preflight(before, tmp_path, before, read) == etc.Preflight((), (), ())
    assert etc.preflight(Directory(), tmp_path, Directory(), read) == etc.Preflight((), (), ())


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"both": 1, "conflicts": []}', b"\xff"])
def test_a_damaged_note_of_the_carry_over_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/carried.json").write_bytes(content)
    assert etc.carried(tmp_path) == ((), ())


def test_diff(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    put(lower, "conf", "a\nb\n")
    put(upper, "conf", "a\nc\n", 0o640)
    put(upper, "open", "new\n")
    put(lower, "mode")
    put(upper, "mode", mode=0o755)
    put(upper, "key", "hunter2\n", 0o600)
    (upper / "binary").write_bytes(b"\0\1")
    (upper / "binary").chmod(0o644)
    (upper / "link").symlink_to("/nowhere")
    changes = etc.drift(upper, lower).changes
    found = {one.change.path: one for one in etcdiff.differences(upper, lower, changes, {"open"})}
    assert found["conf"].note == "private: --secrets shows it"
    assert found["open"].lines == ("--- /dev/null", "+++ b/etc/open", "@@ -0,0 +1 @@", "+new")
    assert [one.change.path for one in found.values() if one.both] == ["open"]
    assert found["mode"].note == "mode 0644 -> 0755"
    assert found["binary"].note == "not text"
    assert found["link"].note == "link to /nowhere"
    assert "hunter2" not in str(found)
    shown = {one.change.path: one for one in etcdiff.differences(upper, lower, changes, set(), secrets=True)}
    assert "+hunter2" in shown["key"].lines
    assert shown["conf"].lines[-2:] == ("-b", "+c")
    assert shown["conf"].note == "mode 0644 -> 0640"


@pytest.mark.parametrize(
    ("typed", "path"),
    [("/etc/fstab", "fstab"), ("fstab", "fstab"), ("/etc/", ""), (".", ""), ("nginx//conf.d/", "nginx/conf.d")],
)
def test_paths_as_typed(typed: str, path: str) -> None:
    assert restore.below_etc(typed) == path


@pytest.mark.parametrize("typed", ["/usr/bin", "../usr", "/etc/../usr", "nginx/../../usr", "/etcetera"])
def test_paths_out_of_etc(typed: str) -> None:
    with pytest.raises(Failure, match="cannot look at"):
        restore.below_etc(typed)


def test_what_is_chosen_for_a_reset() -> None:
    changes = [Change(path, "changed") for path in ("a/b", "a/c", "ab", "machine-id", "passwd", "ssh/ssh_host_rsa_key")]
    assert [change.path for change in restore.chosen(changes, ["a", "machine-id"])] == ["a/b", "a/c", "machine-id"]
    assert [change.path for change in restore.all_but_identity(changes)] == ["a/b", "a/c", "ab"]
    with pytest.raises(Failure, match="cannot reset /etc/passwd"):
        restore.chosen(changes, ["passwd"])
    with pytest.raises(Failure, match="cannot reset /etc/untouched"):
        restore.chosen(changes, ["untouched"])


@pytest.mark.parametrize("seed", range(30))
def test_reset_gives_the_images_tree(tmp_path: Path, seed: int) -> None:
    """Here without an overlay: the machine's view is a directory, and its drift is told by a naive comparison."""
    random = Random(seed)
    base = etc_trees.random_tree(random)
    here = (*etc_trees.varied(random, base)[:2], base[2])
    etc_trees.write(tmp_path / "base", base)
    etc_trees.write(tmp_path / "here", here)
    changes = [Change(path, kind) for path, kind in sorted(etc_trees.changes(base, here).items())]  # type: ignore[arg-type]
    restore.restore(tmp_path / "here", tmp_path / "base", changes)
    assert etc_trees.read(tmp_path / "here") == etc_trees.read(tmp_path / "base")


@pytest.mark.parametrize("number", range(1, 4))
def test_a_reset_cut_before_a_rename_and_done_again(number: int, tmp_path: Path) -> None:
    for name in ("base", "here"):
        (tmp_path / name).mkdir()
        for file in ("one", "two", "three"):
            (tmp_path / name / file).write_text(f"{file} {name}")
    changes = [Change(path, "changed") for path in ("one", "three", "two")]
    child = os.fork()
    if not child:
        renames = iter(range(1, 9))
        original = Path.rename
        Path.rename = lambda path, to: os._exit(9) if next(renames) == number else original(path, to)  # type: ignore[assignment,method-assign]
        restore.restore(tmp_path / "here", tmp_path / "base", changes)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    told = {(tmp_path / "here" / file).read_text() for file in ("one", "two", "three")}
    assert sum(text.endswith("base") for text in told) == number - 1
    restore.restore(tmp_path / "here", tmp_path / "base", changes)
    assert etc_trees.read(tmp_path / "here") == etc_trees.read(tmp_path / "base")


MOUNTED = """
import os, subprocess, sys
from pathlib import Path
from random import Random
import etc_trees
from keelboot.host import etc, restore

root = Path(sys.argv[1])
for seed in range(12):
    random = Random(seed)
    case = root / str(seed)
    case.mkdir()
    base = etc_trees.random_tree(random)
    here = (*etc_trees.varied(random, base)[:2], base[2])
    etc_trees.write(case / "base", base)
    for name in ("layers/upper", "layers/work", "etc"):
        (case / name).mkdir(parents=True)
    (case / "layers/upper").chmod(base[2])
    layers = case / "layers"
    options = f"redirect_dir=off,metacopy=off,lowerdir={case}/base,upperdir={layers}/upper,workdir={layers}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "etc", case / "etc"], check=True)
    for name in os.listdir(case / "etc"):
        subprocess.run(["rm", "-rf", case / "etc" / name], check=True)
    for name, node in here[1].items():
        etc_trees.write(case / "etc" / name, node)
    changes = etc.drift(case / "layers/upper", case / "base").changes
    assert {change.path: change.kind for change in changes} == etc_trees.changes(base, here), seed
    restore.restore(case / "etc", case / "base", changes)
    assert etc_trees.read(case / "etc") == etc_trees.read(case / "base"), seed
    assert etc.drift(case / "layers/upper", case / "base").changes == (), seed

# The root's own mount, without what is mounted on it: the image's /etc is seen although another one hides it.
before = sorted(os.listdir("/etc"))
subprocess.run(["mount", "-t", "tmpfs", "etc", "/etc"], check=True)
assert os.listdir("/etc") == []
with etc.pristine() as lower:
    assert sorted(os.listdir(lower)) == before
print("all as expected")
"""


@needs_root
def test_through_a_mounted_etc(tmp_path: Path) -> None:
    """Everything deleted and made again: directories are opaque then; a reset leaves no drift."""
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", MOUNTED, tmp_path],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SOURCE, SOURCE.parent / "tests")))},
    )
    assert done.stdout == "all as expected\n", done.stderr
