"""A disk made by an ordinary user, without loop devices, KVM or any capability; looked at by the tools that know."""

import hashlib
import json
import os
import re
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

TOOLS = "mke2fs debugfs e2fsck dumpe2fs mkfs.fat fsck.fat mcopy mdir sgdisk sfdisk qemu-img fsverity unshare setpriv"
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
MISSING = [tool for tool in TOOLS.split() if not shutil.which(tool, path=PATH)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}")

ROOT = Path(__file__).resolve().parents[2]
MAKER = Path(__file__).with_name("make_disk.py")
NOBODY = 65534
# A private /dev with nothing but null, zero and urandom; then no capability, and no way to get one.
CONFINED = """
mount -n -t tmpfs dev /mnt
for node in null zero urandom; do : > /mnt/$node; mount -n --bind /dev/$node /mnt/$node; done
mount -n --move /mnt /dev
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""
SMALL = """
directory=$2
mount -n -t tmpfs -o size="$1",mode=0777 small "$directory"; shift 2
"$@"; status=$?
cd "$directory"
[ $status -ne 0 ] || sha256sum "$directory/disk.raw"
ls -A
exit $status
"""
made_by = runpy.run_path(str(MAKER), run_name="make_disk")  # its constants, without a second copy of them


def ordinary() -> list[str]:
    """The words before a command that make an ordinary user run it."""
    if os.geteuid():
        return []
    # A container's root may hand its capabilities on even to another user.
    none = [f"--{which}=-all" for which in ("ambient-caps", "inh-caps", "bounding-set")]
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *none]


def run(argv: list[str], environment: Mapping[str, str] | None = None, umask: int = 0o022) -> tuple[int, str, str]:
    """Run a program: its status, what it printed, what it complained of."""
    known = {"PATH": PATH, "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        argv, env=known | dict(environment or {}), capture_output=True, text=True, check=False, umask=umask
    )
    return done.returncode, done.stdout, done.stderr


def confined(*argv: str) -> list[str]:
    return [*ordinary(), "unshare", "-rm", "sh", "-euc", CONFINED, "confined", *argv]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that the ordinary user may write to; pytest's own are its owner's alone."""
    with tempfile.TemporaryDirectory() as made:
        if not os.geteuid():
            os.chown(made, NOBODY, NOBODY)
        if run(["unshare", "-rm", "true"])[0]:
            pytest.skip("user namespaces are not allowed here")
        yield Path(made)


