import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from keelboot.build import engine
from keelboot.failure import BuildFailed, ImageNotFound, MissingTool, OutOfSpace

Context = Callable[..., Path]


class Heard:
    def __init__(self) -> None:
        self.output, self.notes = b"", ""

    def told(self) -> engine.Told:
        return engine.Told(self.echo, self.note)

    def echo(self, data: bytes) -> None:
        self.output += data

    def note(self, text: str) -> None:
        self.notes += text + "\n"


def calls(home: Path, verb: str) -> list[list[str]]:
    words = [json.loads(line) for line in (home / "calls").read_text().splitlines()]
    return [one for one in words if one[0] == verb]


def test_builds_and_names(home: Path, containerfile: Context) -> None:
    podman = engine.find()
    assert (podman.program, podman.version) == ("podman", "4.3.1")
    context = containerfile("FROM scratch")
    image = podman.build(["--build-arg", "K=V", "--iidfile", "theirs", str(context)], tags=["localhost/a:1", "b:2"])
    assert podman.image_id("localhost/a:1") == podman.image_id("b:2") == image
    assert podman.image_exists(image)
    assert not podman.image_exists("localhost/a:3")
    (words,) = calls(home, "build")
    assert words[-3:] == ["--build-arg", "K=V", str(context)]
    assert "theirs" not in words


def test_falls_back_to_chroot_isolation_and_remembers(home: Path, containerfile: Context) -> None:
    memory, heard = home / "cache/isolation.json", Heard()
    context = str(containerfile("FROM scratch", "RUN make"))
    engine.find(memory=memory, told=heard.told()).build([context])
    assert "cgroups in hybrid mode not supported" in heard.notes
    assert "--isolation=chroot" in heard.notes
    assert [["--isolation=chroot" in words, "--network=host" in words] for words in calls(home, "build")] == [
        [False, False],
        [True, True],
    ]
    again = Heard()
    engine.find(memory=memory, told=again.told()).build([context])
    assert len(calls(home, "build")) == 3
    assert "did not work here before" in again.notes


@pytest.mark.parametrize("known", [b"", b"{", b"[]", b'{"podman": 1}', b"\xff"])
def test_a_damaged_memory_is_as_good_as_none(home: Path, containerfile: Context, known: bytes) -> None:
    memory = home / "isolation.json"
    memory.write_bytes(known)
    engine.find(memory=memory).build([str(containerfile("FROM scratch", "RUN make"))])
    assert len(calls(home, "build")) == 2
    assert list(json.loads(memory.read_bytes()).values())[-1] == ["--isolation=chroot", "--network=host"]


def test_a_chosen_isolation_is_not_overruled(home: Path, containerfile: Context) -> None:
    context = str(containerfile("FROM scratch", "RUN make"))
    with pytest.raises(BuildFailed):
        engine.find().build(["--isolation=oci", context])
    assert len(calls(home, "build")) == 1


def test_a_chosen_network_is_kept(home: Path, containerfile: Context) -> None:
    engine.find().build(["--network", "none", str(containerfile("FROM scratch", "RUN make"))])
    assert "--network=host" not in calls(home, "build")[-1]


def test_a_failed_command_is_not_an_isolation_problem(home: Path, containerfile: Context) -> None:
    heard = Heard()
    context = str(containerfile("FROM scratch", "RUN false"))
    memory = home / "isolation.json"
    with pytest.raises(BuildFailed) as caught:
        engine.find(memory=memory, told=heard.told()).build([context])
    assert caught.value.exit_code == 11
    assert caught.value.why == 'building at STEP "RUN false": exit status 1'
    assert b"STEP 2/2: RUN false" in heard.output
    assert not memory.exists()  # it was never seen to work


def test_a_full_disk_is_told_as_such(home: Path, containerfile: Context) -> None:  # noqa: ARG001 - it sets the path
    with pytest.raises(OutOfSpace, match="cannot build"):
        engine.find().build(["--isolation=chroot", str(containerfile("FROM scratch", "RUN full"))])


@pytest.mark.parametrize(
    ("base", "fix"),
    [
        ("debian:trixie", "`keelboot base debian:trixie` makes it"),
        ("localhost/ubuntu:noble", "`keelboot base ubuntu:noble` makes it"),
        ("fedora:40", "`podman pull fedora:40`"),
    ],
)
def test_a_missing_base_image_is_told_with_what_makes_it(
    home: Path,  # noqa: ARG001 - it sets the path
    containerfile: Context,
    base: str,
    fix: str,
) -> None:
    with pytest.raises(BuildFailed) as caught:
        engine.find().build([str(containerfile(f"FROM {base}"))])
    assert f"{base} is not in podman's store" in caught.value.why
    assert fix in caught.value.fix


def test_a_stage_has_its_own_containerfile_and_time(home: Path, tmp_path: Path) -> None:
    (tmp_path / "Stage").write_text("FROM scratch\n")
    engine.find().build_stage(tmp_path / "Stage", tmp_path, ["x"], timestamp=7)
    assert {"--timestamp=7", f"--file={tmp_path}/Stage"} <= set(calls(home, "build")[0])


def test_history_of_what_is_not_there(home: Path) -> None:  # noqa: ARG001 - it sets the path
    with pytest.raises(ImageNotFound):
        engine.find().history("nosuch")


def test_no_engine(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: ARG001 - the same
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match="cannot build images"):
        engine.find("an-engine-that-is-not-there")


def test_store_commands_run_in_the_users_namespace(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    podman = engine.Engine("podman", "5", ("--storage-driver", "overlay"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert podman.in_store(["ls"]) == ["ls"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert podman.in_store(["ls"]) == ["podman", "--storage-driver", "overlay", "unshare", "ls"]


@pytest.mark.machine
@pytest.mark.parametrize("program", engine.PROGRAMS)
def test_the_real_engines(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store of their own: build, names, history, the same stage twice, and a base that nobody has."""
    store = tmp_path / "storage.conf"
    store.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/store"\nrunroot = "{tmp_path}/run"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(store))
    chosen = engine.find(program)
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Stage").write_text("FROM scratch\nCOPY Stage /\n")
    stage = (tmp_path / "context/Stage", tmp_path / "context")
    first = chosen.build_stage(*stage, ["localhost/x:1"], timestamp=1)
    assert chosen.image_id("localhost/x:1") == first
    assert chosen.build_stage(*stage, timestamp=1, more=["--no-cache"]) == first
    assert chosen.history(first)[0]["created"] == "1970-01-01T00:00:01Z"
    chosen.tag(first, "localhost/y:1")
    assert chosen.image_id("y:1") == first
    (tmp_path / "context/Stage").write_text("FROM nosuch.invalid/nothing:1\n")
    with pytest.raises(BuildFailed, match="cannot build the image") as caught:
        chosen.build_stage(*stage, timestamp=1, more=["--retry=0"] if program == "podman" else [])
    assert "nosuch.invalid/nothing:1 is not in" in caught.value.why
