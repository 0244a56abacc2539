from dataclasses import replace
from pathlib import Path

import pytest

from keelboot.vm.credentials import Credential
from keelboot.vm.forward import Forward
from keelboot.vm.machine import Acceleration, Drive, Firmware, Machine, Medium, Wiring, argv, disk_format

OVMF = Firmware(Path("/fw/code.fd"), Path("/fw/vars.fd"))
MACHINE = Machine(
    drives=(Drive(Path("/d/web,1.img")),),
    acceleration=Acceleration.TCG,
    firmware=OVMF,
    forwards=(Forward(8080, 80), Forward(53, 53, "0.0.0.0", "udp")),
    credentials=(Credential("a", b"b"),),
)
WIRING = Wiring(5, 6, 7, 8)


def line(machine: Machine) -> str:
    return " ".join(argv(Path("qemu"), machine, WIRING))


def test_the_same_machine_is_the_same_command_line() -> None:
    assert argv(Path("qemu"), MACHINE, WIRING) == argv(Path("qemu"), replace(MACHINE), WIRING)


@pytest.mark.parametrize(
    "part",
    [
        "qemu -nodefaults -no-user-config",
        "-machine q35 -accel tcg,thread=multi -cpu qemu64 -smp 2 -m 2048M",
        "if=pflash,format=raw,unit=0,readonly=on,file=/fw/code.fd",
        "if=pflash,format=raw,unit=1,file=/proc/self/fd/8",
        "id=drive0,format=raw,file=/d/web,,1.img,snapshot=on,cache=unsafe",
        "virtio-blk-pci,drive=drive0,bootindex=1",
        "user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:0.0.0.0:53-:53",
        "socket,id=monitor,fd=5",
        "socket,id=serial,fd=6",
        "virtserialport,chardev=announcement,name=org.keelboot.boot",
        "-device VGA -display none",
        "type=11,value=io.systemd.credential.binary:a=Yg==",
        "-sandbox on",
    ],
)
def test_the_command_line_has(part: str) -> None:
    assert part in line(MACHINE)


def test_what_is_kept_is_not_a_snapshot() -> None:
    kept = line(replace(MACHINE, drives=(Drive(Path("/d/x.qcow2"), "qcow2", persist=True),)))
    assert "format=qcow2,file=/d/x.qcow2,cache=writeback" in kept
    assert "snapshot" not in kept
    assert "unsafe" not in kept


def test_further_drives_come_later_in_the_boot_order() -> None:
    two = line(replace(MACHINE, drives=(Drive(Path("/a")), Drive(Path("/b.iso"), medium=Medium.CDROM))))
    assert "drive=drive0,bootindex=1" in two
    assert "ide-cd,drive=drive1,bootindex=2" in two


def test_secure_boot_needs_system_management_mode() -> None:
    secure = line(replace(MACHINE, firmware=replace(OVMF, secure_boot=True)))
    assert "q35,smm=on" in secure
    assert "driver=cfi.pflash01,property=secure,value=on" in secure


def test_without_firmware_there_is_no_flash() -> None:
    assert "pflash" not in line(replace(MACHINE, firmware=None))


def test_a_window_is_not_confined() -> None:
    windowed = line(replace(MACHINE, display="gtk"))
    assert "-display gtk" in windowed
    assert "-sandbox" not in windowed


@pytest.mark.parametrize("change", [{"memory": 64}, {"cpus": 0}, {"display": "gtk,gl=on -serial x"}, {"display": ""}])
def test_refuses(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        replace(MACHINE, **change)  # type: ignore[arg-type]


def test_refuses_other_formats() -> None:
    with pytest.raises(ValueError):
        Drive(Path("/x"), "vmdk")


@pytest.mark.parametrize(("head", "name"), [(b"QFI\xfb", "qcow2"), (b"\x00\x00\x00\x00", "raw"), (b"", "raw")])
def test_formats_are_known_by_their_magic(head: bytes, name: str) -> None:
    assert disk_format(head) == name
