"""The generated stage: a Containerfile of three instructions, a script, and files to lay over the image.

    FROM   the image as the user built it
    COPY   payload/ -> /                     the agent, units, dracut module, network default
    RUN    finish.sh                         install, kernel, initramfs, /var, /boot, clean
    COPY   last/ -> /                        what a build's own mounts hide while RUN runs: /etc/resolv.conf, and
                                             /etc/hosts and /etc/hostname, which they leave behind empty

The script is one RUN, so that what it removes never becomes part of a layer. Every file of the context has the same
time and order wherever the stage is made: same image, same keelboot, same layers.
"""

import os
import shutil
from collections.abc import Collection
from importlib import resources
from pathlib import Path

from keelboot.build.finish.adapter import Adapter
from keelboot.image.release import Release

_SCRIPTS = ("kernel.sh", "agent.sh", "machine.sh", "variable.sh")
_RESOLVED = "../run/systemd/resolve/stub-resolv.conf"
_HOSTS = """\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""
HOSTNAME, HOSTS = "etc/hostname", "etc/hosts"
_AGENT = "usr/lib/python3/dist-packages/keelboot"  # where Debian's Python looks, and nothing from PyPI comes first


def write(
    context: Path,
    *,
    base: str,
    adapter: Adapter,
    release: Release,
    machine: str,
    kernel: str,
    missing: Collection[str] = (),
) -> Path:
    """Write the stage's context into the empty directory CONTEXT and return the Containerfile's path.

    BASE is the image to finish, MACHINE what `uname -m` says there, KERNEL the flavour or package asked for, MISSING
    which of HOSTNAME and HOSTS it does not have, or has empty.
    """
    payload, last = context / "payload", context / "last"
    _copy_data("keelboot.build.finish", "rootfs", payload)
    _copy_data("keelboot.initramfs", "dracut", payload / "usr/lib/dracut/modules.d")
    # All of it: what the agent needs is most of it, and a machine may then build images too.
    _copy_data("keelboot", ".", payload / _AGENT)
    (last / "etc").mkdir(parents=True)
    (last / "etc/resolv.conf").symlink_to(_RESOLVED)
    if HOSTS in missing:
        (last / HOSTS).write_text(_HOSTS)
    if HOSTNAME in missing:
        # No instruction removes a file that is mounted over. This name does in any layer: it is a whiteout (OCI image
        # specification, layer.md). A machine without a name of its own takes the one that DHCP or its platform gives.
        (last / "etc/.wh.hostname").touch()
    script = payload / "usr/lib/keelboot/finish.sh"
    script.write_text(_script(adapter, release, machine, kernel))
    script.chmod(0o755)
    containerfile = context / "Containerfile"
    containerfile.write_text(
        f"FROM {base}\n"
        "COPY payload/ /\n"
        'RUN ["/bin/sh", "/usr/lib/keelboot/finish.sh"]\n'
        "COPY last/ /\n"
        "LABEL containers.bootc=1\n"
        # An init understands this signal as "power off"; the default would be ignored.
        "STOPSIGNAL SIGRTMIN+3\n"
        'CMD ["/sbin/init"]\n'
    )
    _settle(context)
    return containerfile


def _script(adapter: Adapter, release: Release, machine: str, kernel: str) -> str:
    steps = {name: _text("keelboot.build.finish", f"scripts/{name}") for name in _SCRIPTS}
    return "\n".join(
        [
            "#!/bin/sh\n# Made by keelboot: turns this image into one that boots.\nset -eu\numask 022",
            "python_before=$(command -v /usr/bin/python3 || :)",
            adapter.install(adapter.kernel_package(machine, kernel), adapter.packages(machine, release)),
            steps["kernel.sh"],
            adapter.initramfs(),
            'chmod 0644 "/usr/lib/modules/$kver/initramfs.img"',
            steps["agent.sh"],
            steps["machine.sh"],
            adapter.package_database(),
            adapter.clean(),
            steps["variable.sh"],
        ]
    )


def _text(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def _copy_data(package: str, name: str, target: Path) -> None:
    with resources.as_file(resources.files(package).joinpath(name)) as source:
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


def _settle(context: Path) -> None:
    """Give every file the same modes and times: neither the umask nor the clock of the builder gets into the image."""
    for path in sorted(context.rglob("*"), reverse=True):
        if path.is_symlink():
            continue
        executable = path.is_dir() or os.access(path, os.X_OK)
        path.chmod(0o755 if executable else 0o644)
        os.utime(path, (0, 0))
