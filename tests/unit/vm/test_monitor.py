import json

import pytest

from keelboot.vm.monitor import Answer, Event, Reader, command

STREAM = (
    b'{"QMP": {"version": {}, "capabilities": ["oob"]}}\r\n{"return": {}, "id": 1}\r\n'
    b'{"timestamp": {"seconds": 1}, "event": "RESET", "data": {"guest": true}}\r\n'
    b'{"event": "STOP"}\r\n{"id": 2, "error": {"class": "GenericError", "desc": "no"}}\r\n'
)
MESSAGES = [Answer(1, {}), Event("RESET", {"guest": True}), Event("STOP"), Answer(2, error="no")]


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_messages_come_in_pieces_of_any_size(size: int) -> None:
    reader = Reader()
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert [message for piece in pieces for message in reader.feed(piece)] == MESSAGES


def test_a_command_is_one_line_of_json() -> None:
    line = command("set-action", 3, reboot="reset")
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"execute": "set-action", "id": 3, "arguments": {"reboot": "reset"}}


def test_a_message_without_end_is_refused() -> None:
    with pytest.raises(ValueError):
        Reader().feed(b"x" * (5 << 20))