@pytest.fixture(scope="module")
def python(place: Path) -> str:  # noqa: ARG001 - only where user namespaces are allowed
    """A Python that an ordinary user can run, and that finds the package."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        if not run(confined(candidate, "-c", "import keelboot.disk.writer"))[0]:
            return candidate
    pytest.skip("no Python here can be run, or the package read, by an ordinary user")


@pytest.fixture(scope="module")
def made(place: Path, python: str) -> tuple[Path, dict[str, Any]]:
    output = place / "disk.raw"
    status, out, err = run(confined(python, str(MAKER), str(output), "raw", "1"), {"TZ": "Asia/Tokyo"}, umask=0o077)
    assert status == 0, out + err
    return output, json.loads(out)


def part(made: tuple[Path, dict[str, Any]], name: str) -> Path:
    """The partition NAME as a file of its own."""
    disk, facts = made
    where = facts["layout"][name]
    target = disk.with_name(name)
    if not target.exists():
        blocks = {"skip": where["start"], "count": where["size"]}
        words = [f"{word}={value >> 20}" for word, value in blocks.items()]
        subprocess.run(["dd", f"if={disk}", f"of={target}", "bs=1M", *words, "conv=sparse", "status=none"], check=True)
        os.truncate(target, where["size"])
    return target


def debugfs(image: Path, request: str) -> str:
    return run(["debugfs", "-R", request, str(image)])[1]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_partition_table(made: tuple[Path, dict[str, Any]]) -> None:
    disk, facts = made
    assert "No problems found" in run(["sgdisk", "-v", str(disk)])[1]
    assert "No errors detected" in run(["sfdisk", "-V", str(disk)])[1]
    table = json.loads(run(["sfdisk", "--json", str(disk)])[1])["partitiontable"]
    seen = [
        (entry["start"] * 512, entry["size"] * 512, UUID(entry["type"]), UUID(entry["uuid"]), entry["name"])
        for entry in table["partitions"]
    ]
    wanted = [
        (one["start"], one["size"], UUID(one["type"]), UUID(one["uuid"]), one["name"])
        for one in (facts["layout"][name] for name in ("esp", "store", "var"))
    ]
    assert seen == wanted
    assert [entry.get("attrs") for entry in table["partitions"]] == [None, None, "GUID:59"]
    assert UUID(table["id"]) == UUID(facts["layout"]["uuid"])


def test_the_file_is_sparse(made: tuple[Path, dict[str, Any]]) -> None:
    state = made[0].stat()
    assert state.st_size == 1 << 30
    assert state.st_blocks * 512 < 40 << 20


def test_boot_partition(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    image = part(made, "esp")
    status, out, _ = run(["fsck.fat", "-vn", str(image)])
    assert status == 0, out
    assert "32 bit entries" in out
    files = made_by["esp_files"]()
    listed = run(["mdir", "-/", "-b", "-i", str(image), "::/"])[1].split()
    assert {name.removeprefix("::/") for name in listed if not name.endswith("/")} == set(files)
    for name, content in files.items():
        subprocess.run(["mcopy", "-n", "-i", image, f"::/{name}", tmp_path / "copy"], check=True)
        assert (tmp_path / "copy").read_bytes() == content


@pytest.mark.parametrize("name", ["store", "var"])
def test_filesystems_are_clean(name: str, made: tuple[Path, dict[str, Any]]) -> None:
    status, out, err = run(["e2fsck", "-fn", str(part(made, name))])
    assert status == 0, out + err
    facts = run(["dumpe2fs", "-h", str(part(made, name))])[1]
    assert re.search(r"Filesystem features:.* verity", facts)
    assert made[1]["layout"][name]["filesystem"] in facts


def test_two_more_deployments_fit(made: tuple[Path, dict[str, Any]]) -> None:
    facts, usage = run(["dumpe2fs", "-h", str(part(made, "store"))])[1], made[1]["usage"]
    (blocks, inodes) = (re.search(rf"{what}: +(\d+)", facts) for what in ("Free blocks", "Free inodes"))
    assert blocks
    assert inodes
    assert int(blocks[1]) > 2 * usage["blocks"]
    assert int(inodes[1]) > 2 * usage["inodes"]


@pytest.mark.parametrize("size", made_by["SIZES"])
def test_an_object_is_sealed(size: int, made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Its bytes are right, and behind them lies what `fsverity` computes, where ext4 looks for it."""
    image = part(made, "store")
    name = made[1]["objects"][str(size)]
    path = f"/composefs/objects/{name[:2]}/{name[2:]}"
    debugfs(image, f"dump {path} {tmp_path}/data")
    assert (tmp_path / "data").read_bytes() == made_by["content"](size)
    said = run(["fsverity", "digest", "--compact", f"--out-merkle-tree={tmp_path}/tree",
                f"--out-descriptor={tmp_path}/descriptor", f"{tmp_path}/data"])[1]  # fmt: skip
    assert said.strip() == name
    facts = debugfs(image, f"stat {path}")
    assert re.search(r"Mode:  0644 +Flags: 0x180000", facts), facts
    assert re.search(r"User: +0 +Group: +0 ", facts)

    tree, descriptor = (tmp_path / "tree").read_bytes(), (tmp_path / "descriptor").read_bytes()
    first = -(-size // 65536) * 16
    count = len(tree) // 4096 + 1
    tail = b""
    with image.open("rb") as file:
        for block in range(first, first + count):
            file.seek(int(debugfs(image, f"bmap {path} {block}")) * 4096)
            tail += file.read(4096)
    assert tail[: len(tree)] == tree
    assert tail[len(tree) : len(tree) + len(descriptor)].ljust(256, b"\0") == descriptor.ljust(256, b"\0")
    assert struct.unpack("<I", tail[-4:]) == (256,)
    assert debugfs(image, f"bmap {path} {first + count}").strip() == "0"


def test_other_files(made: tuple[Path, dict[str, Any]]) -> None:
    image = part(made, "store")
    assert debugfs(image, 'cat "/state/deploy/a b/it is ""x"""') == "quoted\n"
    assert debugfs(image, "cat /state/from-host") == "from the host\n"
    for path, mode, user, group in (
        ("/", "0700", 0, 0),
        ("/composefs", "0755", 0, 0),
        ('"/state/deploy/a b"', "01750", 100_000, 7),
        ('"/state/deploy/a b/it is ""x"""', "04711", 3, 70_000),
        ("/state/from-host", "0600", 0, 0),
    ):
        facts = debugfs(image, f"stat {path}")
        assert re.search(rf"Mode: +{mode} ", facts), facts
        assert re.search(rf"User: +{user} +Group: +{group} ", facts), facts
    assert 'Fast link dest: "../objects"' in debugfs(image, "stat /composefs/images/short")
    assert debugfs(image, "cat /composefs/images/long") == "../objects/" + "l" * 300


def test_no_time_but_the_given_one(made: tuple[Path, dict[str, Any]]) -> None:
    image = part(made, "store")
    for path in ("/", "/lost+found", "/composefs", "/state/from-host", "/composefs/images/long", "<8>"):
        times = re.findall(r"[acm]r?time: (0x[0-9a-f]+:\d+)", debugfs(image, f"stat {path}"))
        assert set(times) == {f"{made_by['EPOCH']:#x}:00000000"}, path


def test_the_same_bytes_again(made: tuple[Path, dict[str, Any]], place: Path, python: str) -> None:
    """Another umask, time zone, order of arrival and directory; root, where the tests run as root."""
    (place / "other place").mkdir()
    again = place / "other place" / "disk again.raw"
    status, out, err = run([python, str(MAKER), str(again), "raw", "-1"], {"TZ": "America/Lima", "HOME": "/tmp"})
    assert status == 0, out + err
    assert digest(again) == digest(made[0])
    shutil.rmtree(again.parent)


def test_qcow2(made: tuple[Path, dict[str, Any]], place: Path, python: str) -> None:
    output = place / "disk.qcow2"
    digests = set()
    for _ in range(2):  # the second replaces the first
        status, out, err = run(confined(python, str(MAKER), str(output), "qcow2", "1"))
        assert status == 0, out + err
        digests.add(digest(output))
    assert len(digests) == 1
    assert run(["qemu-img", "compare", str(output), str(made[0])])[0] == 0
    assert output.stat().st_size < 40 << 20
    output.unlink()


def test_no_room(made: tuple[Path, dict[str, Any]], place: Path, python: str) -> None:
    """Staging, boot partition, store: wherever room ends, it is said, nothing is left, and no disk is incomplete."""
    small = place / "small"
    small.mkdir()
    if not os.geteuid():
        os.chown(small, NOBODY, NOBODY)
    right = f"{digest(made[0])}  {small}/disk.raw"
    refused = []
    for size in range(2000, 20_000, 1500):
        words = [f"{size}k", str(small), python, str(MAKER), str(small / "disk.raw"), "raw", "1"]
        status, out, err = run([*ordinary(), "unshare", "-rm", "sh", "-uc", SMALL, "small", *words])
        if status == 0:
            assert out.splitlines()[1:] == [right, "disk.raw"], (size, out, err)
            break
        said, fix, *left = out.splitlines()
        assert re.match(r"OutOfSpace cannot write .*: the filesystem of .* is full", said), out + err
        assert "df -h" in fix
        assert left == [], size
        refused.append(size)
    assert status == 0
    assert len(refused) > 5


@pytest.mark.parametrize(
    "step", ["Writing the boot partition", "Writing the store", "Writing /var", "Converting to qcow2", "Syncing"]
)
def test_interrupted(step: str, place: Path, python: str) -> None:
    folder = place / "interrupted"
    folder.mkdir(exist_ok=True)
    (folder / "disk").write_text("what was there before")
    status, _, err = run([python, str(MAKER), str(folder / "disk"), "qcow2", "1", f"interrupt:{step}"])
    assert (status, "KeyboardInterrupt" in err) == (-signal.SIGINT, True)
    assert list(folder.iterdir()) == [folder / "disk"]
    assert (folder / "disk").read_text() == "what was there before"


def test_killed(place: Path, python: str) -> None:
    """Nothing can be cleaned up then; the next run does it."""
    folder = place / "killed"
    folder.mkdir()
    argv = [python, str(MAKER), str(folder / "disk"), "raw", "1"]
    assert run([*argv, "kill:Writing /var"])[0] == -signal.SIGKILL
    assert list(folder.glob(".keelboot-draft-*"))
    assert run(argv)[0] == 0
    assert list(folder.iterdir()) == [folder / "disk"]


def test_interrupted_while_a_program_runs(place: Path, python: str) -> None:
    folder = place / "program"
    folder.mkdir()
    slow = place / "bin"
    slow.mkdir()
    (slow / "debugfs").write_text("#!/bin/sh\nkill -INT $PPID\nexec sleep 100\n")
    (slow / "debugfs").chmod(0o755)
    status, _, err = run([python, str(MAKER), str(folder / "disk"), "raw", "1"], {"PATH": f"{slow}:{PATH}"})
    assert (status, "KeyboardInterrupt" in err) == (-signal.SIGINT, True)
    assert not list(folder.iterdir())


def test_a_program_that_complains_and_succeeds(place: Path, python: str) -> None:
    """debugfs ends with status 0 whatever happened, so what it prints has to be read."""
    liar = place / "liar"
    liar.mkdir()
    true_one = shutil.which("debugfs", path=PATH)
    for number, program in enumerate(
        (
            f'sed -i "/mkdir/d" "$3"; exec {true_one} "$@"',  # directories are missing: complaints
            f'{true_one} "$@" | grep -v "^Allocated" ',  # says of no file that it was made
            "exit 0",  # says nothing
        )
    ):
        (liar / "debugfs").write_text(f"#!/bin/sh\n{program}\n")
        (liar / "debugfs").chmod(0o755)
        status, out, err = run([python, str(MAKER), str(place / f"d{number}"), "raw", "1"], {"PATH": f"{liar}:{PATH}"})
        assert (status, out.split()[0]) == (1, "CommandFailed"), out + err
        assert not (place / f"d{number}").exists()
