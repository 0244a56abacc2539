import shutil
import time
from pathlib import Path

import pytest

from keelboot.failure import MissingTool
from keelboot.vm import acceleration
from keelboot.vm.acceleration import Wish, candidates, trial_firmware, why_no_kvm, why_trial_failed
from keelboot.vm.machine import Acceleration

PROGRAM = Path(shutil.which("qemu-system-x86_64") or "missing")
needs_qemu = pytest.mark.skipif(not PROGRAM.is_file(), reason="qemu-system-x86_64 is not installed")


@needs_qemu
def test_the_trial_firmware_runs_where_it_can() -> None:
    """TCG does all that the trial asks of KVM, so a failure under KVM is KVM's."""
    assert why_trial_failed(PROGRAM, "tcg") == ""


@needs_qemu
def test_an_accelerator_that_is_not_there_is_no_success() -> None:
    assert "accel" in why_trial_failed(PROGRAM, "hvf-of-nowhere")


def test_a_kvm_that_hangs_is_given_up(tmp_path: Path) -> None:
    hanging = tmp_path / "qemu"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    before = time.monotonic()
    assert "did not end within 2 s" in why_trial_failed(hanging, "kvm")
    assert time.monotonic() - before < 30


def test_a_kvm_that_emulates_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "_WITHIN", 60.0)
    emulating = tmp_path / "qemu"
    emulating.write_text(
        "#!/bin/sh\necho 'KVM internal error. Suberror: 1' >&2\necho emulation failure >&2\nexec sleep 60\n"
    )
    emulating.chmod(0o755)
    before = time.monotonic()
    assert "emulation failure" in why_trial_failed(emulating, "kvm")
    assert time.monotonic() - before < 30


def test_without_the_device_there_is_no_kvm(tmp_path: Path) -> None:
    assert why_no_kvm(PROGRAM, device=tmp_path / "kvm") == f"there is no {tmp_path}/kvm"


@needs_qemu
def test_candidates_match_the_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "why_no_kvm", lambda _: "no luck")
    assert candidates(Wish.AUTO, PROGRAM) == ((Acceleration.TCG,), "no luck")
    assert candidates(Wish.TCG, PROGRAM) == ((Acceleration.TCG,), "")
    with pytest.raises(MissingTool, match="with KVM"):
        candidates(Wish.KVM, PROGRAM)
    monkeypatch.setattr(acceleration, "why_no_kvm", lambda _: "")
    assert candidates(Wish.AUTO, PROGRAM) == ((Acceleration.KVM, Acceleration.TCG), "")
    assert candidates(Wish.KVM, PROGRAM) == ((Acceleration.KVM,), "")


def test_the_trial_firmware_is_as_drawn() -> None:
    image = trial_firmware()
    assert len(image) == 0x10000
    assert image[0xFF88:0xFF8E] == bytes.fromhex("1f0068ffffff")  # the GDT's pointer: limit 31, at 0xffffff68
    assert image[0x1000:0x1008] == bytes.fromhex("2320ffff00000000")  # present, writable, accessed; at 0xffff2000
    assert image[0xFFF0:0xFFF3] == bytes.fromhex("e90dff")  # 16-bit jump from 0xfff3 to 0xff00
