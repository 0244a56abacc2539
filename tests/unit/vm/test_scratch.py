import signal
import subprocess
import sys
from pathlib import Path

from keelboot.vm.scratch import scratch_directory

OWNER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from keelboot.vm.scratch import scratch_directory
with scratch_directory(Path(sys.argv[2])) as directory:
    (directory / "disk.img").write_bytes(b"x")
    print(directory, flush=True)
    time.sleep(60)
"""


def test_it_goes_with_the_run_and_only_then(tmp_path: Path) -> None:
    with scratch_directory(tmp_path) as first:
        (first / "disk.img").write_bytes(b"x")
        with scratch_directory(tmp_path) as second:
            assert first.exists()
            assert second != first
        assert not second.exists()
        assert first.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    source = str(Path(sys.modules["keelboot"].__path__[0]).parent)
    owner = subprocess.Popen([sys.executable, "-c", OWNER, source, str(tmp_path)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    with owner, owner.stdout:
        left = Path(owner.stdout.readline().decode().strip())
        with scratch_directory(tmp_path):
            assert left.exists()
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
    assert left.exists()
    with scratch_directory(tmp_path):
        assert not left.exists()


def test_other_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "keelboot-run-file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "keelboot-run-link").symlink_to("other")
    with scratch_directory(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keelboot-run-file", "keelboot-run-link", "other"]
