"""The verbs of /etc, kernel arguments, /usr and the factory reset, here where no deployment runs."""

import subprocess
from collections.abc import Callable

import pytest

from keelboot.cli import factory_reset
from keelboot.cli.etc import _printable
from keelboot.cli.main import verb_parser
from keelboot.cli.terminal import Terminal
from keelboot.cli.values import BadValue

Keelboot = Callable[..., subprocess.CompletedProcess[str]]
WORDS = [
    ["etc", "diff"],
    ["etc", "show", "fstab"],
    ["etc", "reset", "fstab"],
    ["kargs", "list"],
    ["kargs", "set", "a=1"],
    ["kargs", "unset", "a"],
    ["usr-overlay"],
    ["usroverlay", "--read-only"],
    ["factory-reset", "--dry-run"],
    ["factory-reset", "--yes", "--really"],
]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_no_machine_of_keelboots(words: list[str], keelboot: Keelboot) -> None:
    done = keelboot(*words)
    assert done.returncode in (14, 15)  # which of the two comes first: not root, or not a host
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("words", [["etc"], ["etc", "frobnicate"], ["kargs", "set"], ["kargs"], ["etc", "show"]])
def test_what_is_not_understood(words: list[str], keelboot: Keelboot) -> None:
    assert keelboot(*words).returncode == 2


def test_a_factory_reset_is_confirmed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(quiet=True)
    parser = verb_parser("factory-reset")
    terminal.interactive = False
    assert factory_reset._confirmed(parser.parse_args(["--yes", "--really"]), terminal)
    for words in ([], ["--yes"], ["--really"]):
        with pytest.raises(BadValue, match="cannot reset this machine"):
            factory_reset._confirmed(parser.parse_args(words), terminal)
    terminal.interactive = True
    host = factory_reset.os.uname().nodename
    for answers, expected in ((["y", host], True), (["y", "other"], False), (["n"], False), ([""], False)):
        left = list(answers)
        monkeypatch.setattr("builtins.input", lambda _, left=left: left.pop(0))
        assert factory_reset._confirmed(parser.parse_args([]), terminal) is expected
        assert left == []


@pytest.mark.parametrize(
    ("text", "shown"), [("ä b", "ä b"), ("\x1b[2J", "\\x1b[2J"), ("\udcff", "\\udcff"), ("a\nb", "a\\nb")]
)
def test_names_do_nothing_to_the_terminal(text: str, shown: str) -> None:
    assert _printable(text) == shown
