"""Units and scripts that an image gets: a mistake in one is found out on a machine that is far away."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from keelboot.cli import internals

PACKAGE = Path(__file__).resolve().parents[3] / "src/keelboot"
ROOTFS = PACKAGE / "build/finish/rootfs"
UNITS = ROOTFS / "usr/lib/systemd/system"
DRACUT = PACKAGE / "initramfs/dracut/90keelboot"
MACHINE = (PACKAGE / "build/finish/scripts/machine.sh").read_text()


def test_every_step_of_a_boot_is_known_and_used() -> None:
    used = {
        step
        for unit in UNITS.rglob("*")
        if unit.is_file()
        for step in re.findall(r"cli\.internals (\w+)", unit.read_text())
    }
    assert used == set(internals.STEPS)


@pytest.mark.parametrize(
    "unit", ["keelboot-boot.service", "keelboot-health.service", "keelboot-bless.service", "keelboot-trial.timer"]
)
def test_what_a_trial_needs_is_enabled_in_every_image(unit: str) -> None:
    assert "[Install]" in (UNITS / unit).read_text()
    assert re.search(rf"^systemctl enable .*{re.escape(unit)}", MACHINE, re.MULTILINE)


@pytest.mark.parametrize("unit", ["keelboot-unhealthy.service", "keelboot-trial.service", "keelboot-trial.timer"])
def test_only_a_version_on_trial_is_restarted(unit: str) -> None:
    assert "ConditionPathExists=/run/keelboot/trial\n" in (UNITS / unit).read_text()


def test_units_are_understood_by_systemd(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    # In a directory of their own: what this computer runs must neither help nor disturb.
    units = tmp_path / "units"
    shutil.copytree(UNITS, units)
    for file in units.rglob("*.service"):
        text = re.sub(r"^(Exec\w+=[-@:+!]*)\S+", r"\1/bin/true", file.read_text(), flags=re.MULTILINE)
        file.write_text(text)
    names = sorted(str(path) for path in units.glob("keelboot-*"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--generators=no", "--recursive-errors=no", *names],
        capture_output=True,
        text=True,
        check=False,
        env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin", "SYSTEMD_LOG_LEVEL": "warning"},
    )
    complaints = [line for line in done.stderr.splitlines() if "keelboot" in line]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("script", ["mount-root.sh", "note-failure.sh", "watch-try.sh"])
def test_the_initramfs_has_posix_scripts(script: str) -> None:
    subprocess.run(["dash", "-n", DRACUT / script], check=True)
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", "--shell=dash", DRACUT / script], check=True)
