"""Carrying /etc over: on real directories, against a naive oracle, and through real overlays."""

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import etc_trees
from keelboot.host import carryover, etc
from keelboot.host.carryover import carry_over, summary

CASES = int(os.environ.get("KEELBOOT_CASES", "200"))  # `KEELBOOT_CASES=10000` is the long run
SOURCE = Path(__file__).resolve().parents[3] / "src"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and trusted attributes need root")


class Machine:
    """The four directories, and what is in them at first."""

    def __init__(self, root: Path) -> None:
        self.base, self.upper, self.image, self.target = (root / name for name in ("base", "upper", "image", "target"))
        for directory in (self.base, self.upper, self.image):
            directory.mkdir()

    def carry(self) -> carryover.Merge:
        return carry_over(*map(str, (self.base, self.upper, self.image, self.target)))

    @property
    def result(self) -> Path:
        return self.target / "upper"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def put(directory: Path, name: str, content: str = "", mode: int = 0o644) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
    return path


def whiteout(directory: Path, name: str) -> None:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    os.mknod(directory / name, stat.S_IFCHR, 0)


def snapshot(directory: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(directory.rglob("*")):
        at = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        # Nobody sees the time of a whiteout, and that of a directory is of no account.
        time = 0 if stat.S_ISCHR(at.st_mode) or stat.S_ISDIR(at.st_mode) else at.st_mtime_ns
        found[str(path.relative_to(directory))] = (
            at.st_mode,
            at.st_uid,
            at.st_gid,
            time,
            at.st_nlink,
            content,
        )
    return found


def test_what_was_copied_up_and_not_changed_is_the_images_again(machine: Machine) -> None:
    put(machine.base, "sub/conf", "old")
    put(machine.upper, "sub/conf", "old")
    put(machine.image, "sub/conf", "new")
    assert machine.carry().taken == 1
    assert list(machine.result.iterdir()) == []
    assert not (machine.target / "carried.json").exists()


def test_a_change_that_the_image_made_too_is_none(machine: Machine) -> None:
    put(machine.base, "conf", "old")
    put(machine.upper, "conf", "new")
    put(machine.image, "conf", "new")
    merge = machine.carry()
    assert list(machine.result.iterdir()) == []
    assert merge.both == []


def test_both_changed(machine: Machine) -> None:
    put(machine.base, "conf", "old")
    put(machine.upper, "conf", "here")
    put(machine.image, "conf", "there")
    merge = machine.carry()
    assert (machine.result / "conf").read_text() == "here"
    assert merge.both == ["conf"]
    assert etc.carried(machine.target.parent) == ((), ())
    machine.target.rename(machine.target.parent / "etc")
    assert etc.carried(machine.target.parent) == (("conf",), ())


def test_other_permissions_are_no_reason_to_miss_new_content(machine: Machine) -> None:
    put(machine.base, "conf", "old")
    put(machine.upper, "conf", "old", 0o600)
    put(machine.image, "conf", "new")
    assert machine.carry().both == []
    assert (machine.result / "conf").read_text() == "new"
    assert stat.S_IMODE((machine.result / "conf").stat().st_mode) == 0o600


def test_removed_stays_removed_while_there_is_something_to_hide(machine: Machine) -> None:
    for side in (machine.base, machine.image):
        put(side, "kept/conf")
    put(machine.base, "gone")
    whiteout(machine.upper, "kept/conf")
    whiteout(machine.upper, "gone")
    machine.carry()
    assert stat.S_ISCHR((machine.result / "kept/conf").lstat().st_mode)
    assert not (machine.result / "gone").exists()


def test_a_directory_that_the_image_no_longer_has(machine: Machine) -> None:
    """bootc #1924: it stays for what the machine has in it, and is no failure."""
    put(machine.base, "old.d/images")
    put(machine.base, "empty.d/images")
    put(machine.upper, "old.d/mine", "mine")
    put(machine.upper, "empty.d/images")
    machine.carry()
    assert [str(path.relative_to(machine.result)) for path in machine.result.rglob("*")] == ["old.d", "old.d/mine"]


def test_a_replaced_directory_shows_what_is_new_in_the_image(machine: Machine) -> None:
    for name in ("a", "b"):
        put(machine.base, f"sub/{name}", "old")
        put(machine.image, f"sub/{name}", "new")
    put(machine.image, "sub/c", "new")
    put(machine.upper, "sub/a", "old")
    os.setxattr(machine.upper / "sub", "user.overlay.opaque", b"y")
    machine.carry()
    assert [path.name for path in (machine.result / "sub").iterdir()] == ["b"]
    assert stat.S_ISCHR((machine.result / "sub/b").lstat().st_mode)
    assert os.listxattr(machine.result / "sub") == []


@pytest.mark.parametrize(
    ("base", "upper", "image", "found"),
    [
        (None, "d", "f", ["x"]),
        (None, "f", "d", ["x"]),
        ("d", "d", "f", ["x"]),
        ("d", "f", "d", ["x"]),
        ("f", "f", "d", ["x"]),
        ("f", "d", "f", ["x"]),
        ("d", "same d", "f", []),
        ("f", "same f", "d", []),
        ("d", "f", "same d", []),
        ("f", "d", "same f", []),
        ("d", "f", None, []),
        ("d", "d", "d", []),
    ],
)
def test_conflicts(machine: Machine, base: str | None, upper: str, image: str | None, found: list[str]) -> None:
    """Only where both sides changed it, and only one of them has a directory; then the machine's whole is kept."""
    for side, directory in ((base, machine.base), (upper, machine.upper), (image, machine.image)):
        content = "same" if directory is machine.base or (side or "").startswith("same") else directory.name
        if side and side.endswith("d"):
            put(directory, "x/y", content)
        elif side:
            put(directory, "x", content)
    assert etc.conflicts(machine.base, machine.upper, machine.image) == found
    merge = machine.carry()
    assert merge.conflicts == found
    if found:
        assert (machine.result / "x").is_dir() == upper.endswith("d")


def test_systemds_mark_is_the_images_unless_its_units_have_something_to_do(machine: Machine) -> None:
    put(machine.image, ".updated")
    put(machine.upper, ".updated", "# written by systemd-update-done")
    machine.carry()
    assert not (machine.result / ".updated").exists()
    put(machine.upper, "sysusers.d/local.conf", "u local -\n")
    machine.carry()
    assert stat.S_ISCHR((machine.result / ".updated").lstat().st_mode)
    (machine.image / ".updated").unlink()
    machine.carry()
    assert not os.path.lexists(machine.result / ".updated")


def test_the_machine_id_stays(machine: Machine) -> None:
    put(machine.base, "machine-id", "uninitialized\n", 0o444)
    put(machine.image, "machine-id", "uninitialized\n", 0o444)
    put(machine.upper, "machine-id", "0123456789abcdef0123456789abcdef\n", 0o444)
    machine.carry()
    assert (machine.result / "machine-id").read_text().startswith("0123")


def test_files_of_every_kind(machine: Machine) -> None:
    put(machine.upper, "one", "linked", 0o640)
    os.link(machine.upper / "one", machine.upper / "two")
    os.utime(machine.upper / "one", ns=(1_000_000_001, 2_000_000_002))
    (machine.upper / "link").symlink_to("\udcff/nowhere")
    os.mkfifo(machine.upper / "fifo", 0o600)
    with socket.socket(socket.AF_UNIX) as listening:
        directory = os.open(machine.upper, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
    (machine.upper / "empty").mkdir(mode=0o750)
    put(machine.upper, "line\nbreak", "odd")
    assert "6" not in summary(machine.carry()).split(",")[1]
    assert {path.name for path in machine.result.iterdir()} == {path.name for path in machine.upper.iterdir()}
    one = (machine.result / "one").stat()
    assert (one.st_nlink, one.st_mtime_ns, stat.S_IMODE(one.st_mode)) == (2, 2_000_000_002, 0o640)
    assert str((machine.result / "link").readlink()) == "\udcff/nowhere"
    assert (machine.result / "fifo").is_fifo()
    assert (machine.result / "socket").is_socket()
    assert stat.S_IMODE((machine.result / "empty").stat().st_mode) == 0o750


@needs_root
def test_owners_attributes_and_devices(machine: Machine) -> None:
    path = put(machine.upper, "conf", "x", 0o4711)
    os.chown(path, 123, 456)
    path.chmod(0o4711)
    os.setxattr(path, "user.note", b"mine")
    os.setxattr(path, "trusted.overlay.origin", b"")
    os.setxattr(path, "trusted.overlay.protattr", b"i")
    os.mknod(machine.upper / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    machine.carry()
    made = machine.result / "conf"
    assert (made.stat().st_uid, made.stat().st_gid, stat.S_IMODE(made.stat().st_mode)) == (123, 456, 0o4711)
    assert set(os.listxattr(made)) == {"user.note", "trusted.overlay.protattr"}
    assert (machine.result / "null").stat().st_rdev == os.makedev(1, 3)


def test_account_databases_are_merged_and_keep_their_modes(machine: Machine) -> None:
    for side, more in ((machine.base, ""), (machine.image, "db:!:20000::::::\n")):
        put(side, "passwd", "root:x:0:0::/root:/bin/sh\n" + ("db:x:101:101::/:/bin/sh\n" if more else ""))
        put(side, "shadow", f"root:*:20000::::::\n{more}", 0o640)
    put(machine.upper, "shadow", "root:$y$secret:20100::::::\n", 0o600)
    merge = machine.carry()
    assert merge.merged == ["shadow"]
    assert merge.both == []
    assert (machine.result / "shadow").read_text() == "root:$y$secret:20100::::::\ndb:!:20000::::::\n"
    assert stat.S_IMODE((machine.result / "shadow").stat().st_mode) == 0o600
    assert not (machine.result / "passwd").exists()


@needs_root
def test_the_images_files_in_etc_belong_to_whom_they_mean(machine: Machine) -> None:
    """The image says 101 for the user that this machine calls 999, since it has given 101 to another."""
    put(machine.base, "passwd", "root:x:0:0::/:/bin/sh\n")
    put(machine.upper, "passwd", "root:x:0:0::/:/bin/sh\nlocal:x:101:0::/:/bin/sh\n")
    put(machine.image, "passwd", "root:x:0:0::/:/bin/sh\ndb:x:101:0::/:/bin/sh\n")
    os.chown(put(machine.image, "db/conf", "v1"), 101, 0)
    put(machine.image, "db/other", "v1")
    machine.carry()
    assert (machine.result / "db/conf").stat().st_uid == 999
    assert not (machine.result / "db/other").exists()
    assert etc.drift(machine.result, machine.image).changes == (etc.Change("passwd", "changed"),)
    # The next image: nobody changed the file here, so its new content comes, again with the right owner.
    (machine.target / "next").mkdir()
    following = Machine(machine.target / "next")
    os.chown(put(following.image, "db/conf", "v2"), 105, 0)
    put(following.image, "passwd", "root:x:0:0::/:/bin/sh\ndb:x:105:0::/:/bin/sh\n")
    merge = carry_over(*map(str, (machine.image, machine.result, following.image, following.target)))
    assert (following.result / "db/conf").read_text() == "v2"
    assert (following.result / "db/conf").stat().st_uid == 999
    assert merge.both == []


def test_a_damaged_file_of_the_parents_image_counts_as_changed(machine: Machine) -> None:
    put(machine.base, "conf", "old")
    put(machine.upper, "conf", "old")
    (machine.base / "conf").unlink()
    (machine.base / "conf").symlink_to("/proc/self/mem")  # stands for what cannot be read
    put(machine.image, "conf", "new")
    machine.carry()
    assert (machine.result / "conf").read_text() == "old"


def test_interrupted_and_run_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(1)
    base = here = image = ("d", {}, 0o755)
    while len(etc_trees.changes(base, here)) < 8:
        base = etc_trees.random_tree(random)
        here, image = (etc_trees.varied(random, base) for _ in range(2))
    for directory, node in ((machine.base, base), (machine.image, image)):
        directory.rmdir()
        etc_trees.write(directory, node)
    machine.upper.rmdir()
    etc_trees.write_upper(machine.upper, base, here, lambda: random.random() < 0.5)
    machine.carry()
    whole = snapshot(machine.result)
    assert len(whole) > 8
    create = carryover._create
    for number in range(1, len(whole)):
        left = number

        def failing(*arguments: Any) -> bool:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt
            return create(*arguments)

        monkeypatch.setattr(carryover, "_create", failing)
        try:
            machine.carry()
        except KeyboardInterrupt:
            monkeypatch.setattr(carryover, "_create", create)
            machine.carry()
        assert snapshot(machine.result) == whole


@settings(max_examples=CASES, deadline=None)
@given(st.integers(0, 1 << 48))
def test_against_the_oracle(seed: int) -> None:
    """Random trees of files, links and directories that change into each other; drift and the merge of all."""
    random = Random(seed)
    base = etc_trees.random_tree(random)
    here, image = (etc_trees.varied(random, base) for _ in range(2))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        etc_trees.write(root / "base", base)
        etc_trees.write(root / "image", image)
        etc_trees.write_upper(root / "upper", base, here, lambda: random.random() < 0.3)
        drift = etc.drift(root / "upper", root / "base")
        assert {change.path: change.kind for change in drift.changes} == etc_trees.changes(base, here)
        carry_over(*(str(root / name) for name in ("base", "upper", "image", "target")))
        wanted = etc_trees.expected(base, here, image)
        assert etc_trees.over(etc_trees.read(root / "target/upper"), image) == wanted
        # What the machine changed is all that is there, and merging the result once more changes nothing.
        again = etc.drift(root / "target/upper", root / "image")
        assert {change.path: change.kind for change in again.changes} == etc_trees.changes(image, wanted)
        before = snapshot(root / "target/upper")
        carry_over(*(str(root / name) for name in ("image", "target/upper", "image", "second")))
        assert snapshot(root / "second/upper") == before


MOUNTED = """
import sys
from pathlib import Path
from random import Random
import os
import subprocess
import etc_trees
from keelboot.host.carryover import carry_over

root, mark, options = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def mount(lower, layers):
    subprocess.run(["mount", "-t", "overlay", "-o",
        f"{options}lowerdir={lower},upperdir={layers}/upper,workdir={layers}/work", "etc", root / "etc"], check=True)

def apply(path, was, now):
    "Make NOW of WAS with the operations that people use."
    for name in {*etc_trees.children(was), *etc_trees.children(now)}:
        before, after = etc_trees.children(was).get(name), etc_trees.children(now).get(name)
        if before == after:
            continue
        if before and after and before[0] == after[0] == "d":
            apply(path / name, before, after)
            continue
        if before:
            subprocess.run(["rm", "-rf", path / name], check=True)
        if after:
            etc_trees.write(path / name, after)
    path.chmod(now[2])

for seed in range(int(sys.argv[4])):
    random = Random(seed)
    case = root / str(seed)
    case.mkdir()
    base = etc_trees.random_tree(random)
    here, image = (etc_trees.varied(random, base) for _ in range(2))
    etc_trees.write(case / "base", base)
    etc_trees.write(case / "image", image)
    (case / "layers/upper").mkdir(parents=True)
    (case / "layers/upper").chmod(0o755)
    (case / "layers/work").mkdir()
    mount(case / "base", case / "layers")
    apply(root / "etc", base, here)
    assert etc_trees.read(root / "etc") == here, seed
    subprocess.run(["umount", root / "etc"], check=True)
    carry_over(*(str(case / name) for name in ("base", "layers/upper", "image", "target")))
    mount(case / "image", case / "target")
    assert etc_trees.read(root / "etc") == etc_trees.expected(base, here, image), seed
    subprocess.run(["umount", root / "etc"], check=True)
print("all as expected")
"""


def test_through_real_overlays(tmp_path: Path) -> None:
    """The kernel's own upper layers, and its own view of the result."""
    for name in ("etc", "one", "two"):
        (tmp_path / name).mkdir()
    root = os.geteuid() == 0
    namespace = ["unshare", "--mount"] if root else ["unshare", "--user", "--map-root-user", "--mount"]
    options = "redirect_dir=off,metacopy=off," if root else "userxattr,"
    probe = [*namespace, "mount", "-t", "overlay", "-o", f"{options}lowerdir=one:two", "probe", str(tmp_path / "etc")]
    if subprocess.run(probe, check=False, capture_output=True, cwd=tmp_path).returncode:
        pytest.skip("this kernel lets nobody mount an overlay here")
    done = subprocess.run(
        [*namespace, sys.executable, "-c", MOUNTED, tmp_path, "trusted" if root else "user", options, "25"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SOURCE, SOURCE.parent / "tests")))},
    )
    assert done.stdout == "all as expected\n", done.stderr


