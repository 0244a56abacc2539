"""What the units of a machine run while it boots: `python3 -I -m keelboot.cli.internals STEP`. Nobody types it.

boot        keelboot-boot.service: notes that the init runs; remembers which versions failed; shows users the status
health      keelboot-health.service: notes that everything is up, runs the checks, ends with 19 where one failed
bless       keelboot-bless.service: notes that this boot is good; a version on trial is kept
collect     keelboot-collect.service: after that, removes what the machine does not need any more
timeout     keelboot-trial.service: notes what was still waited for; the unit restarts the machine
emergency   emergency.service: on trial, notes what failed and restarts; otherwise the shell opens
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from keelboot import command
from keelboot.durable import replacing
from keelboot.failure import Failure, Unhealthy
from keelboot.host import namespace, published, trial
from keelboot.host.boots import Stage
from keelboot.host.sysroot import Sysroot
from keelboot.image.tree import ObjectId

MACHINE = Sysroot(Path("/sysroot"), Path("/nonexistent"))  # to look at: read-only, and without an ESP


def entry() -> NoReturn:
    """Do the step that is named and exit."""
    try:
        code = STEPS[sys.argv[1]]()
    except Failure as failure:
        code = _told(failure)
    except OSError as error:
        from keelboot.cli.main import as_failure

        known = as_failure(error)
        if known is None:
            raise
        code = _told(known)
    sys.exit(code)


def boot() -> int:
    """The init runs. Versions whose tries ran out are remembered as failed."""
    booted = namespace.require_booted()
    _note(booted, Stage.INIT)
    from keelboot.host import facts, status  # only now: the line above tells how far a boot came that ends here

    try:
        with namespace.reading() as sysroot:
            facts.publish(sysroot, changed=False)
            if not trial.exhausted(sysroot, booted):
                return 0
    except Failure:
        published.write(status.document(facts.collect()))  # without the boot entries, and with the reason
        raise
    with namespace.changing() as sysroot:
        for failure in trial.settle(sysroot, booted, time.time()):
            _say(f"<4>{failure.image or failure.digest.hex} failed {failure.tries} times: {failure.reason}")
        facts.publish(sysroot)
    return 0


def health() -> int:
    """Everything is up: is it healthy? What was found is in /run/keelboot/health.json."""
    from keelboot.cli.health import line
    from keelboot.host import health

    booted = namespace.require_booted()
    _note(booted, Stage.UP)
    report = health.check(done=lambda check: _say(line(check)))
    with replacing(MACHINE.run / published.HEALTH) as file:
        file.write(json.dumps({"version": 1, **report.value()}, ensure_ascii=False).encode() + b"\n")
    if report.passed:
        return 0
    _note(booted, Stage.UNHEALTHY, report.reason)
    _afterwards(passed=False)
    _say(f"<3>not healthy: {report.reason.splitlines()[0]}")
    return Unhealthy.exit_code


def bless() -> int:
    """It is healthy, so it stays."""
    from keelboot.host import bless, facts

    booted = namespace.require_booted()
    if not bless.due(MACHINE, booted):
        with namespace.noting() as sysroot:
            bless.good(sysroot, booted)
        _afterwards(passed=True)
        return 0
    with namespace.changing() as sysroot:
        bless.bless(sysroot, booted)
        facts.publish(sysroot)
    # In a service of its own: the boot is over, and need not look as if it were not.
    command.run(["systemctl", "start", "--no-block", "keelboot-collect.service"], purpose="remove what is not needed")
    _afterwards(passed=True)
    return 0


def collect() -> int:
    """What was kept for the case that this version fails is needed no longer."""
    from keelboot.host import facts, garbage

    with namespace.changing() as sysroot:
        found = garbage.collect(sysroot, namespace.require_booted())
        facts.publish(sysroot, changed=not found.nothing)
    return 0


def timeout() -> int:
    """It has not proved itself in time: what was it waiting for?"""
    from keelboot.host import health

    waiting, failed = health.waited_for(), health.failed_units()
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    told = f"after {uptime:.0f} s {' '.join(waiting) or 'nothing'} was still waited for"
    text = told + (f"\nfailed: {' '.join(failed)}" if failed else "")
    _note(namespace.require_booted(), Stage.TIMEOUT, text)
    _say(f"<3>giving this version up: {told}")
    return 0


def emergency() -> int:
    """The boot has ended in emergency mode: on trial, that is the end of this try."""
    from keelboot.host import health

    if not trial.on_trial(MACHINE):
        return 0
    failed = " ".join(health.failed_units()) or "no unit is known to have failed"
    _note(namespace.require_booted(), Stage.UNHEALTHY, f"it ended in emergency mode ({failed})")
    command.run(["systemctl", "--force", "reboot"], purpose="restart")
    return 0


def _note(booted: ObjectId, stage: Stage, text: str = "") -> None:
    """Add to the record of this boot. What else is to be done does not end because the disk cannot be written."""
    try:
        with namespace.noting() as sysroot:
            trial.note(sysroot, booted, stage, text)
            if stage is Stage.INIT:
                trial.trim(sysroot, booted)
                with suppress(OSError):
                    published.touch(sysroot.root)
    except (Failure, OSError) as error:
        _say(f"<4>this boot's record cannot be written: {' '.join(str(error).split())}")


def _told(failure: Failure) -> int:
    _say(f"<3>{failure}")  # sd-daemon(3): an error
    return failure.exit_code


def _afterwards(*, passed: bool) -> None:
    """Run greenboot's programs for after the checks, and tell what came of each."""
    from keelboot.cli.health import line
    from keelboot.host import health

    for one in health.afterwards(passed=passed):
        _say(line(one))


def _say(text: str) -> None:
    print(text, flush=True)


STEPS: Mapping[str, Callable[[], int]] = {
    "boot": boot,
    "health": health,
    "bless": bless,
    "collect": collect,
    "timeout": timeout,
    "emergency": emergency,
}

if __name__ == "__main__":
    entry()
