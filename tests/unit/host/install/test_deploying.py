"""An image into a store and an ESP that are directories: what is there afterwards, and what is refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import BOOTABLE
from keelboot.assembly.settings import Settings
from keelboot.assembly.verification import Basis
from keelboot.boot import esp
from keelboot.failure import CannotFinish, InvalidImage, NoVerity
from keelboot.host import admission, published, records
from keelboot.host.admission import Terms
from keelboot.host.install import deploying, existing, tofilesystem
from keelboot.host.install.look import Look, look
from keelboot.host.install.wishes import Wishes
from keelboot.host.sysroot import Sysroot
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.progress import SILENT
from small_images import write_layout

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFddaMxu3wuhJB1Xswsj3kYjhIdu4GxIXQYkILf5o7L7 a%b\\c"


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    for name in ("root", "esp", "run"):
        (tmp_path / name).mkdir()
    return Sysroot(tmp_path / "root", tmp_path / "esp", tmp_path / "run")


def seen(directory: Path) -> Look:
    with open_image(Reference.parse(f"oci:{directory}")) as image:
        return look(image)


def deployed(sysroot: Sysroot, directory: Path, *, verified: bool = False) -> records.Record:
    wishes = Wishes(
        image=Reference.parse(f"oci:{directory}"),
        target=Reference.parse("docker://registry.example.org/web:1"),
        ssh_keys=(KEY,),
        etc={"/etc/keelboot/trust.json": b"a policy"},
    )
    settings = Settings(kargs=("root=UUID=u", "mine"), kargs_deleted=("splash",))
    with open_image(wishes.image) as image:
        admitted = admission.admit(image, Terms())
        return deploying.deploy(
            sysroot, image, look(image), wishes, settings, admitted=admitted, verified=verified, progress=SILENT
        )


def test_a_look_tells_what_an_image_takes(layout: Callable[..., Path], bootable_files: dict[str, bytes | None]) -> None:
    directories = ("usr/lib/bootc", "usr/lib/bootc/install", "usr/lib/bootc/kargs.d")
    found = seen(
        layout(
            files=bootable_files
            | dict.fromkeys(directories)
            | {
                "usr/lib/bootc/install/50-x.toml": b'[install]\nroot-fs-type = "btrfs"\n',
                "usr/lib/bootc/kargs.d/50-x.toml": b'kargs = ["quiet"]\n',
                "usr/bin/keelboot": b"#!/bin/sh\n",
            }
        )
    )
    contents = {bytes(content) for content in bootable_files.values() if content}
    assert found.configuration.filesystem == "btrfs"
    assert found.system.arguments == ("quiet",)
    assert found.agent
    assert found.needs.esp == len(b"initramfs" * 5000 + b"kernel" * 9000 + b"loader" * 4000)
    assert found.needs.store.blocks * 4096 > sum(map(len, contents))


def test_an_image_that_does_not_boot_is_found_before_anything_is_written(
    layout: Callable[..., Path], bootable_files: dict[str, bytes | None]
) -> None:
    del bootable_files["usr/lib/modules/6.12.1/vmlinuz"]
    with pytest.raises(CannotFinish, match="it has no kernel"):
        seen(layout(files=bootable_files))


@pytest.mark.parametrize(
    ("labels", "machine", "said"),
    [({"containers.bootc": "1"}, "aarch64", "for amd64, and this machine is arm64"), ({}, "x86_64", "the label")],
)
def test_an_image_that_is_not_for_this_machine_is_found_then_too(
    labels: dict[str, str], machine: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk would be empty by the time that it is staged."""
    write_layout(tmp_path / "image", dict(BOOTABLE), labels=labels)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6", "1", machine)))
    with pytest.raises(CannotFinish, match=said):
        seen(tmp_path / "image")


def test_an_image_whose_wishes_are_unknown_is_refused(
    layout: Callable[..., Path], bootable_files: dict[str, bytes | None]
) -> None:
    more = {"usr/lib/bootc": None, "usr/lib/bootc/install": None}
    with pytest.raises(InvalidImage, match="unknown key"):
        seen(layout(files=bootable_files | more | {"usr/lib/bootc/install/1.toml": b"[install]\nraid = 5"}))


def test_everything_is_there(layout: Callable[..., Path], sysroot: Sysroot) -> None:
    record = deployed(sysroot, layout())
    assert records.deployments(sysroot) == [record]
    assert record.image == "docker://registry.example.org/web:1"
    assert record.parent is None
    assert records.settings(sysroot) == Settings(kargs=("root=UUID=u", "mine"), kargs_deleted=("splash",))
    (listed,) = esp.entries(sysroot.esp)
    assert not listed.on_trial
    words = listed.entry.options.split()
    assert words[0] == f"composefs=?{record.digest.hex}"
    assert words[-2:] == ["root=UUID=u", "mine"]
    assert esp.sound(sysroot.esp, record.boot_digest)
    assert (sysroot.store / "images" / record.digest.hex).exists()


def test_a_policy_is_a_change_of_this_machines_etc(layout: Callable[..., Path], sysroot: Sysroot) -> None:
    record = deployed(sysroot, layout())
    assert (sysroot.deployment(record.digest) / "etc/upper/keelboot/trust.json").read_text() == "a policy"
    assert record.verification
    assert record.verification.basis is Basis.LOCAL


