"""Keys to sign with."""

import pytest

from keelboot.trust.keyfiles import generate


@pytest.fixture(scope="session")
def keys():
    return [generate() for _ in range(3)]


@pytest.fixture(scope="session")
def key(keys):
    return keys[0]
