"""The verbs that change a machine, where there is none, and what their options refuse."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from keelboot.assembly.record import Record
from keelboot.cli import main, pin, switch
from keelboot.cli.terminal import Terminal
from keelboot.cli.upgrade import show
from keelboot.failure import Failure, ImageNotFound, NotPermitted
from keelboot.host import namespace
from keelboot.host.upgrade import Outcome, Result
from keelboot.image.tree import ObjectId

VERBS = {
    "upgrade": (),
    "switch": ("localhost/web:2",),
    "rollback": (),
    "pin": (),
    "unpin": (),
    "gc": (),
    "fsck": (),
    "etc": ("diff",),
    "kargs": ("list",),
    "usr-overlay": (),
    "factory-reset": ("--yes", "--really"),
    "install": ("remove-old-root", "--acknowledge-destructive"),
}
CHANGING = """
upgrade
upgrade --download-only
upgrade --from-downloaded
switch web
rollback
pin
unpin
gc
fsck --repair
etc reset hosts
kargs set a
kargs unset a
usr-overlay
factory-reset
factory-reset --cancel
install to-disk --image oci:web /dev/vda
install to-filesystem --image oci:web /mnt
install to-existing-root --image oci:web
install remove-old-root
"""
Keelboot = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("verb", VERBS)
def test_where_nothing_is_deployed_it_says_so(verb: str, keelboot: Keelboot) -> None:
    if os.geteuid():
        pytest.skip("only root gets that far")
    done = keelboot(verb, *VERBS[verb])
    assert (done.returncode, done.stdout) == (14, "")
    assert "this machine does not run a deployment" in done.stderr
    told = json.loads(keelboot(verb, *VERBS[verb], "--json").stderr)
    assert (told["error"]["class"], told["error"]["exit_code"]) == ("NotAHost", 14)


def test_others_than_root_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotPermitted, match="only root"):
        namespace.require_root()


@pytest.mark.parametrize("verb", [*VERBS, "health"])
def test_an_ordinary_user_is_told_what_to_do(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main.main([verb, *VERBS.get(verb, ())]) == 15
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "only root may do that\nTry again with sudo." in captured.err


@pytest.mark.parametrize("typed", CHANGING.strip().splitlines())
def test_what_changes_something_has_a_dry_run(typed: str) -> None:
    verb, *words = typed.split()
    assert main.verb_parser(verb).parse_args([*words, "--dry-run"]).dry_run
    assert not main.verb_parser(verb).parse_args(words).dry_run


@pytest.mark.parametrize(
    "words",
    [
        ("upgrade", "--check", "--apply"),
        ("upgrade", "--check", "--soft-reboot=auto"),
        ("upgrade", "--check", "--download-only"),
        ("upgrade", "--check", "--from-downloaded"),
        ("upgrade", "--download-only", "--apply"),
        ("upgrade", "--download-only", "--from-downloaded"),
        ("upgrade", "--from-downloaded", "--tag", "v2"),
        ("upgrade", "--soft-reboot=maybe"),
        ("switch",),
        ("switch", "--transport", "carrier-pigeon", "web"),
        ("gc", "now"),
    ],
)
def test_what_excludes_each_other(words: tuple[str, ...], keelboot: Keelboot) -> None:
    done = keelboot(*words)
    assert done.returncode == 2, done.stderr


@pytest.mark.parametrize(
    ("text", "transport", "reference"),
    [
        ("registry.example.org/web:1", None, "docker://registry.example.org/web:1"),
        ("web:1", None, "containers-storage:web:1"),
        ("web:1", "registry", "docker://web:1"),
        ("docker://example.org/web", "registry", "docker://example.org/web"),
        ("localhost/web", "containers-storage", "containers-storage:localhost/web"),
        ("/srv/web", "oci", "oci:/srv/web"),
        ("oci:/srv/web:tag", "oci", "oci:/srv/web:tag"),
        ("web.tar", "oci-archive", f"oci-archive:{Path.cwd()}/web.tar"),
    ],
)
def test_what_bootc_calls_transports(text: str, transport: str | None, reference: str) -> None:
    assert str(switch.reference(text, transport)) == reference


def test_dockers_daemon_is_not_asked() -> None:
    with pytest.raises(Failure, match="Docker's daemon"):
        switch.reference("web", "docker-daemon")


KNOWN = [Record(digest=ObjectId(digits * 32), image="docker://x/web") for digits in ("ab", "a0", "cd")]


@pytest.mark.parametrize(("text", "index"), [("booted", 0), ("rollback", 2), ("abab", 0), ("CDCD", 2), ("a0" * 32, 1)])
def test_a_version_by_its_place_or_the_start_of_its_digest(text: str, index: int) -> None:
    words = {"booted": KNOWN[0].digest, "rollback": KNOWN[2].digest, "staged": None}
    assert pin.chosen(text, words, KNOWN) == KNOWN[index]


@pytest.mark.parametrize("text", ["staged", "", "a", "ab", "ffff", "web"])
def test_a_version_that_is_not_told_apart(text: str) -> None:
    with pytest.raises(ImageNotFound):
        pin.chosen(text, {"booted": KNOWN[0].digest, "staged": None}, KNOWN)


def test_the_words_that_ansible_looks_for(capsys: pytest.CaptureFixture[str]) -> None:
    """community.general.bootc_manage tells by them what has changed."""
    for result in (Result.STAGED, Result.UNCHANGED):
        show(Terminal(quiet=True), Outcome(result=result, record=KNOWN[0]))
    told = capsys.readouterr().out
    assert "Queued for next boot: docker://x/web\n" in told
    assert "No changes in docker://x/web\n" in told
