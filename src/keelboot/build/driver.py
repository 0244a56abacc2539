"""The storage driver of the calling user's container store, which the store remembers and every tool must agree on.

containers/storage before 1.50 gives a new rootless store the driver `vfs` where no storage.conf(5) names another: every
layer is a full copy. Debian 12 ships no storage.conf with podman. A store that exists is left as it is.
"""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from keelboot import command
from keelboot.durable import replacing

_SYSTEM_CONFIGURATION = (Path("/etc/containers/storage.conf"), Path("/usr/share/containers/storage.conf"))
_OVERRULED = re.compile(r"graph driver .+ overwritten by graph driver")


def unmade(*, user: int) -> bool:
    """Whether USER has no store yet and nothing names the driver it will get. Merely asking podman would make one."""
    named = command.environment().keys() & {"STORAGE_DRIVER", "CONTAINERS_STORAGE_CONF"}
    if user == 0 or named or (_directory("XDG_DATA_HOME", ".local/share") / "containers/storage").exists():
        return False
    return not any(path.exists() for path in (_configuration(), *_SYSTEM_CONFIGURATION))


def settle(*, user: int, note: Callable[[str], None]) -> None:
    """Give USER's store the overlay driver, if there is no store yet, nothing names a driver, and overlay works.

    It is written where podman, buildah and skopeo all read it: the user's own storage.conf, which did not exist.
    """
    if not unmade(user=user) or not _overlay_works():
        return
    configuration = _configuration()
    configuration.parent.mkdir(parents=True, exist_ok=True)
    with replacing(configuration) as file:
        file.write(b'# So that layers are shared, not copied: podman would give a new store the driver "vfs".\n')
        file.write(b'[storage]\ndriver = "overlay"\n')
    note(f"{configuration} now names the overlay driver, as this user had no container store yet")


def flags() -> tuple[str, ...]:
    """What podman and buildah must be told to find the images of a store whose driver is not the configured one.

    Usually nothing: naming a driver would make them ignore the options of storage.conf(5).
    """
    info = command.run(["podman", "info", "--format", "{{.Store.GraphDriverName}}"], purpose="look at podman's store")
    if _OVERRULED.search(info.stderr.decode(errors="replace")):
        return ("--storage-driver", info.stdout.decode().strip())
    return ()


def _directory(variable: str, usual: str) -> Path:
    return Path(command.environment().get(variable) or Path.home() / usual)


def _configuration() -> Path:
    return _directory("XDG_CONFIG_HOME", ".config") / "containers/storage.conf"


def _overlay_works() -> bool:
    # Beside the real store: whether overlay works depends on the filesystem.
    with tempfile.TemporaryDirectory(prefix=".keelboot-", dir=Path.home(), ignore_cleanup_errors=True) as scratch:
        tried = command.run(
            [
                "podman",
                "--storage-driver",
                "overlay",
                "--root",
                f"{scratch}/root",
                "--runroot",
                f"{scratch}/run",
                "info",
            ],
            purpose="try the overlay driver",
            accept=range(256),
        )
    return tried.returncode == 0
