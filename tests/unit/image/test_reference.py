import pytest

from keelboot.failure import Failure
from keelboot.image.reference import Reference, Transport

HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "transport", "location", "tag", "canonical"),
    [
        ("web", "containers-storage", "web", None, "containers-storage:web"),
        ("web:1", "containers-storage", "web", "1", "containers-storage:web:1"),
        ("localhost/web", "containers-storage", "localhost/web", None, "containers-storage:localhost/web"),
        (
            "localhost/a/b:1.2-x",
            "containers-storage",
            "localhost/a/b",
            "1.2-x",
            "containers-storage:localhost/a/b:1.2-x",
        ),
        ("team/web:1", "containers-storage", "team/web", "1", "containers-storage:team/web:1"),
        (f"sha256:{HEX}", "containers-storage", "sha256", HEX, f"containers-storage:sha256:{HEX}"),
        (HEX, "containers-storage", HEX, None, f"containers-storage:{HEX}"),
        (
            "containers-storage:quay.io/x/y:1",
            "containers-storage",
            "quay.io/x/y",
            "1",
            "containers-storage:quay.io/x/y:1",
        ),
        ("quay.io/x/y:1", "docker", "quay.io/x/y", "1", "docker://quay.io/x/y:1"),
        ("localhost:5000/x", "docker", "localhost:5000/x", None, "docker://localhost:5000/x"),
        ("docker://web", "docker", "web", None, "docker://web"),
        ("docker:24", "containers-storage", "docker", "24", "containers-storage:docker:24"),
        ("oci:/srv/x", "oci", "/srv/x", None, "oci:/srv/x"),
        ("oci:x:1", "oci", "x", "1", "oci:x:1"),
        (
            "oci-archive:x.tar:localhost/web:1",
            "oci-archive",
            "x.tar",
            "localhost/web:1",
            "oci-archive:x.tar:localhost/web:1",
        ),
        ("docker-archive:X y.tar", "docker-archive", "X y.tar", None, "docker-archive:X y.tar"),
    ],
)
def test_parses(text, transport, location, tag, canonical):
    reference = Reference.parse(text)
    assert (reference.transport, reference.location, reference.tag) == (transport, location, tag)
    assert str(reference) == canonical
    assert Reference.parse(canonical) == reference


def test_digest():
    reference = Reference.parse(f"quay.io/x@sha256:{HEX}")
    assert (reference.location, reference.tag, str(reference.digest)) == ("quay.io/x", None, f"sha256:{HEX}")
    assert str(reference) == f"docker://quay.io/x@sha256:{HEX}"
    assert reference.name == f"quay.io/x@sha256:{HEX}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "Web",
        "web:",
        "web:-x",
        "web:" + "x" * 129,
        "web/",
        "/web",
        "a//b",
        "web@sha256:x",
        "web@",
        "we b",
        "wéb",
        "oci:",
        "oci-archive::x",
        "docker://",
        "docker://quay.io/",
        "containers-storage:",
        "containers-storage:[vfs@/x]web",
        "x/" * 200 + "x",
        "web\n",
        "-web",
        "--root=/x",
        "oci:\0",
    ],
)
def test_refuses(text):
    with pytest.raises(Failure) as failure:
        Reference.parse(text)
    assert failure.value.fix


@pytest.mark.parametrize("text", ["./x", "/srv/x", "../x", "~/x", "."])
def test_a_path_without_a_transport(text):
    with pytest.raises(Failure) as failure:
        Reference.parse(text)
    assert f"oci:{text}" in failure.value.fix
    assert f"oci-archive:{text}" in failure.value.fix


def test_an_archive_without_a_transport():
    with pytest.raises(Failure) as failure:
        Reference.parse("web.tar")
    assert "oci-archive:web.tar or docker-archive:web.tar" in failure.value.fix


@pytest.mark.parametrize("text", ["dir:x", "docker-daemon:web:1", "ostree-unverified-registry:quay.io/x"])
def test_transports_that_are_not_supported(text):
    with pytest.raises(Failure, match="not supported"):
        Reference.parse(text)


def test_the_constructor_is_no_way_round():
    with pytest.raises(ValueError, match="not the name"):
        Reference(Transport.STORAGE, "--root=/x")
    with pytest.raises(ValueError, match="not a tag"):
        Reference(Transport.REGISTRY, "x", "a b")
