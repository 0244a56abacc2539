import os
import subprocess
import sys
from pathlib import Path

import pytest

USR = """
import os, sys
from pathlib import Path
from keelboot.host import usr
root = Path(sys.argv[1])
usr.overlay(read_only=False, layers=root / "layers", usr=root / "usr")
(root / "usr/new").write_text("x")
(root / "usr/old").write_text("changed")
usr.overlay(read_only=True, layers=root / "layers", usr=root / "other")
try:
    (root / "other/new").write_text("x")
except OSError as error:
    print(error.strerror)
print(sorted(os.listdir(root / "layers")), (root / "usr/old").read_text())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_an_overlay_over_usr(tmp_path: Path) -> None:
    for name in ("usr", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "usr/old").write_text("as it was")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", USR, tmp_path],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3] / "src")},
    )
    assert done.stderr == ""
    assert done.stdout == "Read-only file system\n[] changed\n"
    assert (tmp_path / "usr/old").read_text() == "as it was"
    assert not (tmp_path / "usr/new").exists()
