"""Waiting for a machine to be up, and knowing when it never will be.

The guest's announcement ends the wait. An image without one is up when its login prompt or sshd's banner is there and
no announcement has followed within half the time that took: units that come later than the prompt get that long.
"""

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from keelboot.failure import BootFailed
from keelboot.vm.announcement import Announcement
from keelboot.vm.console import Meaning
from keelboot.vm.lifetime import Running, first_sign

_RESTARTS = 4  # boot counting gives a version three tries, and then comes the version before it
_SHORTEST_SETTLING = 3.0  # seconds
_BANNER_WITHIN = 5.0  # a connection forwarded into a guest without network stays open and silent
_BETWEEN_CONNECTIONS = 1.0


class NoSignOfLife(BootFailed):
    """Not even the firmware got to write anything: the fault is rather the acceleration's than the image's."""


@dataclass(frozen=True, slots=True)
class Up:
    """A machine that is up: after how many seconds, and what it said of itself if it said anything."""

    seconds: float
    announcement: Announcement | None


def wait_for_life(guest: Running, *, within: float) -> None:
    """Wait for the first byte on the console. Raises NoSignOfLife, or what `Running.early_end` tells."""
    guest.wait(lambda: guest.console.size or guest.stopped(), within=within)
    if guest.ended:
        raise guest.early_end()
    if not guest.console.size:
        told = guest.failure(guest.stopped() or f"nothing on its console within {within:.0f} s")
        raise NoSignOfLife(told.what, why=told.why, fix="Try --accel tcg.")


def wait_until_up(
    guest: Running, *, within: float, ssh: tuple[str, int] | None = None, may_restart: bool = False
) -> Up:
    """Wait until GUEST is up, at most WITHIN seconds since its start.

    SSH is the address here that leads to its sshd; where given, an answer from there is waited for as well. MAY_RESTART
    lets a boot fail and be tried again, as boot counting does, until the time is over. Raises BootFailed.
    """
    deadline = guest.started + within
    with _Banner(guest, ssh) as banner:
        settled, restarts, old_signs = None, 0, 0
        while True:
            announcement = guest.announcements[-1] if guest.announcements else None
            if guest.restarts != restarts:  # what the boot before had shown says nothing about this one
                settled, restarts, old_signs = None, guest.restarts, len(guest.signs)
                banner.start_again()
            weak = banner.seen if ssh else first_sign(guest.signs[old_signs:], Meaning.LOGIN)
            now = time.monotonic()
            if weak and settled is None:
                settled = now + max(_SHORTEST_SETTLING, (now - guest.started) / 2)
            if (announcement and (banner.seen or not ssh)) or (settled is not None and now >= settled):
                return Up(now - guest.started, announcement)
            _see_whether_hopeless(guest, may_restart=may_restart)
            if now >= deadline:
                raise _too_late(guest, within, banner if ssh else None)
            banner.connect_if_due(now)
            next_look = min(time for time in (deadline, settled, banner.due) if time is not None)
            _wait_for_news(guest, banner, within=next_look - now)


def _wait_for_news(guest: Running, banner: "_Banner", *, within: float) -> None:
    def known() -> tuple[object, ...]:
        return len(guest.announcements), len(guest.signs), len(guest.events), banner.seen, banner.due

    before = known()
    guest.wait(lambda: known() != before, within=within)


def _see_whether_hopeless(guest: Running, *, may_restart: bool) -> None:
    """Raise BootFailed where waiting longer is no use."""
    if guest.ended:
        raise guest.early_end()
    stopped = guest.stopped()
    if stopped:
        raise guest.failure(stopped)
    dead = first_sign(guest.signs, Meaning.DEAD)
    if dead and not may_restart:
        guest.wait(lambda: None, within=0.5)  # the lines that follow explain it
        raise guest.failure(dead.why, fix=dead.fix)
    if guest.restarts > _RESTARTS and not may_restart:
        raise guest.failure(f"it restarted {guest.restarts} times")


def _too_late(guest: Running, within: float, banner: "_Banner | None") -> BootFailed:
    dead = first_sign(guest.signs, Meaning.DEAD)
    if dead:
        return guest.failure(f"after {within:.0f} s it was not up, and {dead.why}", fix=dead.fix)
    if banner and (guest.announcements or first_sign(guest.signs, Meaning.LOGIN)):
        return guest.failure(
            f"it booted, but no SSH server answered within {within:.0f} s",
            fix="The image needs an SSH server that is enabled (openssh-server) and a network; or use --console.",
        )
    return guest.failure(
        f"it was not up after {within:.0f} s", fix="Give it longer with --timeout, or watch --console."
    )


class _Banner:
    """Connections to the forwarded port until sshd's first words come back; without an address, nothing."""

    def __init__(self, guest: Running, address: tuple[str, int] | None) -> None:
        self.seen = False
        self.due: float | None = 0.0 if address else None
        self._guest, self._address = guest, address
        self._connection: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def start_again(self) -> None:
        """Forget an answer that came before the machine restarted."""
        self.seen, self.due = False, 0.0 if self._address else None

    def connect_if_due(self, now: float) -> None:
        """Try anew where the last connection brought nothing."""
        if self.due is None or now < self.due or self._address is None:
            return
        self._close()
        self.due = now + _BANNER_WITHIN
        self._connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._connection.setblocking(False)
        self._connection.connect_ex(self._address)
        self._guest.watch(self._connection.fileno(), self._read)

    def _read(self) -> None:
        assert self._connection is not None
        data = b""
        with suppress(OSError):
            data = self._connection.recv(256)
        self._close()
        if data.startswith(b"SSH-"):
            self.seen, self.due = True, None
        else:
            self.due = time.monotonic() + _BETWEEN_CONNECTIONS

    def _close(self) -> None:
        if self._connection is not None:
            self._guest.unwatch(self._connection.fileno())
            self._connection.close()
            self._connection = None
