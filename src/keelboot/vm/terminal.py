"""The guest's serial console on this terminal: every key goes there but Ctrl-], which leaves."""

import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from keelboot.vm.lifetime import Running

LEAVE = b"\x1d"  # Ctrl-], as in telnet and virsh
_READ = 4096


def attach(guest: Running, keyboard: int) -> bool:
    """Type what comes from the descriptor KEYBOARD until Ctrl-] or the machine's end; whether the user left.

    A keyboard that ends (a file, a pipe) leaves the console open. Raises nothing of its own; the terminal has its
    settings back however this ends.
    """
    left = False

    def typed() -> None:
        nonlocal left
        try:
            data = os.read(keyboard, _READ)
        except OSError:
            data = b""  # the terminal is gone
        if not data:
            guest.unwatch(keyboard)
        before, found, _ = data.partition(LEAVE) if os.isatty(keyboard) else (data, b"", b"")
        guest.type(before)
        left = bool(found)

    with _raw(keyboard):
        try:
            guest.watch(keyboard, typed)
        except PermissionError:  # epoll watches no regular files and no /dev/null: these are read to their end at once
            while data := os.read(keyboard, _READ):
                guest.type(data)
        try:
            guest.wait(lambda: left or guest.stopped())
        finally:
            guest.unwatch(keyboard)
    return left


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    if not os.isatty(terminal):
        yield
        return
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
