import json
from pathlib import Path

import pytest

from keelboot.failure import MissingTool
from keelboot.vm import firmware
from keelboot.vm.firmware import find_firmware, qemu_version, require_sound_tcg
from keelboot.vm.machine import Firmware


def descriptor(code: Path, variables: Path, *features: str, machine: str = "pc-q35-*") -> str:
    for file in (code, variables):
        file.write_bytes(b"x")
    return json.dumps(
        {
            "interface-types": ["uefi"],
            "mapping": {
                "device": "flash",
                "executable": {"filename": str(code), "format": "raw"},
                "nvram-template": {"filename": str(variables), "format": "raw"},
            },
            "targets": [{"architecture": "x86_64", "machines": [machine]}],
            "features": list(features),
        }
    )


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(firmware, "KNOWN_PLACES", ())
    etc, share = tmp_path / "etc", tmp_path / "share"
    etc.mkdir()
    share.mkdir()
    one, two = tmp_path / "plain", tmp_path / "secure"
    (share / "40-enrolled.json").write_text(descriptor(two, tmp_path / "keys", "secure-boot", "enrolled-keys"))
    (share / "50-secure.json").write_text(descriptor(two, tmp_path / "vars", "secure-boot", "requires-smm"))
    (share / "60-plain.json").write_text(descriptor(one, tmp_path / "vars", "acpi-s3"))
    (share / "10-other.json").write_text(descriptor(tmp_path / "x", tmp_path / "y", machine="microvm"))
    return etc, share


def test_descriptors_tell_which_is_which(places: tuple[Path, Path], tmp_path: Path) -> None:
    assert find_firmware(descriptors=places) == Firmware(tmp_path / "plain", tmp_path / "vars")
    assert find_firmware(secure_boot=True, descriptors=places) == Firmware(tmp_path / "secure", tmp_path / "vars", True)


def test_an_administrators_descriptor_comes_before_and_an_empty_one_masks(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    (places[0] / "60-plain.json").write_text(descriptor(tmp_path / "own", tmp_path / "own-vars"))
    assert find_firmware(descriptors=places).code == tmp_path / "own"
    (places[0] / "60-plain.json").write_text("")
    with pytest.raises(MissingTool, match="no UEFI firmware"):
        find_firmware(descriptors=places)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"features": 1}', '{"features": [], "mapping": {"device": "flash"}}']
)
def test_a_broken_descriptor_is_passed_over(places: tuple[Path, Path], tmp_path: Path, text: str) -> None:
    (places[0] / "00.json").write_text(text)
    assert find_firmware(descriptors=places).code == tmp_path / "plain"


def test_a_descriptor_of_what_was_removed_is_passed_over(places: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "plain").unlink()
    with pytest.raises(MissingTool) as caught:
        find_firmware(descriptors=places)
    assert "ovmf" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", (10, 0)),
        ("QEMU emulator version 7.2.17", (7, 2)),
        ("", (0, 0)),
    ],
)
def test_versions(text: str, version: tuple[int, int]) -> None:
    assert qemu_version(text) == version


@pytest.mark.parametrize(
    ("version", "sound"), [("7.2.17", False), ("9.2.0", False), ("10.0.0", True), ("11.1.2", True)]
)
def test_tcg_needs_a_recent_qemu(tmp_path: Path, version: str, *, sound: bool) -> None:
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\necho 'QEMU emulator version {version}'\n")
    program.chmod(0o755)
    if sound:
        require_sound_tcg(program)
        return
    with pytest.raises(MissingTool, match=version.rpartition(".")[0]):
        require_sound_tcg(program)
