"""keelboot composefs: the vectors, the real tools, and everything a user can get wrong."""

import gzip
import hashlib
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keelboot import command
from keelboot.cli import main
from keelboot.composefs import erofs, folder
from keelboot.composefs.sealing import seal
from keelboot.composefs.verity import Algorithm, measure
from keelboot.image.layers import read_tree
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.image.tree import ObjectId

Keelboot = Callable[..., subprocess.CompletedProcess[str]]
VECTORS = Path(__file__).resolve().parents[3] / "../shared/vectors/composefs"
INPUTS = sorted(path for suffix in ("*.dump", "*.dump.gz") for path in VECTORS.glob(suffix))
GOOD = [path for path in INPUTS if not path.name.startswith("should-fail")]
BAD = [path for path in INPUTS if path.name.startswith("should-fail")]
LAX = {"longlink.dump", "honggfuzz-longlink-unterminated.dump", "no-newline.dump"}
ROOT = b"/ 0 40755 2 0 0 0 0.0 - - -\n"
WHITEOUT = b"/w 0 20644 1 0 0 0 0.0 - - -\n"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(command.find(program) is None, reason=f"{program} is not installed")


@pytest.fixture(autouse=True)
def lax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CFS_PARSE_STRICT", raising=False)


def composefs(*words: str | Path) -> int:
    """Run the verb in this process."""
    return main.main(["composefs", *map(str, words)])


