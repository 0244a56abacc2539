"""The disk file of a real image: what checkers of others say, who can make it, and that it is the same every time."""

import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boot.conftest import Built, succeeded
from boot.partitions import partitions

pytestmark = pytest.mark.machine

Keelboot = Callable[..., subprocess.CompletedProcess[str]]

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user reaches; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="keelboot-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def test_checkers_find_nothing(disk: Path, built: Built, workspace: Path) -> None:
    parts = partitions(disk)
    table = subprocess.run(["sgdisk", "-v", disk], check=True, capture_output=True, text=True).stdout
    assert "No problems found" in table
    esp = parts["esp"].extract(workspace / "esp")
    subprocess.run(["fsck.fat", "-n", esp], check=True)
    for name in ("keelboot-store", "keelboot-var"):
        extracted = parts[name].extract(workspace / name)
        subprocess.run(["e2fsck", "-fn", extracted], check=True)
        extracted.unlink()
    image = workspace / "image.erofs"
    digest = built.digest
    parts["keelboot-store"].debugfs(f"dump /composefs/objects/{digest[:2]}/{digest[2:]} {image}")
    subprocess.run(["fsck.erofs", image], check=True)
    measured = subprocess.run(["fsverity", "digest", "--compact", image], check=True, capture_output=True, text=True)
    assert measured.stdout.strip() == digest


def test_the_esp_has_an_entry_for_the_deployment(disk: Path, built: Built) -> None:
    start = partitions(disk)["esp"].start
    entry = f"::/loader/entries/keelboot-000001-{built.digest}.conf"
    text = subprocess.run(["mtype", "-i", f"{disk}@@{start}", entry], check=True, capture_output=True, text=True).stdout
    fields = dict(line.split(" ", 1) for line in text.splitlines())
    assert f"composefs={built.digest}" in fields["options"].split()
    assert "root=" not in fields["options"]
    for field in ("linux", "initrd"):
        subprocess.run(["mdir", "-i", f"{disk}@@{start}", f"::{fields[field]}"], check=True, capture_output=True)


# A /dev with nothing but what every program may expect, and a process with no capability and no way to get one. A
# container's root may hand its capabilities on even to another user, so each set is emptied by name.
CONFINED = """
mount -t tmpfs dev /dev
cd /dev
mknod -m 666 null c 1 3
mknod -m 666 zero c 1 5
mknod -m 444 urandom c 1 9
ln -s /proc/self/fd fd
cd /
exec setpriv --reuid=nobody --regid=nogroup --clear-groups --ambient-caps=-all --inh-caps=-all --bounding-set=-all "$@"
"""


def test_an_ordinary_user_without_devices_makes_the_same_disk(
    keelboot: Keelboot, archive: Path, built: Built, public: Path
) -> None:
    if os.geteuid():
        pytest.skip("only root can take everything away from somebody")
    nobody = pwd.getpwnam("nobody")
    image = shutil.copy(archive, public)
    source = shutil.copytree(SOURCE, public / "src", ignore=shutil.ignore_patterns("__pycache__"))
    theirs = public / "theirs"
    theirs.mkdir()
    os.chown(theirs, nobody.pw_uid, nobody.pw_gid)
    confined = ["unshare", "--mount", "sh", "-euc", CONFINED, "sh"]
    environment = {"HOME": "/nonexistent", "TMPDIR": str(theirs), "PYTHONPATH": str(source)}
    # The environment of the tests may lie where nobody may look; the system's Python does as well.
    for python in (sys.executable, "/usr/bin/python3"):
        probe = [*confined, python, "-c", "import keelboot.assembly.disk"]
        if not subprocess.run(probe, check=False, env=os.environ | environment, capture_output=True).returncode:
            break
    else:
        pytest.skip("no Python here can be run by an ordinary user")
    powers = subprocess.run([*confined, "cat", "/proc/self/status"], check=True, capture_output=True, text=True).stdout
    assert {line.split()[1] for line in powers.splitlines() if line.startswith("Cap")} == {"0" * 16}

    words = ("disk", "--json", f"oci-archive:{image}", "-o", theirs / "web.img")
    told = succeeded(keelboot(*words, wrapped_by=confined, env=environment, python=python))
    assert built.digest in told
    ours = public / "ours.img"
    succeeded(keelboot("disk", f"oci-archive:{image}", "-o", ours))
    assert sha256(ours) == sha256(theirs / "web.img")
    assert sorted(path.name for path in theirs.iterdir()) == ["web.img"]


def test_qcow2_holds_the_same(keelboot: Keelboot, archive: Path, workspace: Path) -> None:
    raw, packed = workspace / "same.img", workspace / "same.qcow2"
    for output in (raw, packed):
        succeeded(keelboot("disk", f"oci-archive:{archive}", "-o", output))
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, packed], check=True)
    subprocess.run(["qemu-img", "check", packed], check=True)
    raw.unlink()
    packed.unlink()
