import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from keelboot.vm.announcement import Announcement
from keelboot.vm.credentials import Credential, announcer, authorized_key_lines, console_login, tmpfiles

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJvb3Q= me"


def test_a_credential_as_smbios_has_it() -> None:
    assert Credential("a.b", b"\x00,=\n").smbios() == "io.systemd.credential.binary:a.b=ACw9Cg=="


@pytest.mark.parametrize("name", ["", "a b", "a=b", "a,b", "../x", "x" * 129])
def test_refuses_names(name: str) -> None:
    with pytest.raises(ValueError):
        Credential(name, b"")


@pytest.mark.parametrize(
    "key",
    ["", "hello", "ssh-ed25519", f"{KEY}\nf /etc/passwd", "ssh-ed25519 AAAA\r", "-----BEGIN OPENSSH PRIVATE KEY-----"],
)
def test_refuses_what_is_no_key(key: str) -> None:
    if key.strip() != key:
        key += "x"
    with pytest.raises(ValueError):
        authorized_key_lines(key)


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="systemd-tmpfiles is not installed")
@pytest.mark.parametrize("before", [None, "ssh-ed25519 OLD other"])
@pytest.mark.parametrize("linked", [False, True])
def test_the_key_joins_those_that_are_there(tmp_path: Path, before: str | None, *, linked: bool) -> None:
    """As systemd itself reads the lines; /root may be a link, and a key of the image stays."""
    home = tmp_path / "var/roothome"
    home.mkdir(parents=True)
    (tmp_path / "root").symlink_to("var/roothome") if linked else (tmp_path / "root").mkdir()
    keys = tmp_path / "root/.ssh/authorized_keys"
    if before:
        keys.parent.mkdir()
        keys.write_text(before)
    lines = authorized_key_lines(KEY).replace(" root root ", " - - ")  # the owner is not ours to set here
    done = subprocess.run(
        ["systemd-tmpfiles", f"--root={tmp_path}", "--create", "-"],
        input=lines,
        text=True,
        capture_output=True,
        check=False,
    )
    if "Unknown modifiers" in done.stderr:
        pytest.skip("this systemd-tmpfiles is older than what guests have")
    assert done.returncode == 0, done.stderr
    assert [line for line in keys.read_text().splitlines() if line] == ([before] if before else []) + [KEY]


def test_the_announcer_is_one_unit_and_what_wants_it() -> None:
    unit, wish = announcer()
    assert unit.name == "systemd.extra-unit.keelboot-run-announce.service"
    assert wish.name == "systemd.unit-dropin.multi-user.target~keelboot"
    assert wish.value == b"[Unit]\nWants=keelboot-run-announce.service\n"
    assert b"/dev/virtio-ports/org.keelboot.boot" in unit.value


def test_the_announcer_writes_an_announcement(tmp_path: Path) -> None:
    """Its command, unescaped as by systemd, run by a shell beside a systemctl that answers like the real one."""
    joined = announcer()[0].value.decode().replace("\\\n", " ")
    line = next(line for line in joined.splitlines() if line.startswith("ExecStart="))
    port = tmp_path / "port"
    script = line.partition(" -c '")[2].removesuffix("'").replace("$$", "$").replace("%%", "%").replace("\\\\", "\\")
    script = script.replace("/dev/virtio-ports/org.keelboot.boot", str(port))
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(
        "#!/bin/sh\ncase $1 in is-system-running) echo degraded; exit 1;; "
        'list-units) printf "a.service loaded failed failed A\\nb-1.mount loaded failed failed B\\n";; esac\n'
    )
    systemctl.chmod(0o755)
    subprocess.run(["/bin/sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert Announcement.parse(port.read_bytes()) == Announcement("degraded", ("a.service", "b-1.mount"))


def test_console_login_and_tmpfiles_are_named_as_systemd_names_them() -> None:
    assert {one.name: one.value for one in console_login()} == {"agetty.autologin": b"root", "login.noauth": b"yes"}
    one = tmpfiles("d /x\n")
    assert base64.b64decode(one.smbios().partition("=")[2]) == b"d /x\n"
    assert one.name == "tmpfiles.extra"
