"""From a tiny image to a disk file and back: what lies on the partitions is what the options said."""

import base64
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from boot.partitions import partitions
from keelboot.assembly.disk import DiskOptions, write_disk
from keelboot.assembly.inspection import inspect
from keelboot.assembly.record import Record, State, reference_of
from keelboot.assembly.settings import Settings
from keelboot.assembly.verification import Basis, Verification
from keelboot.failure import InvalidImage, OutOfSpace
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.store.check import check
from keelboot.store.garbage import find
from keelboot.store.meta import Meta
from keelboot.store.pull import pull
from keelboot.store.references import drop, listing
from keelboot.store.repository import Lock, opened

Layout = Callable[..., Path]
Files = dict[str, bytes | None]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAm5NszLsDbPgfKgzUXcf5ipyObmySdLZxD7mkiAZckN someone"

pytestmark = pytest.mark.skipif(
    subprocess.run(
        ["sh", "-c", "command -v mcopy && command -v /sbin/debugfs"], check=False, capture_output=True
    ).returncode
    != 0,
    reason="mtools or e2fsprogs are not installed",
)


def entry(disk: Path, digest: str) -> dict[str, str]:
    """The fields of the boot entry of DIGEST."""
    argv = [
        "mtype",
        "-i",
        f"{disk}@@{partitions(disk)['esp'].start}",
        f"::/loader/entries/keelboot-000001-{digest}.conf",
    ]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return dict(line.split(" ", 1) for line in text.splitlines())


def test_the_deployment_is_the_one_inspect_tells(layout: Layout, tmp_path: Path) -> None:
    reference = Reference.parse(f"oci:{layout()}")
    with open_image(reference) as image:
        seen = inspect(image)
    disk = tmp_path / "x.img"
    deployment = write_disk(reference, disk)
    assert seen.composefs == deployment.digest.hex
    assert seen.bootable
    assert seen.kernels == ("6.12.1",)
    fields = entry(disk, deployment.digest.hex)
    assert fields["title"] == "Debian GNU/Linux 13 (trixie)"
    assert fields["version"] == "000001-2025-01-02T03:04:05Z"
    assert fields["sort-key"] == "keelboot"
    assert fields["options"].split()[0] == f"composefs={deployment.digest.hex}"


def test_the_store_holds_image_objects_and_state(layout: Layout, tmp_path: Path) -> None:
    disk = tmp_path / "x.img"
    digest = write_disk(Reference.parse(f"oci:{layout()}"), disk).digest
    store = partitions(disk)["keelboot-store"]
    assert f"../objects/{digest.path}" in store.debugfs(f"cat /composefs/images/{digest.hex}")
    assert "Flags: 0x180000" in store.debugfs(f"stat /composefs/objects/{digest.path}")
    assert "Type: directory    Mode:  0700" in store.debugfs("stat /composefs")
    meta = tmp_path / "meta.json"
    store.debugfs(f"dump /composefs/meta.json {meta}")
    assert Meta.parse(meta.read_bytes()) == Meta("sha256")
    target = tmp_path / "origin.json"
    store.debugfs(f"dump /state/deploy/{digest.hex}/origin.json {target}")
    record = Record.parse(target.read_bytes())
    assert record.digest == digest
    assert (record.kernel, record.state, record.parent) == ("6.12.1", State.GOOD, None)
    assert record.title == "Debian GNU/Linux 13 (trixie)"
    assert f"/EFI/keelboot/{record.boot_digest}/vmlinuz" == entry(disk, digest.hex)["linux"]


def test_the_store_is_what_a_pull_makes(layout: Layout, tmp_path: Path) -> None:
    """So the first upgrade fetches what has changed, and gc finds nothing."""
    reference = Reference.parse(f"oci:{layout()}")
    disk = tmp_path / "x.img"
    deployment = write_disk(reference, disk)
    partitions(disk)["keelboot-store"].debugfs(f"rdump /composefs {tmp_path}")
    pulled = pull(tmp_path / "composefs", reference, jobs=1)
    assert (pulled.unchanged, pulled.objects_added) == (True, 0)
    drop(tmp_path / "composefs", str(reference))
    assert [one.reference for one in listing(tmp_path / "composefs")] == [reference_of(deployment.digest)]
    with opened(tmp_path / "composefs", Lock.ALONE) as repository:
        found = find(repository)
        report = check(repository, jobs=1)
    assert (found.images, found.layers, found.objects) == ((), (), ())
    assert report.findings == ()


def test_keys_are_bootcs_tmpfiles_line_in_this_deployments_etc(layout: Layout, tmp_path: Path) -> None:
    disk = tmp_path / "x.img"
    digest = write_disk(Reference.parse(f"oci:{layout()}"), disk, DiskOptions(ssh_keys=(KEY,))).digest
    target = tmp_path / "line"
    store = partitions(disk)["keelboot-store"]
    store.debugfs(f"dump /state/deploy/{digest.hex}/etc/upper/tmpfiles.d/bootc-root-ssh.conf {target}")
    encoded = re.fullmatch(r"d .*\nf~ /root/\.ssh/authorized_keys 0600 root root - (\S+)\n", target.read_text())
    assert encoded
    assert base64.b64decode(encoded[1]).decode() == f"{KEY}\n"


