import pytest

from keelboot.boot.entries import Entry, Tries

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
        (Tries(left=3), "keelboot-ab12+3.conf"),
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
