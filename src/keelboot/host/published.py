"""/run/keelboot/host.json: the status that an ordinary user sees, who may read neither the state nor the ESP.

It is written after each change and at boot, readable for everyone, so it holds nothing secret. A boot empties
/run: what is there is of this one. Beside it, /run/keelboot/staged exists while the next boot is to run a new version.

Fleet agents that know bootc watch the directory /ostree/bootc instead, as bootc's operator does: its time changes.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from keelboot.durable import replacing

RUN: Final = Path("/run/keelboot")
NAME: Final = "host.json"
STAGED: Final = "staged"
HEALTH: Final = "health.json"  # what came of the checks of this boot: keelboot-health.service writes it
WATCHED: Final = "ostree/bootc"  # on the partition with the store; an image has the link /ostree -> sysroot/ostree
_VERSION = 1
_SIZE_MAX = 4 << 20


def write(document: dict[str, Any], run: Path = RUN) -> None:
    """Show DOCUMENT to everyone. Raises OSError."""
    run.mkdir(mode=0o755, parents=True, exist_ok=True)
    with replacing(run / NAME) as file:
        Path(f"/proc/self/fd/{file.fileno()}").chmod(0o644)  # whatever the caller's umask is
        file.write(json.dumps({"version": _VERSION, "host": document}, ensure_ascii=False).encode() + b"\n")
    staged = document["status"]["staged"]
    if staged and not staged["downloadOnly"]:
        (run / STAGED).touch()
    else:
        (run / STAGED).unlink(missing_ok=True)


def unhealthy(run: Path = RUN) -> list[str]:
    """The required checks that failed when this boot was checked; none where it was not, or where nobody can tell."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        with (run / HEALTH).open("rb") as file:
            checks = json.loads(file.read(_SIZE_MAX))["checks"]
        return [str(one["name"]) for one in checks if one["required"] and not one["passed"]]
    return []


def touch(root: Path) -> None:
    """Tell who watches that the deployments in ROOT have changed. Raises OSError."""
    watched = root / WATCHED
    watched.mkdir(parents=True, exist_ok=True)
    os.utime(watched)


def is_watched(path: Path) -> bool:
    """Whether PATH, in the top directory of the partition with the store, has what `touch` makes and nothing else."""
    top, _, below = WATCHED.partition("/")
    with suppress(OSError):
        return path.name == top and os.listdir(path) == [below] and not os.listdir(path / below)  # noqa: PTH208
    return False


def read(run: Path = RUN) -> dict[str, Any] | None:
    """The document; None where none was written, or none that can be read."""
    with suppress(OSError, ValueError):
        with (run / NAME).open("rb") as file:
            value = json.loads(file.read(_SIZE_MAX))
        if isinstance(value, dict) and value.get("version") == _VERSION:
            host = value.get("host")
            if isinstance(host, dict) and isinstance(host.get("status"), dict):
                return host
    return None