def test_keys_reach_root_whatever_is_in_them(layout: Callable[..., Path], sysroot: Sysroot) -> None:
    record = deployed(sysroot, layout())
    lines = (sysroot.deployment(record.digest) / "etc/upper/tmpfiles.d/bootc-root-ssh.conf").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["/root/.ssh", "/root/.ssh/authorized_keys"]
    assert "%" not in lines[1]


def test_nothing_starts_before_the_loader_is_there(layout: Callable[..., Path], sysroot: Sysroot) -> None:
    directory = layout()
    deployed(sysroot, directory)
    assert not list(sysroot.esp.rglob("*.efi"))
    deploying.add_loader(sysroot, seen(directory), fallback=True)
    for name in ("EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"):
        assert (sysroot.esp / name).read_bytes() == b"loader" * 4000


def test_a_loader_of_others_is_left_alone(layout: Callable[..., Path], sysroot: Sysroot) -> None:
    directory = layout()
    deployed(sysroot, directory)
    theirs = sysroot.esp / "EFI/BOOT/BOOTX64.EFI"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"grub")
    deploying.add_loader(sysroot, seen(directory), fallback=False)
    assert theirs.read_bytes() == b"grub"


def test_installing_again_finishes(layout: Callable[..., Path], sysroot: Sysroot) -> None:
    directory = layout()
    first = deployed(sysroot, directory)
    second = deployed(sysroot, directory)
    assert first.digest == second.digest
    assert [one.digest for one in records.deployments(sysroot)] == [first.digest]


def test_what_a_cut_left_on_the_esp_goes_when_the_loader_is_installed_again(
    layout: Callable[..., Path], sysroot: Sysroot
) -> None:
    directory = layout(files=dict(BOOTABLE))
    deployed(sysroot, directory)
    deploying.add_loader(sysroot, seen(directory), fallback=True)
    before = sorted(sysroot.esp.rglob("*"))
    for name in ("EFI/BOOT/.BOOTX64.EFI", "loader/.loader.conf", ".startup.nsh"):
        (sysroot.esp / f"{name}.0123456789abcdef").touch()
    deploying.add_loader(sysroot, seen(directory), fallback=True)
    assert sorted(sysroot.esp.rglob("*")) == before


def test_what_is_not_sealed_is_not_called_verified(layout: Callable[..., Path], sysroot: Sysroot) -> None:
    if tofilesystem.can_seal(sysroot.root):
        pytest.skip("the filesystem of the tests seals")
    with pytest.raises(NoVerity, match="did not seal"):
        deployed(sysroot, layout(), verified=True)
    assert esp.entries(sysroot.esp) == []


def test_the_old_system_stays_a_choice(layout: Callable[..., Path], sysroot: Sysroot) -> None:
    record = deployed(sysroot, layout())
    debian = sysroot.esp / "EFI/debian"
    debian.mkdir(parents=True)
    for name in ("shimx64.efi", "grubx64.efi", "grub.cfg"):
        (debian / name).write_bytes(b"")
    release = sysroot.root / "etc/os-release"
    release.parent.mkdir()
    release.write_text('PRETTY_NAME="Debian of before"\n')
    existing.leave_choices(sysroot, record, sysroot.root, cleanup=True)
    text = (sysroot.entries / "before-keelboot-debian.conf").read_text()
    assert "title Debian of before (before keelboot)\n" in text
    assert text.endswith("efi /EFI/debian/shimx64.efi\n")
    assert esp.foreign(sysroot.esp) == ["before-keelboot-debian.conf"]
    assert existing.old_root_marker(sysroot).exists()
    units = sysroot.deployment(record.digest) / "etc/upper/systemd/system"
    assert (units / "multi-user.target.wants/keelboot-remove-old-root.service").resolve().is_file()


def test_removing_the_old_system_leaves_ours(layout: Callable[..., Path], sysroot: Sysroot) -> None:
    deployed(sysroot, layout())
    before = json.dumps(sorted(str(path) for path in sysroot.root.rglob("*")))
    for name in ("usr/bin/old", "home/mine", "boot/vmlinuz", "etc/passwd"):
        (sysroot.root / name).parent.mkdir(parents=True, exist_ok=True)
        (sysroot.root / name).write_text("")
    (sysroot.root / "bin").symlink_to("usr/bin")
    published.touch(sysroot.root)
    before = json.dumps(
        sorted([*json.loads(before), *(str(sysroot.root / name) for name in ("ostree", "ostree/bootc"))])
    )
    assert existing.remove_old_root(sysroot, dry_run=True) == ["bin", "etc", "home", "usr", "boot"]
    assert (sysroot.root / "usr/bin/old").exists()
    assert existing.remove_old_root(sysroot) == ["bin", "etc", "home", "usr", "boot"]
    assert json.dumps(sorted(str(path) for path in sysroot.root.rglob("*"))) == before


def test_loaders_of_installed_systems() -> None:
    assert existing.old_loaders(
        {
            "BOOT": ["BOOTX64.EFI", "fbx64.efi", "grubx64.efi"],
            "systemd": ["systemd-bootx64.efi"],
            "Microsoft": ["bootmgfw.efi"],
            "keelboot": [],
            "ubuntu": ["GRUBX64.EFI"],
            "debian": ["grubx64.efi", "shimx64.efi", "mmx64.efi"],
        }
    ) == ["/EFI/debian/shimx64.efi", "/EFI/ubuntu/GRUBX64.EFI"]