def test_as_the_initramfs_calls_it(machine: Machine) -> None:
    put(machine.base, "conf", "old")
    put(machine.image, "conf", "new")
    put(machine.upper, "conf", "here")
    words = ["--parent-etc", machine.base, "--parent-upper", machine.upper, "--image-etc", machine.image]
    run = "runpy.run_module('keelboot.host.carryover', run_name='__main__')"
    call = [sys.executable, "-I", "-c", f"import runpy, sys; sys.path.insert(0, {str(SOURCE)!r}); {run}"]
    done = subprocess.run([*call, *words, "--target", machine.target], check=True, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert "conf" in done.stdout
    assert json.loads((machine.target / "carried.json").read_text()) == {"both": ["conf"], "conflicts": []}
    assert (machine.target / "work").is_dir()
    missing = subprocess.run([*call, *words], check=False, capture_output=True, text=True)
    assert missing.returncode == 2
    nowhere = subprocess.run(
        [*call, *words, "--target", machine.target / "no/where"], check=False, capture_output=True, text=True
    )
    assert (nowhere.returncode, "Traceback" in nowhere.stderr) == (1, False)


def test_it_imports_next_to_nothing() -> None:
    """Each module costs the boot some 20 ms in a slow machine."""
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); import keelboot.host.carryover; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True, text=True)
    heavy = {"argparse", "dataclasses", "json", "pathlib", "re", "shutil", "subprocess", "tempfile", "typing"}
    assert heavy & set(done.stdout.split()) == set()
