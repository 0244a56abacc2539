"""The programs that keelboot's verbs need: where they come from, since which version they do, and which are here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from keelboot import command
from keelboot.build import mirror

_VERSION = re.compile(r"\d+(?:\.\d+)+")
# Debian 12 has QEMU 7.2, under which kernels of today end in a double fault where there is no KVM.
_BACKPORTED = "qemu"


@dataclass(frozen=True, slots=True)
class Tool:
    """A program, the Debian package that has it, and what it is for; OLDEST is the first version that does the job."""

    program: str
    package: str
    verbs: tuple[str, ...]
    asks: tuple[str, ...] = ("--version",)  # what makes it tell its version; empty where nothing does
    oldest: tuple[int, ...] = ()
    ordinary_user_only: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A tool as it is on this machine. PATH is None where it is missing; VERSION is empty where it does not tell."""

    tool: Tool
    path: str | None
    version: str

    @property
    def too_old(self) -> bool:
        return bool(self.version) and _numbers(self.version) < self.tool.oldest

    @property
    def good(self) -> bool:
        return self.path is not None and not self.too_old


_STORE = ("base", "build", "inspect", "disk", "run")
_BOOTS = ("disk", "run")
TOOLS: Sequence[Tool] = (
    Tool("podman", "podman", _STORE, oldest=(4, 3)),
    Tool("crun", "crun", ("build",)),
    Tool("newuidmap", "uidmap", ("base", "build"), (), ordinary_user_only=True),
    Tool("mmdebstrap", "mmdebstrap", ("base",), oldest=(1, 3)),
    Tool("mke2fs", "e2fsprogs", _BOOTS, ("-V",), (1, 46)),
    Tool("debugfs", "e2fsprogs", _BOOTS, ("-V",), (1, 46)),
    Tool("mkfs.fat", "dosfstools", _BOOTS, ("--help",), (4, 2)),
    Tool("mcopy", "mtools", _BOOTS),
    Tool("qemu-img", "qemu-utils", _BOOTS),
    Tool("qemu-system-x86_64", "qemu-system-x86", ("run",), oldest=(10, 0)),
    Tool("ssh", "openssh-client", ("run",), ("-V",)),
    Tool("ssh-keygen", "openssh-client", ("run",), ()),
)


def look(tool: Tool) -> Found:
    """Find TOOL and ask for its version."""
    path = command.find(tool.program)
    if path is None:
        return Found(tool, None, "")
    version = ""
    if tool.asks:
        said = command.run([path, *tool.asks], purpose=f"ask {tool.program} for its version", accept=range(256))
        match = _VERSION.search((said.stdout + said.stderr).decode(errors="replace"))
        version = match[0] if match else ""
    return Found(tool, str(path), version)


def install(packages: Sequence[str], *, root: bool) -> list[str]:
    """The commands that install PACKAGES here, to paste; nothing where this is not a machine with apt."""
    if not packages or command.find("apt-get") is None:
        return []
    sudo = "" if root else "sudo "
    own_id, codename = mirror.release()
    late = [name for name in packages if name.startswith(_BACKPORTED)]
    lines: list[str] = []
    if late and (own_id, codename) == ("debian", "bookworm"):
        suites = {target.suite: target.uri for target in reversed(mirror.configured())}
        if "bookworm-backports" not in suites and (uri := suites.get("bookworm")):
            lines.append(
                f"printf '%s\\n' 'Types: deb' 'URIs: {uri}' 'Suites: bookworm-backports' 'Components: main'"
                " 'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' |"
                f" {sudo}tee /etc/apt/sources.list.d/bookworm-backports.sources"
            )
        packages = [name for name in packages if name not in late]
        late_line = f"{sudo}apt-get install --no-install-recommends -t bookworm-backports {' '.join(late)}"
    else:
        late_line = ""
    lines.append(f"{sudo}apt-get update")
    if packages:
        lines.append(f"{sudo}apt-get install --no-install-recommends {' '.join(packages)}")
    return [*lines, late_line] if late_line else lines


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
