"""Ports of this computer, looked at before a machine boots that wants them."""

import socket
from collections.abc import Sequence
from dataclasses import replace

from keelboot.failure import PortInUse
from keelboot.vm.forward import Forward


def chosen(forwards: Sequence[Forward]) -> tuple[Forward, ...]:
    """The same forwards with a free number in place of every host port 0.

    Each port is bound once to see that it is free. Raises PortInUse; a port taken between this and QEMU's start is
    reported by QEMU instead.
    """
    held: list[socket.socket] = []
    try:
        return tuple(replace(forward, host=_claim(forward, held)) for forward in forwards)
    finally:
        for one in held:
            one.close()


def _claim(forward: Forward, held: list[socket.socket]) -> int:
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM)
    held.append(one)
    if forward.protocol == "tcp":
        # As QEMU does: a connection of an earlier run in TIME_WAIT is no reason to refuse.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((forward.address, forward.host))
        if forward.protocol == "tcp":
            one.listen(1)  # Two sockets with SO_REUSEADDR may both bind; only one may listen.
    except OSError as error:
        raise PortInUse(
            f"cannot forward {forward.address}:{forward.host} to the machine's port {forward.guest}",
            why=(error.strerror or str(error)).lower(),
            fix=f"Choose another port, or -p 0:{forward.guest} for any free one.",
        ) from error
    return int(one.getsockname()[1])
