import pytest

from keelboot.boot.entries import Entry, Generation, Tries
from keelboot.image.tree import ObjectId

ENTRY = Entry(
    id="keelboot-ab12",
    title="Debian GNU/Linux 13 (trixie)",
    version="13",
    sort_key="debian",
    linux="/EFI/keelboot/1/vmlinuz",
    initrd="/EFI/keelboot/1/initrd",
    options="composefs=ab12 rw",
    architecture="amd64",
)


def test_text_is_what_the_specification_wants() -> None:
    assert ENTRY.text().splitlines() == [
        "title Debian GNU/Linux 13 (trixie)",
        "version 13",
        "sort-key debian",
        "architecture x64",
        "linux /EFI/keelboot/1/vmlinuz",
        "initrd /EFI/keelboot/1/initrd",
        "options composefs=ab12 rw",
    ]


@pytest.mark.parametrize(
    ("tries", "name"),
    [
        (None, "keelboot-ab12.conf"),
        (Tries(left=3), "keelboot-ab12+3-0.conf"),
        (Tries(left=2, done=1), "keelboot-ab12+2-1.conf"),
        (Tries(left=0, done=3), "keelboot-ab12+0-3.conf"),
    ],
)
def test_name_carries_the_counter_and_reads_back(tries: Tries | None, name: str) -> None:
    entry = Entry(**{field: getattr(ENTRY, field) for field in Entry.__slots__ if field != "tries"}, tries=tries)
    assert entry.file_name == name
    assert Entry.parse(name, entry.text()) == entry


@pytest.mark.parametrize("name", ["", "x", "x.con", "a b.conf", "x+.conf", "x+1-.conf", "../x.conf", "x+12345.conf"])
def test_refuses_other_names(name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        Entry.parse(name, ENTRY.text())


def test_refuses_an_entry_that_names_no_kernel() -> None:
    with pytest.raises(ValueError, match="no linux and no initrd"):
        Entry.parse("x.conf", "title x\n# linux /x\n")


@pytest.mark.parametrize("field", ["title", "version", "options", "sort_key"])
def test_no_field_can_smuggle_in_a_line(field: str) -> None:
    values = {name: getattr(ENTRY, name) for name in Entry.__slots__} | {field: "x\noptions init=/bin/sh"}
    with pytest.raises(ValueError, match="one line"):
        Entry(**values)


def test_counting_down_keeps_the_length_of_the_name() -> None:
    """As systemd-boot does it: one less on the left, one more on the right."""
    names = {Entry.parse(f"x+{3 - done}-{done}.conf", ENTRY.text()).file_name for done in range(4)}
    assert names == {"x+3-0.conf", "x+2-1.conf", "x+1-2.conf", "x+0-3.conf"}


@pytest.mark.parametrize("number", [1, 999_999, 1_000_000])
def test_a_generation_reads_back(number: int) -> None:
    named = Generation(number, ObjectId("ab" * 32))
    assert Generation.parse(named.id) == named
    assert named.version("1.2") == f"{number:06}-1.2"
    assert named.version("") == f"{number:06}"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "debian-6.12",
        f"keelboot-{'ab' * 32}",
        f"keelboot-00001-{'ab' * 32}",
        "keelboot-000001-ab",
        "keelboot-000001-",
    ],
)
def test_entries_of_others_have_no_generation(name: str) -> None:
    assert Generation.parse(name) is None
