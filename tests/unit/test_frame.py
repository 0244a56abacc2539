"""What the project says of itself agrees with what it does."""

import re
import subprocess
from pathlib import Path

import pytest

from keelboot import failure

ROOT = Path(__file__).resolve().parents[2]


def test_exit_codes_are_documented() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", (ROOT / "docs/exit-codes.md").read_text(), re.MULTILINE)
    classes = [thing for thing in vars(failure).values() if isinstance(thing, type) and issubclass(thing, Exception)]
    assert [(int(code), name) for code, name in rows] == sorted((one.exit_code, one.__name__) for one in classes)
    assert len({one.exit_code for one in classes}) == len(classes)


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs/decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")), ids=lambda page: page.name
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_target_of_the_makefile_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    helped = set(re.findall(r'^\t@echo "make (\w+)', makefile, re.MULTILINE))
    assert {"demo", "test", "check", "setup"} <= helped
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    assert helped <= targets


def test_setup_does_not_know_what_it_was_not_told() -> None:
    done = subprocess.run([ROOT / "tools/setup", "--bogus"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "usage: tools/setup" in done.stderr
