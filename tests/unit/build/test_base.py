import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from keelboot.build import base, engine
from keelboot.failure import BuildFailed, CommandFailed, MissingTool, UnsupportedDistribution

DATE = "Date: Sat, 09 Aug 2025 09:15:44 UTC\n"
needs_apt = pytest.mark.skipif(not Path("/usr/lib/apt/apt-helper").exists(), reason="needs apt")


@pytest.mark.parametrize("name", ["debian:trixie", "localhost/debian:trixie"])
def test_parse(name: str) -> None:
    assert base.parse(name) == ("debian", "trixie")


@pytest.mark.parametrize("name", ["debian", "debian:", "debian:../x", "debian:a b", "debian:$(id)", "debian:Trixie"])
def test_refuses_a_name_without_a_suite(name: str) -> None:
    with pytest.raises(ValueError, match="names no suite"):
        base.parse(name)


@pytest.mark.parametrize("name", ["fedora:40", "", "quay.io/debian:trixie"])
def test_refuses_distributions_it_does_not_know(name: str) -> None:
    with pytest.raises(UnsupportedDistribution):
        base.parse(name)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive with the suites trixie and trixie-security, and a directory for temporary files beside it."""
    for suite in ("trixie", "trixie-security"):
        (tmp_path / "archive/dists" / suite).mkdir(parents=True)
        (tmp_path / "archive/dists" / suite / "InRelease").write_text(DATE)
    (tmp_path / "scratch").mkdir()
    return tmp_path / "archive"


@pytest.fixture(autouse=True)
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be a keyring, whatever this machine has."""
    (tmp_path / "keyring.gpg").touch()
    known = base.Distribution(("main",), str(tmp_path / "keyring.gpg"), "a-keyring", str(tmp_path / "series.csv"))
    monkeypatch.setattr(base, "DISTRIBUTIONS", {"debian": known})


def make(archive: Path, *include: str, suite: str = "trixie", refresh: bool = False) -> base.Made:
    request = base.Request("debian", suite, include, mirror=f"file://{archive}")
    scratch = archive.parent / "scratch"
    try:
        return base.make(
            request, ["localhost/d:1"], engine=engine.find(), scratch=scratch, refresh=refresh, stage=lambda _: None
        )
    finally:
        assert list(scratch.iterdir()) == []


@needs_apt
def test_makes_it_once(home: Path, archive: Path) -> None:
    first = make(archive, "curl", "ca-certificates")
    assert not first.was_there
    assert engine.find().image_id("localhost/d:1") == first.image
    words = (home / "mmdebstrap").read_text().splitlines()
    assert "SOURCE_DATE_EPOCH=1754730944" in words
    assert "--include=ca-certificates,curl" in words
    sources = [word.split()[2:] for word in words if word.startswith("deb ")]
    assert sources == [[f"file://{archive}", suite, "main"] for suite in ("trixie", "trixie-security")]
    assert not any("keelboot-" in name for name in json.loads((home / "store/names.json").read_text()))

    second = make(archive, "ca-certificates", "curl")
    assert (second.image, second.was_there) == (first.image, True)
    assert second.published == first.published
    assert not make(archive, "curl").was_there  # another request
    again = make(archive, "curl", refresh=True)
    assert not again.was_there


@needs_apt
def test_the_same_packages_give_the_same_image(home: Path, archive: Path) -> None:  # noqa: ARG001 - it sets the path
    first = make(archive)
    (archive / "dists/trixie-security/InRelease").write_text(DATE.replace("Sat, 09", "Sun, 10"))
    assert make(archive, refresh=True).image == first.image


@needs_apt
def test_an_image_of_that_name_from_elsewhere_is_not_taken_for_it(home: Path, archive: Path) -> None:
    made = make(archive)
    names = json.loads((home / "store/names.json").read_text())
    names["localhost/d:1"]["history"].append({"created_by": "RUN something"})
    (home / "store/names.json").write_text(json.dumps(names))
    assert not make(archive).was_there
    assert made.image


@needs_apt
def test_an_unknown_suite_is_told_with_what_there_is(home: Path, archive: Path) -> None:  # noqa: ARG001 - the same
    (archive.parent / "series.csv").write_text("version,codename,series\n12,B,bookworm\n13,T,trixie\n,S,sid\n")
    with pytest.raises(CommandFailed) as caught:
        make(archive, suite="trixi")
    assert "has no suite 'trixi'" in caught.value.why
    assert caught.value.fix == "It has: trixie."


@needs_apt
def test_an_unknown_package(home: Path, archive: Path) -> None:  # noqa: ARG001 - it sets the path
    with pytest.raises(BuildFailed) as caught:
        make(archive, "nosuch")
    assert caught.value.why == "E: Unable to locate package nosuch"
    assert "--include" in caught.value.fix


@needs_apt
def test_what_is_no_archive(home: Path, archive: Path) -> None:  # noqa: ARG001 - it sets the path
    (archive / "dists/trixie/InRelease").write_text("<html>")
    with pytest.raises(CommandFailed, match="cannot make debian:trixie from packages"):
        make(archive)


def test_a_missing_keyring(home: Path, archive: Path) -> None:  # noqa: ARG001 - it sets the path
    (archive.parent / "keyring.gpg").unlink()
    with pytest.raises(MissingTool) as caught:
        make(archive)
    assert caught.value.fix == "apt-get install a-keyring"


@pytest.mark.machine
@needs_apt
@pytest.mark.usefixtures("overlay_store")
def test_the_real_thing(tmp_path: Path) -> None:
    """Twice the same image id, and a build that installs a package on it."""
    if base.mirror.release()[0] != "debian":
        pytest.skip("needs a machine whose apt knows a mirror of Debian")
    podman = engine.find()
    request = base.Request("debian", "trixie")
    made = [
        base.make(
            request,
            ["localhost/debian:trixie"],
            engine=podman,
            scratch=Path("/var/tmp"),
            refresh=True,
            stage=lambda _: None,
        )
        for _ in range(2)
    ]
    assert made[0].image == made[1].image

    save = [
        "podman",
        "save",
        "--quiet",
        "--format",
        "oci-dir",
        "--uncompressed",
        "-o",
        tmp_path / "saved",
        made[0].image,
    ]
    subprocess.run(save, check=True)
    manifest = json.loads((tmp_path / "saved/index.json").read_text())["manifests"][0]["digest"].removeprefix("sha256:")
    blobs = tmp_path / "saved/blobs/sha256"
    (layer,) = json.loads((blobs / manifest).read_text())["layers"]
    with tarfile.open(blobs / layer["digest"].removeprefix("sha256:")) as archive:
        members = {member.name.removeprefix("./"): member for member in archive}
        sources = archive.extractfile(members["etc/apt/sources.list"]).read().decode()
    assert not [name for name, member in members.items() if member.isdev()]
    assert members.keys().isdisjoint({"etc/hostname", "etc/resolv.conf", "etc/machine-id", "var/log/dpkg.log"})
    lists = {name.removeprefix("var/lib/apt/lists/") for name in members if name.startswith("var/lib/apt/lists/")}
    assert lists <= {"lock", "partial"}
    assert not [name for name in members if name.startswith("var/cache/apt/archives/") and name.endswith(".deb")]
    assert max(member.mtime for member in members.values()) <= made[0].published.timestamp()
    assert " trixie main" in sources

    (tmp_path / "Containerfile").write_text(
        "FROM debian:trixie\nRUN apt-get update && apt-get install -y --no-install-recommends mount\n"
    )
    assert podman.image_exists(podman.build([str(tmp_path)]))
