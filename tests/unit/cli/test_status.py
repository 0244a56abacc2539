"""The verb `status`, here where no deployment runs, and with documents put in place of the machine's."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bootc_schema import faults
from keelboot.cli import main, status, update_window
from keelboot.host import automatic, mounts, published
from keelboot.host.status import Facts, document
from keelboot.image.tree import ObjectId

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(main.__file__).parents[2])}
DIGEST = "ab" * 32


def run(*words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "keelboot.cli.main", "status", *words],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        **how,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--json"],
        ["--format", "json"],
        ["--format=json", "--format-version=0"],
        ["--json", "--format-version", "1", "--booted"],
        ["--json", "-v"],
    ],
)
def test_a_machine_that_is_none_is_no_error(words: Sequence[str]) -> None:
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert faults(told) == []
    assert (told["apiVersion"], told["status"]["booted"]) == ("org.containers.bootc/v1", None)


def test_yaml_is_what_a_pipe_gets() -> None:
    assert run().stdout == run("--format", "yaml").stdout
    assert run().stdout.startswith("apiVersion: org.containers.bootc/v1\nkind: BootcHost\nmetadata:\n  name: host\n")


def test_people_get_a_screen() -> None:
    leader, follower = pty.openpty()
    words = [sys.executable, "-m", "keelboot.cli.main", "status"]
    done = subprocess.run(words, stdout=follower, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
    os.close(follower)
    shown = os.read(leader, 65536).decode()
    os.close(leader)
    assert (done.returncode, done.stderr) == (0, b"")
    assert shown.startswith("This machine does not run a keelboot deployment")
    assert run("--format", "humanreadable").stdout == shown.replace("\r\n", "\n")


@pytest.mark.parametrize("words", [["--format", "xml"], ["--format-version", "2"], ["what"]])
def test_what_is_not_understood(words: Sequence[str]) -> None:
    assert run(*words).returncode == 2


def test_ten_at_once_each_give_a_document() -> None:
    words = [sys.executable, "-m", "keelboot.cli.main", "status", "--json"]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, env=ENVIRONMENT) for _ in range(10)]
    for one in started:
        out, _ = one.communicate()
        assert faults(json.loads(out)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_may_ask(tmp_path: Path) -> None:
    """The interpreter may lie where that user cannot go, so the verb is called after the change."""
    probe = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "test", "-r", main.__file__]
    if subprocess.run(probe, check=False).returncode:
        pytest.skip("others may not read the checkout")
    script = (
        "import os, sys\nfrom keelboot.cli import main, status, terminal\nfrom keelboot.host import mounts, published\n"
        "import keelboot.host.status, encodings.utf_8, argparse, json\nmain.verb_parser('status')\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\nsys.exit(main.main(['status', '--json']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=ENVIRONMENT, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert faults(json.loads(done.stdout)) == []


def running(source: str) -> list[mounts.Mount]:
    return mounts.parse(f"29 1 0:25 / / ro - overlay {source} ro\n50 29 0:40 / /usr rw - overlay overlay rw\n")


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    read = published.read
    monkeypatch.setattr(published, "read", lambda: read(tmp_path))
    return tmp_path


def test_what_was_published_is_told_with_what_has_changed_since(run_directory: Path) -> None:
    whole = document(Facts(booted=ObjectId(DIGEST), drift=12))
    published.write(whole, run_directory)
    told = status._published(running(f"composefs:{DIGEST}"))
    assert faults(told) == []
    assert told["status"].pop("usrOverlay") == {"accessMode": "readWrite", "persistence": "transient"}
    assert whole["status"].pop("usrOverlay") is None
    assert told == whole


@pytest.mark.parametrize("of", [None, "cd" * 32])
def test_nothing_was_published_of_this_boot(of: str | None, run_directory: Path) -> None:
    if of:
        published.write(document(Facts(booted=ObjectId(of))), run_directory)
    told = status._published(running(f"composefs:{DIGEST}"))
    assert faults(told) == []
    assert told["status"]["booted"]["composefs"]["verity"] == DIGEST
    assert "only root can tell more" in told["status"]["keelboot"]["warnings"][0]


def test_warnings_go_to_programs_beside_the_document(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warned = document(Facts(booted=ObjectId(DIGEST), warnings=["the boot entry bogus.conf is damaged"]))
    monkeypatch.setattr(status, "_document", lambda: warned)
    assert run_directory
    assert main.main(["status", "--json"]) == 0
    captured = capsys.readouterr()
    assert faults(json.loads(captured.out)) == []
    assert captured.err == "keelboot: warning: the boot entry bogus.conf is damaged\n"
    assert main.main(["status", "--format", "humanreadable"]) == 0
    captured = capsys.readouterr()
    assert "bogus.conf is damaged" in captured.out
    assert captured.err == ""


def test_status_loads_little() -> None:
    """It has 300 ms; most of what it takes goes into what it loads."""
    script = f"""
import sys
from pathlib import Path
from keelboot.cli import main
from keelboot.host import facts, mounts
seen = mounts.parse("29 1 0:2 / / ro - overlay composefs:{DIGEST} ro")
facts.gather(facts.Sysroot(Path("/nonexistent"), Path("/nonexistent")), seen)
main.main(["status", "--json"])
print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    loaded = set(done.stderr.split())
    assert "keelboot.host.facts" in loaded
    parts = {name.split(".")[1] for name in loaded if name.startswith("keelboot.")}
    assert parts.isdisjoint({"build", "composefs", "disk", "registry", "store", "transfer", "trust", "vm"}), parts
    tops = {name.partition(".")[0] for name in loaded}
    assert tops.isdisjoint({"asyncio", "cryptography", "http", "jinja2", "multiprocessing", "rich", "ssl", "urllib3"})


@pytest.mark.parametrize(
    ("staged", "settings", "now", "why"),
    [
        (None, "", "2026-01-10T03:00", "nothing is staged"),
        ({"downloadOnly": True}, 'mode = "apply"', "2026-01-10T03:00", "nothing is staged"),
        ({"downloadOnly": False}, "", "2026-01-10T03:00", "mode is stage"),
        ({"downloadOnly": False}, 'mode = "apply"', "2026-01-10T03:00", ""),
        ({"downloadOnly": False}, 'mode = "apply"\nwindows = ["Sat 02:00-05:00"]', "2026-01-10T03:00", ""),
        (
            {"downloadOnly": False},
            'mode = "apply"\nwindows = ["Sat 02:00-05:00"]',
            "2026-01-10T05:00",
            "the next window opens at Sat 2026-01-17 02:00",
        ),
        ({"downloadOnly": False}, 'mode = "aply"', "2026-01-10T03:00", "mode is 'aply'"),
    ],
)
def test_may_it_restart_by_itself(
    staged: dict[str, bool] | None,
    settings: str,
    now: str,
    why: str,
    run_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = document(Facts(booted=ObjectId(DIGEST)))
    whole["status"]["staged"] = staged
    published.write(whole, run_directory)
    file = run_directory / "etc/keelboot/update.toml"
    file.parent.mkdir(parents=True)
    file.write_text(settings)
    read = automatic.settings
    monkeypatch.setattr(automatic, "settings", lambda: read(run_directory))
    refusal = update_window.refusal(datetime.fromisoformat(now))
    assert why in refusal
    assert bool(refusal) is bool(why)
