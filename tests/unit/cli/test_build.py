import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from keelboot.cli import build

Keelboot = Callable[..., subprocess.CompletedProcess[str]]
SIMULATED = Path(__file__).resolve().parents[2] / "simulated"


@pytest.mark.parametrize(
    ("words", "own", "passed_on"),
    [
        ("-t web .", "--tag=web -- .", "."),
        ("-f Containerfile.edge src", "-- src", "-f Containerfile.edge src"),
        ("--build-arg K=V -t a -t b src", "--tag=a --tag=b -- src", "--build-arg K=V src"),
        ("--kernel cloud --no-finish --target x .", "--kernel=cloud --no-finish -- .", "--target x ."),
        ("--from debian:12 .", "-- .", "--from debian:12 ."),
        ("--from localhost/a -t b", "--from=localhost/a --tag=b", ""),
        ("--from=localhost/a -q", "--from=localhost/a --quiet", ""),
        ("-q .", "--quiet -- .", "-q ."),
        ("-qt web .", "--quiet --tag=web -- .", "-q ."),
        ("--engine=buildah --iidfile x .", "--engine=buildah --iidfile=x -- .", "."),
        ("--secret id=a,src=b --ssh default -v /a:/b --platform linux/arm64 .", "-- .",
         "--secret id=a,src=b --ssh default -v /a:/b --platform linux/arm64 ."),
        ("--help", "--help", ""),
        ("-- -odd", "-- -odd", "-- -odd"),
    ],
)  # fmt: skip
def test_splits_podmans_words_from_ours(words: str, own: str, passed_on: str) -> None:
    assert tuple(map(" ".join, build.split(words.split()))) == (own, passed_on)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    (home / ".local/share/containers/storage").mkdir(parents=True)
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Containerfile").write_text("FROM scratch\n")
    return {"HOME": str(home), "PATH": f"{SIMULATED}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(home / "cache")}


def test_builds_and_names_without_finish(keelboot: Keelboot, environment: dict[str, str], tmp_path: Path) -> None:
    words = [
        "--no-finish",
        "-t",
        "localhost/a:1",
        "--build-arg",
        "K=V",
        "--iidfile",
        tmp_path / "id",
        tmp_path / "context",
    ]
    done = keelboot("build", "--json", *words, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["names"] == ["localhost/a:1"]
    assert told["finished"] is False
    assert (tmp_path / "id").read_text() == f"sha256:{told['image']}"
    calls = [json.loads(line) for line in (tmp_path / "home/calls").read_text().splitlines()]
    (call,) = [words for words in calls if words[0] == "build"]
    assert call[-3:] == ["--build-arg", "K=V", str(tmp_path / "context")]
    assert "--tag=localhost/a:1" in call


def test_the_engine_s_output_streams_to_standard_error(
    keelboot: Keelboot, environment: dict[str, str], tmp_path: Path
) -> None:
    done = keelboot("build", "--no-finish", tmp_path / "context", env=environment)
    assert "STEP 1/2: FROM scratch" in done.stderr
    assert len(done.stdout.strip()) == 64
    quiet = keelboot("build", "--quiet", "--no-finish", tmp_path / "context", env=environment)
    assert quiet.stderr == ""
    assert quiet.stdout == done.stdout


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["-t", "x"], 2, "no CONTEXT is named"),
        (["--no-finish", "nosuch"], 11, "context must be a directory"),
        (["--from", "localhost/nosuch", "-t", "x"], 4, "no such image"),
        (["--from", "localhost/nosuch", "--no-cache"], 2, "--no-cache"),
        (["--from", "localhost/nosuch", "--no-finish"], 2, "only finishes"),
        (["-o", "type=tar,dest=x", "."], 2, "--output"),
        (["--platform=linux/amd64,linux/arm64", "."], 2, "--platform"),
        (["--engine", "no-such-engine", "."], 2, "invalid choice"),
        (["-t"], 2, "-t needs a value"),
    ],
)
def test_what_cannot_be_built(
    keelboot: Keelboot, environment: dict[str, str], words: list[str], code: int, text: str
) -> None:
    done = keelboot("build", *words, env=environment)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_no_engine_at_all(keelboot: Keelboot, environment: dict[str, str], tmp_path: Path) -> None:
    if any(
        Path(place, name).exists()
        for place in ("/usr/sbin", "/usr/local/sbin", "/sbin")
        for name in ("podman", "buildah")
    ):
        pytest.skip("this machine has an engine in sbin, which is always looked at")
    done = keelboot("build", tmp_path / "context", env={**environment, "PATH": str(tmp_path)})
    assert done.returncode == 3
    assert "`keelboot doctor` tells what installs it" in done.stderr
