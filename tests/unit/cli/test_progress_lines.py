"""bootc's JSON lines, into a pipe."""

import json
import os
from typing import Any

import pytest

from keelboot.cli.progress_lines import to_descriptor
from keelboot.cli.values import BadValue


def events(reader: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in os.read(reader, 1 << 16).splitlines()]


def test_lines_start_and_tell_tasks_in_order() -> None:
    reader, writer = os.pipe()
    progress = to_descriptor(writer, "oci:/x")
    with progress.step("Reading layers", 100) as step:
        for _ in range(10):
            step.advance(10)
    with progress.step("Writing the composefs image"):
        pass
    with progress.step("Staging"):
        pass
    told = events(reader)
    assert told[0] == {"type": "Start", "version": "0.1.0"}
    assert [one["task"] for one in told[1:]] == ["pulling", "importing", "importing", "staging", "staging"]
    assert (told[1]["type"], told[1]["bytes"], told[1]["bytesTotal"]) == ("ProgressBytes", 100, 100)
    assert [one["steps"] for one in told[2:]] == [0, 1, 0, 1]
    assert told[-1]["subtasks"] == [
        {"subtask": "staging", "description": "Staging", "id": "Staging", "completed": True}
    ]
    fields = {"type", "task", "description", "id", "stepsCached", "steps", "stepsTotal", "subtasks"}
    assert set(told[-1]) == fields
    assert set(told[1]) == fields | {"bytesCached", "bytes", "bytesTotal"}
    os.close(reader)
    os.close(writer)


def test_a_reader_that_has_gone_ends_nothing_else() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    progress = to_descriptor(writer, "oci:/x")
    with progress.step("Reading layers", 10) as step:
        step.advance(10)
    os.close(writer)


@pytest.mark.parametrize("number", [-1, 0, 2, 999])
def test_only_a_pipe_will_do(number: int) -> None:
    with pytest.raises(BadValue, match="not an open pipe or file"):
        to_descriptor(number, "x")
