"""Whether this machine may restart by itself now: ends with 0 if so, else with 1, as systemd's ExecCondition= reads it.

keelboot-update-window.service asks right before it restarts. No settings that can be read, no restart.
"""

import sys
from datetime import datetime
from typing import NoReturn


def entry() -> NoReturn:
    """Ask, and say why not."""
    why = refusal(datetime.now())  # noqa: DTZ005 - windows are in local time
    if why:
        print(f"keelboot: no restart: {why}", file=sys.stderr)
    sys.exit(1 if why else 0)


def refusal(now: datetime) -> str:
    """Why there may be no restart at NOW, a local time; empty if there may."""
    from keelboot.failure import Failure
    from keelboot.host import automatic, autoupdate, published

    document = published.read()
    staged = document["status"].get("staged") if document else None
    if not staged or staged.get("downloadOnly"):
        return "nothing is staged"
    try:
        settings = automatic.settings()
    except (Failure, OSError) as error:
        return " ".join(str(error).split())
    decision = autoupdate.decide(now, settings)
    if decision.reboot:
        return ""
    return (
        f"the next window opens at {decision.opens:%a %Y-%m-%d %H:%M}" if decision.opens else f"mode is {settings.mode}"
    )


if __name__ == "__main__":
    entry()
