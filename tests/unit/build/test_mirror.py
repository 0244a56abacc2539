from datetime import UTC, datetime
from pathlib import Path

import pytest

from keelboot.build import mirror
from keelboot.build.mirror import Source, Target
from keelboot.failure import CommandFailed

OWN = [
    Target("http://a.invalid/debian", "bookworm-backports"),
    Target("http://a.invalid/debian", "bookworm"),
    Target("http://b.invalid/debian", "bookworm"),
    Target("http://a.invalid/debian", "bookworm-updates"),
    Target("http://a.invalid/debian-security", "bookworm-security"),
]


def test_another_suite_is_where_the_machines_own_is() -> None:
    main, companions = mirror.candidates("trixie", "bookworm", OWN)
    assert main == Source("http://a.invalid/debian", "trixie")
    assert companions == [
        Source("http://a.invalid/debian", "trixie-updates"),
        Source("http://a.invalid/debian-security", "trixie-security"),
    ]


def test_a_machine_without_companions_gives_none() -> None:
    assert mirror.candidates("sid", "bookworm", OWN[1:2]) == (Source("http://a.invalid/debian", "sid"), [])


def test_a_machine_without_the_archive_gives_nothing() -> None:
    assert mirror.candidates("trixie", "noble", OWN) == (None, [])
    assert mirror.candidates("trixie", "", []) == (None, [])


def test_a_mirror_that_is_named_is_the_only_one() -> None:
    main, companions = mirror.at("http://c.invalid/ubuntu/", "noble")
    assert {source.uri for source in [main, *companions]} == {"http://c.invalid/ubuntu"}
    assert [source.suite for source in companions] == ["noble-updates", "noble-security"]


def test_source_line() -> None:
    line = Source("http://a.invalid/debian", "trixie").line(("main", "contrib"), "/k.gpg")
    assert line == "deb [signed-by=/k.gpg] http://a.invalid/debian trixie main contrib"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('ID=debian\nVERSION_CODENAME=trixie\nID_LIKE="x"\n', ("debian", "trixie")),
        ("ID='ubuntu'\nVERSION_CODENAME=\"noble\"\n", ("ubuntu", "noble")),
        ("NAME=x\n", ("", "")),
    ],
)
def test_release(tmp_path: Path, text: str, told: tuple[str, str]) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(text)
    assert mirror.release(tmp_path) == told
    assert mirror.release(tmp_path / "etc") == ("", "")


@pytest.mark.skipif(not Path("/usr/lib/apt/apt-helper").exists(), reason="needs apt")
class TestChanged:
    def archive(self, directory: Path, text: str) -> Source:
        (directory / "dists/trixie").mkdir(parents=True)
        (directory / "dists/trixie/InRelease").write_text(text)
        return Source(f"file://{directory}", "trixie")

    def test_reads_the_date(self, tmp_path: Path) -> None:
        source = self.archive(tmp_path, "Origin: Debian\nDate: Sat, 09 Aug 2025 09:15:44 UTC\n")
        assert mirror.changed(source, tmp_path) == datetime(2025, 8, 9, 9, 15, 44, tzinfo=UTC)

    def test_a_suite_that_is_not_there(self, tmp_path: Path) -> None:
        self.archive(tmp_path, "")
        assert mirror.changed(Source(f"file://{tmp_path}", "nosuch"), tmp_path) is None

    @pytest.mark.parametrize("text", ["<html>welcome</html>", "Date: yesterday\n"])
    def test_what_is_no_release_file(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ValueError, match=r"no date|Invalid date"):
            mirror.changed(self.archive(tmp_path, text), tmp_path)

    def test_an_archive_that_does_not_answer(self, tmp_path: Path) -> None:
        with pytest.raises(CommandFailed, match="cannot look at the suite"):
            mirror.changed(Source("no-such-method://127.0.0.1", "trixie"), tmp_path)
