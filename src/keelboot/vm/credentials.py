"""What the guest is told before it runs: systemd credentials, carried in SMBIOS strings of type 11.

systemd reads them on any machine that the firmware says is virtual (systemd-creds(1), "SMBIOS OEM strings"), so an
image needs no change to be let into. Everything here is pure.
"""

import base64
import re
from dataclasses import dataclass

from keelboot.vm.announcement import PORT

_NAME = re.compile(r"[A-Za-z0-9_.@~-]{1,128}")
_PUBLIC_KEY = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\r\n]*)?")
# An image that announces itself has this unit, and then needs no second one.
IMAGE_ANNOUNCER = "keelboot-announce.service"
_RUN_ANNOUNCER = "keelboot-run-announce.service"


@dataclass(frozen=True, slots=True)
class Credential:
    """One named value for the guest's systemd."""

    name: str
    value: bytes

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"not a credential's name: {self.name}")

    def smbios(self) -> str:
        """The SMBIOS string; base64 keeps QEMU's own separators out of it."""
        return f"io.systemd.credential.binary:{self.name}={base64.b64encode(self.value).decode()}"


def tmpfiles(lines: str) -> Credential:
    """Lines of tmpfiles.d(5) to act on early in the boot; systemd 252 and later do."""
    return Credential("tmpfiles.extra", lines.encode())


def authorized_key_lines(public_key: str, *, home: str = "/root", user: str = "root") -> str:
    """Lines of tmpfiles.d(5) that let the owner of PUBLIC_KEY log in as USER, beside the keys that are there.

    HOME may be a symbolic link, as /root is on an image whose /usr is read-only. Raises ValueError for what is not one
    line of an authorized_keys file, as it would otherwise become lines of its own there.
    """
    key = public_key.strip()
    if not _PUBLIC_KEY.fullmatch(key):
        raise ValueError("not a public key of OpenSSH")
    line = base64.b64encode(f"\n{key}\n".encode()).decode()
    return (
        f"d {home}/.ssh 0700 {user} {user} -\n"
        f"f {home}/.ssh/authorized_keys 0600 {user} {user} -\n"
        f"w+~ {home}/.ssh/authorized_keys - - - - {line}\n"
    )


def console_login() -> tuple[Credential, ...]:
    """Log root in on the serial console without a password: agetty of util-linux 2.40 with systemd 256 and later."""
    return (Credential("agetty.autologin", b"root"), Credential("login.noauth", b"yes"))


def announcer() -> tuple[Credential, ...]:
    """A unit that announces the end of the boot for images that have none; systemd 256 and later take it."""
    device = f"/dev/virtio-ports/{PORT}"
    # The state is asked for from a unit whose own start job has ended (Type=exec): `--wait` waits for all jobs.
    # systemd takes one backslash and one of each doubled sign away, the shell's printf makes \042 a quotation mark.
    unit = rf"""[Unit]
Description=Tell the computer that runs this machine that it is up
After=multi-user.target
ConditionPathExists={device}
ConditionPathExists=!/usr/lib/systemd/system/{IMAGE_ANNOUNCER}
[Service]
Type=exec
ExecStart=/bin/sh -c 'state=$$(systemctl is-system-running --wait); \
failed=$$(systemctl list-units --failed --plain --no-legend | \
while read -r unit rest; do printf ",\\042%%s\\042" "$$unit"; done); \
printf "{{\\042state\\042:\\042%%s\\042,\\042failed\\042:[%%s]}}\\n" "$$state" "$${{failed#,}}" >{device}'
"""
    return (
        Credential(f"systemd.extra-unit.{_RUN_ANNOUNCER}", unit.encode()),
        Credential("systemd.unit-dropin.multi-user.target~keelboot", f"[Unit]\nWants={_RUN_ANNOUNCER}\n".encode()),
    )
