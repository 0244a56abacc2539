"""Where the settings of automatic updates are found.

keelboot-update.timer runs `keelboot upgrade --automatic` a few times a day, which goes as far as the settings say but
never restarts. While something is staged, keelboot-update-window.service asks every few minutes whether a window is
open, and restarts then. So one place restarts, and nothing runs while nothing waits.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from keelboot.host import autoupdate
from keelboot.host.autoupdate import Settings


def settings(root: Path = Path("/")) -> Settings:
    """The settings of the machine at ROOT. Raises InvalidSettings, and OSError where a file cannot be read."""
    found = []
    for name in autoupdate.FILES:
        try:
            found.append((f"/{name}", (root / name).read_bytes()))
        except FileNotFoundError:
            continue
    return autoupdate.parse(found)


def describe(root: Path = Path("/"), now: datetime | None = None) -> dict[str, Any]:
    """How the machine at ROOT updates itself, for its status.

    NOW is a local time without zone. Raises InvalidSettings and OSError.
    """
    wanted = settings(root)
    opens = autoupdate.decide(now or datetime.now().replace(microsecond=0), wanted).opens  # noqa: DTZ005 - local is meant
    return {
        "mode": str(wanted.mode),
        "windows": [window.text for window in wanted.windows],
        "opens": opens.isoformat() if opens else None,
    }
