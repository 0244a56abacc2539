import pytest

from keelboot.image.tree import ObjectId
from keelboot.store import names

NAME = ObjectId("ab" + "c" * 62)


def test_a_link_leads_to_its_object() -> None:
    assert names.target(NAME) == f"../objects/ab/{'c' * 62}"
    assert names.linked(names.target(NAME)) == NAME
    long = ObjectId("0" * 128)
    assert names.linked(names.target(long)) == long


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"../objects/ab/{'c' * 61}",
        f"../objects/ab/{'C' * 62}",
        f"../objects/ab/{'c' * 62}\n",
        f"../../objects/ab/{'c' * 62}",
        f"objects/ab/{'c' * 62}",
        f"../objects/a/b{'c' * 62}",
        "/etc/passwd",
    ],
)
def test_other_links_lead_nowhere(text: str) -> None:
    assert names.linked(text) is None


@pytest.mark.parametrize(
    ("reference", "file"),
    [
        ("containers-storage:localhost/web:1", "containers-storage:localhost%2Fweb:1"),
        ("oci:/srv/a b:v1", "oci:%2Fsrv%2Fa%20b:v1"),
        ("..", "%2E."),
        ("100%", "100%25"),
        ("ü", "%C3%BC"),
        ("\udcff", "%FF"),
    ],
)
def test_a_reference_is_one_file(reference: str, file: str) -> None:
    assert names.reference_file(reference) == file
    assert names.reference_called(file) == reference


@pytest.mark.parametrize("reference", ["", "x" * 256, "/" * 86])
def test_a_reference_too_long_for_a_file_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match="file's name"):
        names.reference_file(reference)


@pytest.mark.parametrize("file", ["a b", "%2f", "%41", ".draft", "%", "a%2", ""])
def test_files_that_no_reference_has(file: str) -> None:
    assert names.reference_called(file) is None


def test_other_names() -> None:
    assert names.object_at("ab", "c" * 62) == NAME
    assert names.object_at("ab", "c" * 63) is None
    assert names.object_at("aB", "c" * 62) is None
    assert names.image_called(NAME.hex) == NAME
    assert names.image_called("x") is None
    assert str(names.layer_called(f"sha256:{'0' * 64}")) == f"sha256:{'0' * 64}"
    assert names.layer_called("sha256:0") is None