def test_a_policy_and_what_it_decided_lie_in_the_deployment(layout: Layout, tmp_path: Path) -> None:
    kept = Verification(basis=Basis.LOCAL, image="somewhere")
    options = DiskOptions(
        etc={"/etc/keelboot/trust.json": b"a policy", "/etc/keelboot/keys/a.pub": b"a key"},
        decide=lambda _: (kept, {"a" * 64: b"evidence"}),
    )
    disk = tmp_path / "x.img"
    deployment = write_disk(Reference.parse(f"oci:{layout()}"), disk, options)
    assert deployment.record.verification == kept
    store, state = partitions(disk)["keelboot-store"], f"/state/deploy/{deployment.digest.hex}"
    for path, content in (
        ("etc/upper/keelboot/trust.json", "a policy"),
        ("etc/upper/keelboot/keys/a.pub", "a key"),
        (f"signatures/{'a' * 64}", "evidence"),
    ):
        store.debugfs(f"dump {state}/{path} {tmp_path}/dumped")
        assert (tmp_path / "dumped").read_text() == content
    store.debugfs(f"dump {state}/origin.json {tmp_path}/dumped")
    assert Record.parse((tmp_path / "dumped").read_bytes()) == deployment.record


def test_kernel_arguments_of_image_and_operator_follow_each_other(
    layout: Layout, bootable_files: Files, tmp_path: Path
) -> None:
    bootable_files |= {
        "usr/lib/bootc": None,
        "usr/lib/bootc/kargs.d": None,
        "usr/lib/bootc/kargs.d/10-a.toml": b'kargs = ["from=image"]\n',
    }
    disk = tmp_path / "x.img"
    reference = Reference.parse(f"oci:{layout(files=bootable_files)}")
    deployment = write_disk(reference, disk, DiskOptions(arguments=("from=operator",)))
    assert entry(disk, deployment.digest.hex)["options"].endswith(" from=image from=operator")
    settings = tmp_path / "host.json"
    partitions(disk)["keelboot-store"].debugfs(f"dump /state/host.json {settings}")
    assert Settings.parse(settings.read_bytes()).kargs == ("from=operator",), "what upgrades have to keep"
    assert deployment.record.arguments == ("from=image",)


def test_kernel_arguments_that_cannot_be_read_are_refused_and_nothing_is_left(
    layout: Layout, bootable_files: Files, tmp_path: Path
) -> None:
    bootable_files |= {
        "usr/lib/bootc": None,
        "usr/lib/bootc/kargs.d": None,
        "usr/lib/bootc/kargs.d/10-a.toml": b"kargs = yes",
    }
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(InvalidImage, match=r"kargs\.d/10-a\.toml"):
        write_disk(Reference.parse(f"oci:{layout(files=bootable_files)}"), out / "x.img")
    assert list(out.iterdir()) == []


def test_a_machine_can_follow_another_reference_than_its_disk_was_made_from(layout: Layout, tmp_path: Path) -> None:
    options = DiskOptions(target="docker://registry.example.org/web:1")
    deployment = write_disk(Reference.parse(f"oci:{layout()}"), tmp_path / "x.img", options)
    assert deployment.record.image == "docker://registry.example.org/web:1"


def test_title_cannot_smuggle_a_field_into_the_entry(layout: Layout, bootable_files: Files, tmp_path: Path) -> None:
    bootable_files["etc/os-release"] = b'ID=debian\nPRETTY_NAME="x\toptions init=/bin/sh"\n'
    disk = tmp_path / "x.img"
    deployment = write_disk(Reference.parse(f"oci:{layout(files=bootable_files)}"), disk)
    assert entry(disk, deployment.digest.hex)["title"] == "xoptions init=/bin/sh"


def test_var_has_room_for_what_the_first_boot_puts_there(layout: Layout, bootable_files: Files, tmp_path: Path) -> None:
    above = dict.fromkeys(("usr/share", "usr/share/factory", "usr/share/factory/var"))
    seeds: Files = {"usr/share/factory/var/data": bytes(200 << 20)}
    reference = Reference.parse(f"oci:{layout(files=bootable_files | above | seeds)}")
    disk = tmp_path / "x.img"
    write_disk(reference, disk)
    var = partitions(disk)["keelboot-var"]
    with pytest.raises(OutOfSpace, match=f"lay out a disk of {(var.start >> 20) + 401} MiB") as refused:
        write_disk(reference, disk, DiskOptions(size=var.start + (401 << 20)))
    (least,) = re.findall(r"/var at least ([0-9]+) MiB", refused.value.why)
    write_disk(reference, disk, DiskOptions(size=var.start + (int(least) + 1 << 20)))
    assert partitions(disk)["keelboot-var"].size == int(least) << 20
