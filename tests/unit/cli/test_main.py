import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from keelboot import __version__, failure
from keelboot.cli import main

Keelboot = Callable[..., subprocess.CompletedProcess[str]]
SIMULATED = Path(__file__).resolve().parents[2] / "simulated"


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], int]], None]:
    """Let the verb `doctor` do something else."""

    def put(act: Callable[[], int]) -> None:
        module = ModuleType("keelboot.cli.doctor")
        module.SUMMARY, module.EXAMPLES = "a verb", "keelboot doctor"  # type: ignore[attr-defined]
        module.arguments = lambda _: None  # type: ignore[attr-defined]
        module.execute = lambda _, __: act()  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "keelboot.cli.doctor", module)

    return put


@pytest.fixture(autouse=True)
def signals() -> object:
    """Leave no handler behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def failing(error: BaseException) -> Callable[[], int]:
    def act() -> int:
        raise error

    return act


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(words) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in main.VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"keelboot {__version__}\n"


def test_nothing_said_is_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    assert "first steps" in capsys.readouterr().out


@pytest.mark.parametrize(("typed", "hint"), [("biuld", "keelboot build"), ("xyz", "keelboot --help")])
def test_an_unknown_verb_gets_a_hint(typed: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([typed]) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("name", main.VERBS)
def test_every_verb_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = main._module(name)
    assert main.VERBS[name] == module.SUMMARY
    with pytest.raises(SystemExit) as ended:
        main.main([name, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    examples = told.partition("examples:\n")[2].splitlines()
    assert examples
    assert all(line.startswith(("  keelboot ", "  source <(keelboot ")) and name in line for line in examples if line)


@pytest.mark.parametrize("name", main.VERBS)
def test_examples_can_be_parsed(name: str) -> None:
    """What --help shows is accepted as typed."""
    module = main._module(name)
    for line in module.EXAMPLES.strip().splitlines():
        words = line.partition("keelboot ")[2].partition(" |")[0].partition(" >")[0].rstrip(")").split()
        assert words[0] == name
        split = getattr(module, "split", lambda words: (words, []))
        main.verb_parser(name).parse_args(split(words[1:])[0])


def test_options_are_not_abbreviated() -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["base", "debian:trixie", "--refr"])
    assert ended.value.code == 2


def test_the_whole_parser_has_every_verb() -> None:
    told = main.parser().format_help()
    assert all(name in told and summary.split()[0] in told for name, summary in main.VERBS.items())


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_start_loads_next_to_nothing(word: str) -> None:
    """What these take is measured in benchmarks/startup.py; nearly all of it is what they load."""
    script = f"""
import sys
from keelboot.cli import main
try:
    main.main([{word!r}])
except SystemExit:
    pass
print(*sys.modules, file=sys.stderr)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(main.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    loaded = set(done.stderr.split())
    own = {name for name in loaded if name.partition(".")[0] == "keelboot"}
    assert own == {"keelboot", "keelboot.cli", "keelboot.cli.main", "keelboot.failure"}
    assert loaded.isdisjoint({"ctypes", "dataclasses", "hashlib", "json", "shutil", "ssl", "subprocess", "threading"})


def test_a_failure_is_told_with_its_exit_code(verb: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    verb(failing(failure.PortInUse("cannot forward 80", why="it is taken", fix="Choose another.")))
    assert main.main(["doctor"]) == 10
    assert capsys.readouterr().err == "keelboot: cannot forward 80: it is taken\nChoose another.\n"


def test_a_failure_is_json_where_that_was_asked_for(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(failing(failure.PortInUse("cannot forward 80", why="it is taken", fix="Choose another.")))
    assert main.main(["doctor", "--json"]) == 10
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err) == {
        "error": {
            "class": "PortInUse",
            "exit_code": 10,
            "what": "cannot forward 80",
            "why": "it is taken",
            "fix": "Choose another.",
        }
    }


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((errno.ENOSPC, 8), (errno.EDQUOT, 8), (errno.EACCES, 9), (errno.EPERM, 9), (errno.EROFS, 9)),
        *((errno.ENOENT, 1), (errno.ENOTDIR, 1), (errno.EISDIR, 1), (errno.ENAMETOOLONG, 1), (errno.ELOOP, 1)),
        *((errno.EIO, 1), (errno.EBADF, 70), (errno.EINVAL, 70)),
    ],
)
def test_the_last_net_for_the_system_s_refusals(
    number: int, code: int, verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(failing(OSError(number, os.strerror(number), "some/file")))
    assert main.main(["doctor"]) == code
    told = capsys.readouterr().err
    assert "some/file" in told
    assert ("Traceback" in told) == (code == 70)


def test_a_bug_keeps_its_traceback(verb: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    verb(failing(ZeroDivisionError("a bug")))
    assert main.main(["doctor"]) == 70
    told = capsys.readouterr().err
    assert "ZeroDivisionError: a bug" in told
    assert "report it" in told


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_undoes_what_is_under_way(
    number: int, code: int, verb: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def act() -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
            return 0
        finally:
            (tmp_path / "undone").touch()

    verb(act)
    assert main.main(["doctor"]) == code
    assert (tmp_path / "undone").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_bug() -> None:
    """As in `keelboot completion bash | head -1`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(main.__file__).parents[2])}
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-m", "keelboot.cli.main", "completion", "bash"]
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/usr/lib/apt/apt-helper").exists(), reason="needs apt")
def test_sigterm_leaves_nothing_behind(tmp_path: Path) -> None:
    """A base image under way: its helper ends too, and its temporary files are gone."""
    (tmp_path / "archive/dists/trixie").mkdir(parents=True)
    (tmp_path / "archive/dists/trixie/InRelease").write_text("Date: Sat, 09 Aug 2025 09:15:44 UTC\n")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "home/.local/share/containers/storage").mkdir(parents=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(main.__file__).parents[2]),
        "PATH": f"{SIMULATED}:/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "scratch"),
    }
    if not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        pytest.skip("needs debian-archive-keyring")
    words = ["base", "debian:trixie", "--include", "slow", "--mirror", f"file://{tmp_path}/archive"]
    process = subprocess.Popen(
        [sys.executable, "-m", "keelboot.cli.main", *words], stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stderr
    told = ""
    while "downloading" not in told:
        line = process.stderr.readline()
        assert line, told
        told += line
    process.terminate()
    assert process.wait(timeout=30) == 143
    assert "ended by SIGTERM" in process.stderr.read()
    process.stderr.close()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_runtime_directory_of_someone_else_is_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    main.main(["--version"])
    assert os.environ["XDG_RUNTIME_DIR"] == str(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    main.main(["--version"])
    assert "XDG_RUNTIME_DIR" not in os.environ
    assert capsys.readouterr().out
