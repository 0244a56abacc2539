import threading
import time

import pytest

from keelboot.image.readahead import read_ahead


def test_gives_all_in_order():
    blocks = [bytes([number]) for number in range(200)]
    with read_ahead(iter(blocks)) as ahead:
        assert list(ahead) == blocks


def test_runs_ahead_and_not_far():
    made = []
    with read_ahead(made.append(number) or b"x" for number in range(100)) as ahead:
        next(ahead)
        time.sleep(0.1)
        assert 2 <= len(made) <= 8


def test_raises_what_the_maker_raises_in_its_place():
    def blocks():
        yield b"1"
        raise ValueError("damaged")

    with read_ahead(blocks()) as ahead:
        assert next(ahead) == b"1"
        with pytest.raises(ValueError, match="damaged"):
            next(ahead)


def test_leaving_stops_the_thread():
    made = []
    before = threading.active_count()
    with read_ahead(made.append(number) or b"x" for number in range(500)) as ahead:
        next(ahead)
    assert threading.active_count() == before
    assert len(made) < 20
