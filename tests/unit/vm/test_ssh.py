import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from keelboot.failure import Failure
from keelboot.vm.ssh import Key, came_from_guest, client, ephemeral_key, existing_key

needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH is not installed")
KEY = Key(Path("/k"), "ssh-ed25519 AAAA")


@needs_ssh
def test_a_key_for_one_run_is_on_no_disk_and_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ephemeral_key() as key:
        assert list(tmp_path.iterdir()) == []
        assert stat.S_IMODE(key.file.stat().st_mode) == 0o600
        derived = subprocess.run(
            ["ssh-keygen", "-y", "-f", key.file], capture_output=True, text=True, check=True
        ).stdout
        assert derived.split()[:2] == key.public.split()[:2]
        with ephemeral_key() as other:
            assert other.public != key.public
    assert not key.file.exists()


@needs_ssh
def test_an_existing_key_is_taken_with_its_public_half(tmp_path: Path) -> None:
    file = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file], check=True)
    assert existing_key(file).public.startswith("ssh-ed25519 ")
    (tmp_path / "id.pub").write_text("f /etc/passwd\n")
    with pytest.raises(Failure, match="not a public key"):
        existing_key(file)
    (tmp_path / "id.pub").unlink()
    with pytest.raises(Failure, match=r"id\.pub: No such file"):
        existing_key(file)
    with pytest.raises(Failure, match="nowhere: No such file"):
        existing_key(tmp_path / "nowhere")


def words(*given: str, terminal: bool = False) -> list[str]:
    return client(("127.0.0.1", 2222), KEY, given, log=Path("/log"), terminal=terminal)


def test_one_word_is_a_line_for_the_shell_and_several_are_exact() -> None:
    assert words("a | b")[-2:] == ["127.0.0.1", "a | b"]
    assert words("sh", "-c", "echo $HOME; exit 3")[-1] == "sh -c 'echo $HOME; exit 3'"
    assert words()[-1] == "127.0.0.1"


def test_a_word_that_looks_like_an_option_is_no_option_of_ssh() -> None:
    line = words("-oProxyCommand=x")
    assert line.index("--") < line.index("127.0.0.1") < line.index("-oProxyCommand=x")


def test_a_command_gets_a_terminal_where_there_is_one() -> None:
    assert "-t" in words("top", terminal=True)
    assert "-t" not in words("top")
    assert "-t" not in words(terminal=True)


@needs_ssh
def test_ssh_knows_every_option() -> None:
    line = words("true")
    done = subprocess.run([*line[:1], "-G", *line[1:]], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    settings = dict(setting.partition(" ")[::2] for setting in done.stdout.splitlines())
    assert settings["batchmode"] == "yes"
    assert settings["userknownhostsfile"] == "/dev/null"
    assert settings["stricthostkeychecking"] in ("no", "false")


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (b"debug1: Sending command: exit 255\ndebug1: Exit status 255\n", True),
        (b"debug1: client_input_channel_req: channel 0 rtype exit-signal reply 0\ndebug1: Exit status -1\n", True),
        (b"Connection to 127.0.0.1 closed by remote host.\ndebug1: Exit status -1\n", False),
        (b"root@127.0.0.1: Permission denied (publickey).\n", False),
        (b"", False),
    ],
)
def test_255_is_told_apart(log: bytes, *, expected: bool) -> None:
    assert came_from_guest(log) is expected
