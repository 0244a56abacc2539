import pytest

from keelboot.image.refusal import Refused
from keelboot.store.meta import Meta, Newer


@pytest.mark.parametrize(
    "meta", [Meta("sha256"), Meta("sha512"), Meta("sha256", ("nice",)), Meta("sha256", (), ("newer", "é"))]
)
def test_what_is_written_is_read(meta: Meta) -> None:
    assert Meta.parse(meta.encode()) == meta
    assert meta.writable == (not meta.read_only_compatible)


def test_the_bytes_are_those_of_every_disk_that_was_written() -> None:
    assert Meta("sha256").encode() == (
        b'{\n  "version": 1,\n  "algorithm": "fsverity-sha256-12",\n'
        b'  "features": {"compatible": [], "read-only-compatible": [], "incompatible": []}\n}\n'
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version": 1', b'"version": 2'),
        (b"sha256-12", b"sha256-16"),
        (b'"incompatible": []', b'"incompatible": ["unheard-of"]'),
    ],
)
def test_what_is_newer_is_left_alone(old: bytes, new: bytes) -> None:
    with pytest.raises(Newer):
        Meta.parse(Meta("sha256").encode().replace(old, new))


def test_every_flipped_bit_is_found() -> None:
    data = Meta("sha256").encode()
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(Refused):
            Meta.parse(bytes(damaged))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", Meta("sha256").encode()[:-1], Meta("sha256").encode() * 2])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        Meta.parse(data)
