"""Messages for the journal that programs can find: systemd's native protocol, one datagram a message.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL
"""

import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

SOCKET: Final = Path("/run/systemd/journal/socket")
WARNING: Final = 4  # priorities of syslog(3)
NOTICE: Final = 5
_LONGEST = 64 * 1024  # bytes; a datagram has to fit the socket's buffer


def send(message: str, message_id: str, *, priority: int, path: Path = SOCKET, **fields: str) -> None:
    """Put MESSAGE into the journal, with MESSAGE_ID (32 hexadecimal digits) and further FIELDS in capitals.

    Where no journal listens nothing happens: it is a message, not a record.
    """
    whole = {"MESSAGE": message, "MESSAGE_ID": message_id, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": "keelboot"}
    data = b"".join(_field(name, value.encode(errors="replace")) for name, value in (whole | fields).items())
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(data, str(path))


def _field(name: str, value: bytes) -> bytes:
    # The form with a length is the only one that holds line breaks.
    kept = value[:_LONGEST]
    return name.encode() + b"\n" + len(kept).to_bytes(8, "little") + kept + b"\n"