def run(*words: str | Path, stdin: bytes = b"", stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    """Run it as a process of its own, with bytes for its standard streams."""
    environment = {**os.environ, "PYTHONPATH": str(Path(main.__file__).parents[2])}
    argv = [sys.executable, "-m", "keelboot.cli.main", "composefs", *map(str, words)]
    return subprocess.run(argv, input=stdin, stdout=stdout, stderr=subprocess.PIPE, env=environment, check=False)


def vector(path: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """The input as a file, and the versions that its digest is about."""
    versions = path.with_name(f"{path.name}.version")
    number = versions.read_text().strip() if versions.exists() else ""
    text = tmp_path / "in.dump"
    text.write_bytes(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    return text, [f"--min-version={number}", f"--max-version={number}"] if number else []


def test_there_are_vectors() -> None:
    if not VECTORS.exists():
        pytest.skip("the shared vectors are not beside this checkout")
    assert (len(GOOD), len(BAD)) == (9, 7)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_vector(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The image is the expected one, and what its dump says is the image again."""
    text, versions = vector(path, tmp_path)
    assert composefs("create", "--from-file", *versions, text, tmp_path / "one.cfs") == 0
    image = (tmp_path / "one.cfs").read_bytes()
    assert hashlib.sha256(image).hexdigest() == path.with_name(f"{path.name}.sha256").read_text().split()[0]
    capsys.readouterr()
    assert composefs("dump", tmp_path / "one.cfs") == 0
    dumped = capsys.readouterr().out
    (tmp_path / "again.dump").write_text(dumped)
    assert composefs("create", "--from-file", *versions, tmp_path / "again.dump", tmp_path / "two.cfs") == 0
    assert (tmp_path / "two.cfs").read_bytes() == image
    assert composefs("dump", tmp_path / "two.cfs") == 0
    assert capsys.readouterr().out == dumped


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.name)
@pytest.mark.parametrize("strict", [False, True])
def test_vector_that_is_refused(
    path: Path, strict: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if strict:
        monkeypatch.setenv("CFS_PARSE_STRICT", "1")
    assert composefs("create", "--from-file", path, tmp_path / "out.cfs") == 1
    assert list(tmp_path.iterdir()) == []
    told = capsys.readouterr().err
    assert f"keelboot: cannot read {path}: line " in told
    assert "Traceback" not in told


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_strict(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, versions = vector(path, tmp_path)
    monkeypatch.setenv("CFS_PARSE_STRICT", "")
    assert composefs("create", "--from-file", *versions, text, tmp_path / "out.cfs") == (path.name in LAX)
    assert (tmp_path / "out.cfs").exists() == (path.name not in LAX)


def test_a_refused_dump_leaves_the_image_that_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out.cfs"
    out.write_bytes(b"before")
    (tmp_path / "bad.dump").write_bytes(ROOT + b"/x\n")
    assert composefs("create", "--from-file", tmp_path / "bad.dump", out) == 1
    assert out.read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.dump", "out.cfs"]


@pytest.mark.parametrize(
    ("options", "plain", "with_whiteout"),
    [
        ([], 0, 1),
        (["--min-version=0"], 0, 0),
        (["--max-version=0"], 0, 0),
        (["--max-version=1"], 0, 1),
        (["--min-version=1"], 1, 1),
        (["--min-version=0", "--max-version=1"], 0, 1),
        (["--min-version=1", "--max-version=0"], 1, 1),
    ],
)
def test_versions(options: list[str], plain: int, with_whiteout: int, tmp_path: Path) -> None:
    for text, version in ((ROOT, plain), (ROOT + WHITEOUT, with_whiteout)):
        (tmp_path / "in").write_bytes(text)
        assert composefs("create", "--from-file", *options, tmp_path / "in", tmp_path / "out") == 0
        assert (tmp_path / "out").read_bytes()[12] == version


# From the reference of other implementations: the fs-verity digests of the smallest images.
@pytest.mark.parametrize(
    ("version", "digest"),
    [
        (0, "8f589e8f57ecb88823736b0d857ddca1e1068a23e264fad164b28f7038eb3682"),
        (1, "14a26c957c84f6eb774b91205476adc13196c7c33b9dd97d08d43725ecb90b63"),
    ],
)
def test_print_digest(version: int, digest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").write_bytes(b"/ 4096 40755 2 0 0 0 0.0 - - -\n")
    words = ["create", "--from-file", f"--min-version={version}", tmp_path / "in"]
    assert composefs("create", "--print-digest-only", *words[1:]) == 0
    assert composefs(*words, "--print-digest-only") == 0
    assert composefs(*words, "--print-digest", tmp_path / "out") == 0
    assert composefs("digest", tmp_path / "out") == 0
    assert composefs(*words, tmp_path / "out") == 0
    assert capsys.readouterr().out == f"{digest}\n" * 4
    assert composefs(*words, "--json", tmp_path / "out") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"image": str(tmp_path / "out"), "version": version, "size": 16384, "digest": digest}


def test_standard_streams(tmp_path: Path) -> None:
    text = ROOT + b"/a 1 100644 1 0 0 0 0.0 - x -\n"
    whole = run("create", "--from-file", "-", "-", stdin=text)
    assert (whole.returncode, whole.stderr) == (0, b"")
    assert run("create", "--from-file", "-", "/dev/stdout", stdin=text).stdout == whole.stdout
    with (tmp_path / "out").open("wb") as file:
        assert run("create", "--from-file", "-", "/dev/stdout", stdin=text, stdout=file.fileno()).returncode == 0
    assert (tmp_path / "out").read_bytes() == whole.stdout
    assert stat.S_ISLNK(os.lstat("/dev/stdout").st_mode)
    assert run("ls", "-", stdin=whole.stdout).stdout == b"/a\n"
    assert run("digest", "-", stdin=whole.stdout).stdout.decode() == measure([whole.stdout]).object.hex + "\n"


LISTED = (
    ROOT
    + rb"/a\x20b 5 100644 2 0 0 0 0.0 - hello -"
    + b"\n/dir 0 40755 2 0 0 0 0.0 - - -\n/dir/l 0 @100644 - - - - - "
    + rb"/a\x20b - -"
    + b"\n/e 9 100600 1 1 2 0 0.0 ab/cd - "
    + b"5a" * 32
    + b"\n/e2 9 100644 1 0 0 0 0.0 ab/cd - -\n/s 2 120777 1 0 0 0 0.0 "
    + rb"t\x20\xff - -"
    + b"\n"
)


def test_listings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").write_bytes(LISTED)
    image = tmp_path / "out.cfs"
    assert composefs("create", "--from-file", tmp_path / "in", image) == 0
    assert composefs("ls", image) == 0
    told = capsys.readouterr().out
    assert told == "/a b\n/dir/\t\n/dir/l\n/e\t@ ab/cd\n/e2\t@ ab/cd\n/s\t-> t\\x20\\xff\n"
    assert composefs("objects", image, image) == 0
    assert capsys.readouterr().out == "ab/cd\n"
    assert composefs("--json", "objects", image) == 0
    assert json.loads(capsys.readouterr().out) == ["ab/cd"]
    assert composefs("ls", "--json", image) == 0
    (listing,) = json.loads(capsys.readouterr().out)
    entries = {entry["path"]: entry for entry in listing["entries"]}
    assert listing["image"] == str(image)
    assert entries["/e"] == {
        "path": "/e", "type": "file", "hardlink": False, "permissions": "0600", "uid": 1, "gid": 2, "size": 9,
        "object": "ab/cd", "digest": "5a" * 32,
    }  # fmt: skip
    assert entries["/s"]["target"] == r"t\x20\xff"
    assert (entries[r"/a\x20b"]["hardlink"], entries["/dir/l"]["hardlink"]) == (False, True)
    assert composefs("dump", "--json", image) == 0
    (dumped,) = json.loads(capsys.readouterr().out)
    assert len(dumped["dump"]) == 7


@needs("fsverity")
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_digest_is_that_of_fsverity(algorithm: Algorithm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for size in (0, 1, 4096, 4097, 64 * 4096, 128 * 4096 + 1, 2_000_000):
        files.append(tmp_path / str(size))
        files[-1].write_bytes(bytes(range(251)) * (size // 251) + b"x" * (size % 251))
    argv = ["fsverity", "digest", "--compact", f"--hash-alg={algorithm}", *files]
    expected = command.run(argv, purpose="measure files").stdout.decode()
    options = ["--sha512"] if algorithm == "sha512" else []
    assert composefs("digest", *options, *files) == 0
    assert capsys.readouterr().out == expected
    assert composefs("digest", "--json", *options, files[0]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told == {"file": str(files[0]), "algorithm": algorithm, "digest": expected.splitlines()[0]}


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A directory with a file of every kind that an ordinary user can make."""
    root = tmp_path / "rootfs"
    (root / "dir").mkdir(parents=True, mode=0o755)
    (root / "small").write_bytes(b"s" * 64)
    (root / "large").write_bytes(b"l" * 65)
    (root / "empty").touch()
    (root / "dir/larger").write_bytes(bytes(100_000))
    (root / "dir/second").hardlink_to(root / "large")
    (root / "link").symlink_to("dir/larger")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(root / "socket"))
    for path in [root, *root.rglob("*")]:
        os.utime(path, ns=(0, 1_700_000_000_123_456_789), follow_symlinks=False)
    return root


def dumped(image: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """The fields of each line of the image's dump, by path."""
    capsys.readouterr()
    assert composefs("dump", image) == 0
    return {line.split(" ")[0]: line.split(" ") for line in capsys.readouterr().out.splitlines()}


def test_directory(rootfs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert composefs("create", rootfs, tmp_path / "out") == 0
    lines = dumped(tmp_path / "out", capsys)
    large = measure([b"l" * 65]).object
    assert set(lines) == {
        "/", "/dir", "/dir/larger", "/dir/second", "/empty", "/large", "/link", "/pipe", "/small", "/socket"
    }  # fmt: skip
    assert lines["/small"][8:11] == ["-", "s" * 64, "-"]
    for name in ("/large", "/dir/second"):  # two names are two files
        assert lines[name][8:11] == [large.path, "-", large.hex]
        assert lines[name][3] == "1"
    assert lines["/link"][8] == "dir/larger"
    assert {fields[7] for fields in lines.values()} == {"1700000000.123456789"}
    assert lines["/large"][4:6] == [str(os.getuid()), str(os.getgid())]


def test_use_epoch(rootfs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert composefs("create", "--use-epoch", rootfs, tmp_path / "out") == 0
    assert {fields[7] for fields in dumped(tmp_path / "out", capsys).values()} == {"0.0"}


def test_skip_devices(rootfs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        os.mknod(rootfs / "whiteout", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    except PermissionError:
        pytest.skip("this user cannot make device nodes")
    assert composefs("create", rootfs, tmp_path / "out") == 0
    assert (tmp_path / "out").read_bytes()[12] == 1
    assert dumped(tmp_path / "out", capsys)["/whiteout"][2] == "20600"
    assert composefs("create", "--skip-devices", rootfs, tmp_path / "out") == 0
    assert {"/pipe", "/socket"} < dumped(tmp_path / "out", capsys).keys()
    assert "/whiteout" not in dumped(tmp_path / "out", capsys)


def test_xattrs(rootfs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    try:
        os.setxattr(rootfs / "large", "user.a", b"=")
        os.setxattr(rootfs / "link", "trusted.b", b"b", follow_symlinks=False)
    except OSError:
        pytest.skip("this user or this filesystem cannot have such attributes")
    for option in ("--use-epoch", "--user-xattrs", "--skip-xattrs"):
        assert composefs("create", option, rootfs, tmp_path / "out") == 0
        lines = dumped(tmp_path / "out", capsys)
        found[option] = lines["/large"][11:] + lines["/link"][11:]
    assert found["--use-epoch"] == [r"user.a=\x3d", "trusted.b=b"]
    assert found["--user-xattrs"] == [r"user.a=\x3d"]
    assert found["--skip-xattrs"] == []


def test_digest_store(rootfs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every object that the image names is there under its digest; a second run leaves it alone."""
    store = tmp_path / "some/objects"
    words = ["create", "--digest-store", store, rootfs, tmp_path / "out"]
    assert composefs(*words) == 0
    assert composefs("objects", tmp_path / "out") == 0
    names = capsys.readouterr().out.splitlines()
    assert len(names) == 2
    assert sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()) == names
    for name in names:
        assert measure([(store / name).read_bytes()]).object.path == name
    before = {name: (store / name).stat() for name in names}
    assert composefs(*words) == 0
    assert {name: (store / name).stat() for name in names} == before
    (store / names[0]).write_bytes(b"cut short, as by a power cut")
    assert composefs(*words) == 0
    assert measure([(store / names[0]).read_bytes()]).object.path == names[0]
    assert (store / names[1]).stat() == before[names[1]]


def test_a_file_that_changes_while_it_is_copied(
    rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else content would lie under a name that is not its digest."""

    def measured_and_then_written(file: int, size: int) -> ObjectId:
        name = measure(folder.read_pieces(file, size)).object
        Path(f"/proc/self/fd/{file}").write_bytes(b"z" * size)
        return name

    monkeypatch.setattr(folder, "measured", measured_and_then_written)
    assert composefs("create", "--digest-store", tmp_path / "store", rootfs, tmp_path / "out") == 1
    assert "changed while it was read" in capsys.readouterr().err
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []
    assert not (tmp_path / "out").exists()


@needs("mkcomposefs")
@pytest.mark.parametrize(
    "options", [[], ["--min-version=1"], ["--use-epoch"], ["--skip-devices", "--user-xattrs"], ["--skip-xattrs"]]
)
def test_directory_as_mkcomposefs_reads_it(options: list[str], rootfs: Path, tmp_path: Path) -> None:
    for name in ("00", "ff", "n" * 255, "a b", "new\nline", "=", "-"):
        (rootfs / "dir" / name).write_bytes(name.encode() * 30)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    argv = ["mkcomposefs", *options, f"--digest-store={theirs}", rootfs, tmp_path / "theirs.cfs"]
    command.run(argv, purpose="write an image")
    assert composefs("create", *options, "--digest-store", ours, rootfs, tmp_path / "ours.cfs") == 0
    assert (tmp_path / "ours.cfs").read_bytes() == (tmp_path / "theirs.cfs").read_bytes()
    contents = [
        {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}
        for store in (theirs, ours)
    ]
    assert contents[0] == contents[1]


def refused(done: subprocess.CompletedProcess[bytes], code: int, *texts: str) -> None:
    told = done.stderr.decode()
    assert done.returncode == code, told
    assert told.startswith("keelboot: cannot ")
    assert told.count("\n") == 2, f"it does not say what to do: {told}"
    assert "Traceback" not in told
    for text in texts:
        assert text in told


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("create --from-file missing out", 1, "missing: No such file"),
        ("create --from-file . out", 1, "cannot use .: Is a directory"),
        ("create --from-file in missing/out", 1, "missing/out: No such file"),
        ("create --from-file in .", 1, "cannot use .: Is a directory"),
        ("create --from-file in /dev/full", 1, "/dev/full: No space left"),
        ("create --from-file /dev/null out", 1, "there is no root"),
        ("create --from-file loop out", 1, "loop: Too many levels"),
        ("create missing out", 1, "missing: No such file"),
        ("create in out", 1, "in: Not a directory"),
        ("create --digest-store in . out", 1, "in: File exists"),
        ("dump missing", 1, "missing: No such file"),
        ("ls .", 1, "cannot use .: Is a directory"),
        ("ls in", 1, "cannot read in: its size of"),
        ("objects /dev/null", 1, "cannot read /dev/null"),
        ("digest in missing", 1, "missing: No such file"),
        ("create --print-digest-only in out", 2, "writes no image"),
        ("create --from-file --min-version 2 in out", 2, "2 to 2 are not versions"),
        ("create --from-file --max-version 7 in out", 2, "0 to 7 are not versions"),
        ("create --from-file --min-version -1 in out", 2, "-1 to 0 are not versions"),
        ("create --from-file --use-epoch in out", 2, "--use-epoch is about a directory"),
        ("create --from-file --digest-store x in out", 2, "--digest-store is about a directory"),
        ("create --from-file --print-digest in -", 2, "standard output cannot hold"),
        ("create --from-file --json in -", 2, "standard output cannot hold"),
    ],
)
def test_what_is_refused(
    words: str,
    code: int,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "in").write_bytes(ROOT)
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    got = composefs(*words.split())
    told = capsys.readouterr().err
    if "--json" in words:
        assert json.loads(told)["error"]["exit_code"] == code
        assert text in told
    else:
        refused(subprocess.CompletedProcess([], got, b"", told.encode()), code, text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "loop"]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "create",
        "create in",
        "create in --print-digest",
        "create --print-digest-only",
        "create --skip-xattrs --user-xattrs a b",
        "create --min-version x a b",
    ],
)
def test_bad_usage(words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        composefs(*words.split())
    assert ended.value.code == 2


def test_full_standard_output(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run("create", "--from-file", "-", "-", stdin=ROOT, stdout=full.fileno())
        refused(done, 1, "No space left")
        (tmp_path / "in").write_bytes(ROOT)
        refused(run("digest", tmp_path / "in", stdout=full.fileno()), 1, "No space left")


@pytest.mark.parametrize("action", ["create", "dump", "ls", "objects", "digest"])
def test_every_action_has_help_with_examples(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        composefs(action, "--help")
    assert ended.value.code == 0
    examples = capsys.readouterr().out.partition("examples:\n")[2].splitlines()
    assert examples
    for line in examples:
        for one in line.split(" | "):
            words = one.partition("keelboot composefs ")[2].partition(" >")[0].split()
            if words:
                main.verb_parser("composefs").parse_args(words)
        assert f"keelboot composefs {action} " in line


class Measured:
    """A ContentSink that keeps nothing."""

    def __init__(self, algorithm: Algorithm) -> None:
        self.algorithm = algorithm

    def add(self, _: int, chunks: object) -> ObjectId:
        return measure(chunks, self.algorithm).object  # type: ignore[arg-type]


@needs("fsverity")
@pytest.mark.parametrize(("algorithm", "options"), [("sha256", []), ("sha512", ["--sha512"])])
def test_inspect_prints_the_deployment_digest(
    algorithm: Algorithm,
    options: list[str],
    layout: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is what fsverity measures of the image, in which files have digests of the same kind."""
    reference = f"oci:{layout()}"
    with open_image(Reference.parse(reference)) as image:
        tree = read_tree(image, Measured(algorithm))
    (tmp_path / "image").write_bytes(erofs.image_bytes(seal(tree)))
    argv = ["fsverity", "digest", "--compact", f"--hash-alg={algorithm}", tmp_path / "image"]
    expected = command.run(argv, purpose="measure the image").stdout.decode()
    capsys.readouterr()
    assert main.main(["inspect", reference, "--composefs-digest", "--quiet", *options]) == 0
    assert capsys.readouterr().out == expected
