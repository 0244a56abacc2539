from keelboot.disk import identifiers


def test_same_seed_same_identifier() -> None:
    assert identifiers.uuid("sha256:ab", "disk") == identifiers.uuid("sha256:ab", "disk")


def test_known_value() -> None:
    """A change here changes every disk: the bytes of a disk are a promise."""
    assert str(identifiers.uuid("sha256:abc", "disk")) == "c0208301-bb8d-8a0b-8834-b1065d9cedd4"


def test_seed_and_role_are_kept_apart() -> None:
    made = {identifiers.uuid(seed, role) for seed, role in [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc")]}
    assert len(made) == 4


def test_is_a_valid_version_8() -> None:
    for number in range(100):
        made = identifiers.uuid(str(number), "disk")
        assert (made.version, made.variant) == (8, "specified in RFC 4122")


def test_volume_id_is_32_bits_and_not_zero() -> None:
    assert all(0 < identifiers.volume_id(str(number), "esp") < 1 << 32 for number in range(1000))
