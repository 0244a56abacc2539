"""The command name `bootc`: what people and programs type at it is understood, and its errors have its form."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from keelboot import __version__
from keelboot.cli import bootc, main

ROOT = Path(__file__).resolve().parents[3]

# bootc's verbs and flags, as its help lists them, and what is typed in articles and by the programs that call it.
TYPED = """
upgrade
update --quiet
upgrade --check
upgrade --apply
upgrade --apply --soft-reboot=auto
upgrade --apply --soft-reboot=required
upgrade --download-only
upgrade --from-downloaded --apply
upgrade --check --tag v2
upgrade --progress-fd 3
switch registry.example.org/web:2
switch --apply --soft-reboot=auto registry.example.org/web:2
switch --transport containers-storage --retain localhost/web:2
switch --transport oci /srv/web
switch --transport oci-archive /srv/web.tar
switch --enforce-container-sigpolicy registry.example.org/web:2
switch --quiet --no-signature-verification registry.example.org/web:2
switch --progress-fd 3 registry.example.org/web:2
rollback
rollback --apply
rollback --apply --soft-reboot=auto
status
status --json
status --json --format-version 1
status --format-version=0
status --format humanreadable
status --format=yaml
status --format=json --booted -v
usr-overlay
usroverlay
usr-overlay --read-only
install to-disk --source-imgref docker://registry.example.org/web:2 /dev/vda
install to-disk --wipe --block-setup direct --filesystem btrfs --root-size 20G --source-imgref oci:/srv/web /dev/vda
install to-disk --generic-image --via-loopback --source-imgref oci:/srv/web disk.img
install to-filesystem --source-imgref oci:/srv/web --karg a=1 --karg b /mnt
install to-filesystem --source-imgref oci:/srv/web --target-imgref registry.example.org/web:2 /mnt
install to-filesystem --source-imgref oci:/srv/web --target-transport registry --skip-fetch-check /mnt
install to-filesystem --source-imgref oci:/srv/web --replace=alongside --acknowledge-destructive --skip-finalize /mnt
install to-existing-root --source-imgref oci:/srv/web --root-ssh-authorized-keys /root/.ssh/authorized_keys
install to-disk --bound-images skip --bootupd-skip-boot-uuid --bootloader systemd --source-imgref oci:/srv/web /dev/vda
install to-disk --enforce-container-sigpolicy --composefs-backend --stateroot x --source-imgref oci:/srv/web /dev/vda
container inspect
container inspect --rootfs /target --json
container inspect --rootfs /target --format yaml
container lint
container lint --fatal-warnings --skip nonempty-boot --skip var-log --no-truncate
container lint --list --rootfs /target
"""


@pytest.mark.parametrize("typed", TYPED.strip().splitlines())
def test_what_is_typed_is_understood(typed: str) -> None:
    verb, *words = typed.split()
    name = bootc.FACE.aliases.get(verb, verb)
    assert name in bootc.FACE.verbs
    main.verb_parser(name, bootc.FACE).parse_args(bootc.FACE.as_typed(name, words))


@pytest.mark.parametrize("name", bootc.FACE.verbs)
def test_every_verb_has_help_under_this_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"keelboot.cli.{bootc.FACE.modules.get(name, name).replace('-', '_')}")
    assert bootc.FACE.verbs[name] == module.SUMMARY
    with pytest.raises(SystemExit) as ended:
        main.main([name, "--help"], bootc.FACE)
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert f"usage: bootc {name} " in told
    examples = told.partition("examples:\n")[2].splitlines()
    assert examples
    assert all(line.startswith(f"  bootc {name}") for line in examples if line.strip())


def test_an_image_without_a_transport_is_in_a_registry() -> None:
    """Under its own name keelboot would look for localhost/web in podman's store."""
    for words, transport in (
        (["localhost/web:2"], "registry"),
        (["--transport", "containers-storage", "localhost/web:2"], "containers-storage"),
        (["--transport=oci", "/srv/web"], "oci"),
    ):
        found = main.verb_parser("switch", bootc.FACE).parse_args(bootc.FACE.as_typed("switch", words))
        assert found.transport == transport
    assert main.verb_parser("switch").parse_args(["localhost/web:2"]).transport is None


def test_version_and_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"], bootc.FACE) == 0
    assert capsys.readouterr().out == f"bootc {bootc.COMPATIBLE} (keelboot {__version__})\n"
    assert main.main(["--help"], bootc.FACE) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in bootc.FACE.verbs)
    assert "doctor" not in told


@pytest.mark.parametrize(
    ("verb", "hint"),
    [
        ("edit", "bootc switch IMAGE"),
        ("image", "podman images"),
        ("internals", "keelboot fsck"),
        ("loader-entries", "keelboot kargs set"),
        ("upgrdae", "Did you mean `bootc upgrade`?"),
        ("xyz", "`bootc --help` lists the verbs."),
        ("doctor", "`bootc --help` lists the verbs."),
    ],
)
def test_a_verb_that_it_does_not_have(verb: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([verb], bootc.FACE) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["container", "lint"],
        ["container", "inspect", "--rootfs", "/nonexistent", "--json"],
        ["install", "to-disk", "--enforce-container-sigpolicy", "--source-imgref", "oci:/nonexistent", "/dev/null"],
        ["install", "to-disk", "--bootloader", "grub", "--source-imgref", "oci:/nonexistent", "/dev/null"],
    ],
)
def test_an_error_is_one_line_and_ends_with_1(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(words, bootc.FACE) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("error: cannot ")
    assert line.count(": ") >= 2
    assert "\x1b" not in line


def test_it_is_no_script_of_the_package() -> None:
    """Installed on a workstation, it would hide the real one."""
    assert "bootc" not in (ROOT / "pyproject.toml").read_text().partition("[project.scripts]")[2].partition("[")[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    kargs = tmp_path / "usr/lib/bootc/kargs.d"
    kargs.mkdir(parents=True)
    (kargs / "10-a.toml").write_text('kargs = ["console=ttyS0", "a=1"]\n')
    (kargs / "20-b.toml").write_text('kargs = ["b"]\nmatch-architectures = ["riscv64"]\n')
    kernel = tmp_path / "usr/lib/modules/6.12.48/vmlinuz"
    kernel.parent.mkdir(parents=True)
    kernel.write_bytes(b"")
    return tmp_path


def inspect(root: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "keelboot.cli.bootc", "container", "inspect", "--rootfs", root, *words],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "src")},
    )
    assert done.stderr == ""
    return done.stdout


def test_container_inspect(root: Path) -> None:
    expected = {"kargs": ["console=ttyS0", "a=1"], "kernel": {"version": "6.12.48", "unified": False}}
    assert json.loads(inspect(root, "--json")) == expected
    assert json.loads(inspect(root, "--format=json")) == expected
    assert inspect(root) == 'kargs:\n  - "console=ttyS0"\n  - "a=1"\nkernel:\n  version: "6.12.48"\n  unified: false\n'
    assert inspect(root, "--format", "humanreadable") == "kernel     6.12.48\narguments  console=ttyS0 a=1\n"


def test_container_inspect_without_a_kernel(tmp_path: Path) -> None:
    assert json.loads(inspect(tmp_path, "--json")) == {"kargs": [], "kernel": None}


def test_container_inspect_of_a_unified_kernel_image(root: Path) -> None:
    image = root / "boot/EFI/Linux/6.12.49.efi"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"")
    assert json.loads(inspect(root, "--json"))["kernel"] == {"version": "6.12.49", "unified": True}
