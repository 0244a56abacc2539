"""A machine's life: version 1, an upgrade, and back. Three boots answer it all; three more are about PostgreSQL's data.

The images come from a registry, as an operator has them; version 2 changes a page, settings, a package, kernel
arguments and the numbers of users, version 3 adds PostgreSQL.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from boot.computer import Answer, Computer, document, new_key
from boot.conftest import succeeded
from boot.contents import contents_of
from boot.registry import Registry, serving
from bootc_schema import faults

pytestmark = [pytest.mark.machine, pytest.mark.timeout(3600)]  # six boots, on a busy computer

Keelboot = Callable[..., subprocess.CompletedProcess[str]]
NAMED = "localhost/keelboot-test/version:{}"
VERSIONS = Path(__file__).with_name("versions")


def built(keelboot: Keelboot, version: int) -> str:
    name = NAMED.format(version)
    succeeded(keelboot("build", "-t", name, "--build-arg", f"VERSION={version}", VERSIONS, timeout=1200))
    return name


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with serving(tmp_path_factory.mktemp("registry")) as serving_one:
        yield serving_one


@pytest.fixture(scope="module")
def images(keelboot: Keelboot, base: str, registry: Registry) -> dict[int, str]:  # noqa: ARG001 - it has to be there
    """The first two versions, built; `latest` in the registry is the first one."""
    names = {number: built(keelboot, number) for number in (1, 2)}
    registry.push(names[1], "example/web:latest")
    registry.push(names[1], "example/same:1")
    return names


@dataclass
class Life:
    """What the machine answered, by the boot and the question; its disk and key are in PLACE."""

    place: Path
    answers: dict[str, dict[str, Answer]] = field(default_factory=dict)
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)

    def ask(self, computer: Computer, chapter: str, questions: dict[str, str]) -> None:
        answers = self.answers.setdefault(chapter, {})
        for name, command in questions.items():
            answers[name] = computer.ask(command)

    def look(self, computer: Computer, chapter: str) -> None:
        self.statuses[chapter] = json.loads(computer.told("keelboot status --json"))

    def told(self, chapter: str, name: str) -> str:
        answer = self.answers[chapter][name]
        assert answer.status == 0, f"{chapter}: {name}: {answer}"
        return answer.text


STORE = "find /sysroot/composefs/objects -type f -printf '%P\\n'"
SEEN = {
    "page header": "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1/\").headers)'",
    "tree": "command -v tree",
    "etc": "cd /etc/example && for f in *; do echo $f: $(cat $f); done; cat /etc/late 2>/dev/null; cat /etc/hostname",
    "users": "id alice; id teller; id newcomer; stat -c %U:%u /var/lib/tellers",
    "command line": "cat /proc/cmdline",
    "var": "cat /var/lib/mine /home/alice/mine",
    "state": "systemctl is-system-running; systemctl list-units --failed --plain --no-legend",
    "human": "keelboot status --format humanreadable",
    "machine id": "cat /etc/machine-id",
    "sysroot": "findmnt -no OPTIONS /sysroot; ls /boot",
    "health": "keelboot health",
    "as alice": "runuser -u alice -- keelboot status --json",
}
ONCE = {
    "ten at once": "for n in 1 2 3 4 5 6 7 8 9 10; do keelboot status --json >/run/s$n & done; wait; "
    "for n in 1 2 3 4 5 6 7 8 9 10; do python3 -m json.tool /run/s$n >/dev/null || exit 1; done",
    "fsck": "keelboot fsck",
}


@pytest.fixture(scope="module")
def life(
    keelboot: Keelboot, registry: Registry, images: dict[int, str], tmp_path_factory: pytest.TempPathFactory
) -> Life:
    """Everything, in the order in which it happens."""
    place = tmp_path_factory.mktemp("upgrade")
    key = new_key(place)
    disk = place / "machine.img"
    latest = f"docker://{registry.inside}/example/web:latest"
    words = ("disk", "--json", "--ssh-key", key.with_suffix(".pub"), "--target-imgref", latest)
    told = json.loads(succeeded(keelboot(*words, images[1], "-o", disk)))
    life = Life(place)
    life.digests[1] = told["composefs"]
    with Computer(disk, key=key, log=place / "console.log") as machine:
        machine.told(
            f"{registry.trust()} && "
            "useradd -m alice && echo mine >/var/lib/mine && echo mine >/home/alice/mine && "
            "echo machine >/etc/example/both && echo keeper >/etc/hostname && rm /etc/example/old && "
            "install -d -o teller -g teller /var/lib/tellers"
        )
        life.ask(machine, "first", SEEN | ONCE)
        life.look(machine, "first")
        registry.push(images[2], "example/web:latest")
        life.ask(
            machine,
            "first",
            {
                "check": "keelboot upgrade --check",
                "dry run": "keelboot upgrade --dry-run",
                "kargs": "keelboot kargs list",
                "same digest": f"keelboot switch docker://{registry.inside}/example/same:1",
                "store": STORE,
                "upgrade": "keelboot upgrade --progress-fd 3 3>/run/progress",
                "progress": "cat /run/progress",
                "again": "keelboot upgrade",
                "store after": STORE,
                "late": "echo late >/etc/late",
                "etc diff": "keelboot etc diff",
            },
        )
        life.look(machine, "staged")
        machine.reboot()

        life.pages["second"] = machine.page()
        life.ask(machine, "second", SEEN | {"on two": "echo on two >/etc/two", "etc diff": "keelboot etc diff"})
        life.look(machine, "second")
        life.ask(machine, "second", {"rollback": "keelboot rollback"})
        life.look(machine, "queued")
        life.ask(machine, "second", {"rollback again": "keelboot rollback"})
        life.look(machine, "unqueued")
        machine.reboot("keelboot rollback && systemctl reboot")

        life.pages["third"] = machine.page()
        life.ask(machine, "third", SEEN | {"two": "test ! -e /etc/two"})
        life.look(machine, "third")
    return life


@pytest.fixture(scope="module")
def later(keelboot: Keelboot, registry: Registry, life: Life) -> Life:
    """The same machine goes on: to a version with PostgreSQL, back, and there again."""
    registry.push(built(keelboot, 3), "example/web:3")
    sql = "runuser -u postgres -- psql -Atc"
    with Computer(life.place / "machine.img", key=life.place / "key", log=life.place / "later.log") as machine:
        machine.told(f"keelboot switch docker://{registry.inside}/example/web:3")
        life.look(machine, "switched")
        machine.reboot()

        life.ask(
            machine,
            "fourth",
            SEEN
            | {
                "write": f"{sql} 'create table kept (n int)' && {sql} 'insert into kept values (42)'",
                "where": "runuser -u postgres -- sh -c 'ls -d /var/lib/postgresql/*/main/base'",
            },
        )
        life.look(machine, "fourth")
        machine.reboot("keelboot rollback && systemctl reboot")

        life.ask(machine, "fifth", SEEN | ONCE | {"data": "ls -d /var/lib/postgresql/*/main/base"})
        life.look(machine, "fifth")
        life.ask(
            machine,
            "fifth",
            {"gc dry": "keelboot gc --dry-run --json", "gc": "keelboot gc --json", "store after": STORE},
        )
        machine.reboot("keelboot rollback && systemctl reboot")

        life.ask(machine, "sixth", SEEN | {"read": f"{sql} 'select n from kept'"})
        life.look(machine, "sixth")
        life.ask(machine, "sixth", {"reset": "keelboot factory-reset --yes --really"})
        machine.reboot()

        gone = ("/var/lib/mine", "/home/alice", "/etc/late", "/etc/example/both.mine")
        life.ask(
            machine, "reset", {"gone": f"ls -d {' '.join(gone)}", "etc": "cat /etc/example/both", "alice": "id alice"}
        )
        life.look(machine, "reset")
    return life


def slot(life: Life, chapter: str, name: str) -> str | None:
    """The digest in the slot NAME of the status in that CHAPTER."""
    entry = life.statuses[chapter]["status"][name]
    return entry and entry["composefs"]["verity"]


def version(life: Life, chapter: str, name: str) -> str | None:
    entry = life.statuses[chapter]["status"][name]
    return entry and entry["image"]["version"]


def check_status(life: Life, chapter: str) -> None:
    assert faults(life.statuses[chapter]) == []


def check_health(life: Life, chapter: str) -> None:
    assert life.told(chapter, "state") == "running"
    life.told(chapter, "health")
    life.told(chapter, "human")
    sysroot, *boot = life.told(chapter, "sysroot").splitlines()
    assert "ro" in sysroot.split(",")
    assert boot == []
    assert json.loads(life.told(chapter, "as alice"))["status"]["booted"] == life.statuses[chapter]["status"]["booted"]
    assert life.told(chapter, "machine id") == life.told("first", "machine id")
    assert life.told(chapter, "var") == "mine\nmine"


@pytest.mark.parametrize("chapter", ["first", "staged", "second", "queued", "unqueued", "third"])
def test_status_is_bootcs_document(life: Life, chapter: str) -> None:
    check_status(life, chapter)


@pytest.mark.parametrize("chapter", ["first", "second", "third"])
def test_every_boot_is_healthy(life: Life, chapter: str) -> None:
    check_health(life, chapter)


def test_status_may_be_asked_by_many_at_once(life: Life) -> None:
    life.told("first", "ten at once")


def test_the_store_is_sound(life: Life) -> None:
    life.told("first", "fsck")


def test_what_runs_and_what_one_can_go_back_to(life: Life) -> None:
    assert slot(life, "first", "booted") == life.digests[1]
    assert (version(life, "first", "staged"), version(life, "first", "rollback")) == (None, None)
    assert (version(life, "staged", "booted"), version(life, "staged", "staged")) == ("1", "2")
    assert (version(life, "second", "booted"), version(life, "second", "rollback")) == ("2", "1")
    assert life.statuses["second"]["status"]["staged"] is None
    assert life.statuses["queued"]["status"]["rollbackQueued"] is True
    assert life.statuses["unqueued"]["status"]["rollbackQueued"] is False
    assert (version(life, "third", "booted"), version(life, "third", "rollback")) == ("1", "2")


def test_upgrade_says_what_it_does(life: Life) -> None:
    life.told("first", "check")
    life.told("first", "dry run")
    assert "Queued for next boot: " in life.told("first", "upgrade")
    assert life.told("first", "again")
    events = [json.loads(line) for line in life.told("first", "progress").splitlines()]
    assert events[0] == {"type": "Start", "version": "0.1.0"}
    assert {event["type"] for event in events} >= {"ProgressBytes"}
    assert life.answers["first"]["same digest"].status != 0


def test_the_version_that_runs_is_the_one_that_is_served(life: Life) -> None:
    assert life.pages["second"] == "version 2\n"
    assert "X-Version: 2" in life.told("second", "page header")
    assert life.pages["third"] == "version 1\n"
    assert life.answers["first"]["tree"].status != 0
    assert life.told("second", "tree") == "/usr/bin/tree"
    assert life.answers["third"]["tree"].status != 0
    for chapter, number in (("first", 1), ("second", 2), ("third", 1)):
        words = life.told(chapter, "command line").split()
        assert [word for word in words if word.startswith("example.version=")] == [f"example.version={number}"]


def test_etc_is_the_images_with_the_machines_changes(life: Life) -> None:
    first, second, third = (life.answers[chapter]["etc"].text for chapter in ("first", "second", "third"))
    assert first.splitlines() == ["both: machine", "image: image 1", "keeper"]
    # What was changed between staging and the reboot is there as well, and what was removed stays removed.
    assert second.splitlines() == ["both: machine", "image: image 2", "late", "keeper"]
    assert third.splitlines() == ["both: machine", "image: image 1", "late", "keeper"]
    assert "both" in life.told("second", "etc diff")
    life.told("third", "two")


def test_users_keep_their_numbers(life: Life) -> None:
    first, second = (life.answers[chapter]["users"].text for chapter in ("first", "second"))
    assert "uid=501(teller)" in first
    assert "uid=501(teller)" in second
    assert "(newcomer)" in second
    assert "uid=502(newcomer)" in second
    assert "alice" in second
    assert second.splitlines()[-1] == "teller:501"


DOCUMENTS = 60  # beside the contents of files: composefs images, manifests, configs, records of images and layers


def objects(life: Life, chapter: str, name: str) -> set[str]:
    return {line.replace("/", "") for line in life.told(chapter, name).split()}


def test_an_upgrade_adds_only_what_changed(life: Life, images: dict[int, str]) -> None:
    before, after = (objects(life, "first", name) for name in ("store", "store after"))
    old, new = contents_of(images[1]), contents_of(images[2])
    assert before <= after
    assert old.files <= before
    assert new.files - before <= after - before
    assert len(new.files - before) > 5, "nothing changed between the two"
    assert len((after - before) - (new.layers - old.layers)) < DOCUMENTS


@pytest.mark.long
def test_postgresql_works_and_its_data_outlives_a_rollback(later: Life) -> None:
    later.told("fourth", "write")
    assert later.told("fifth", "data") == later.told("fourth", "where")
    assert later.told("sixth", "read") == "42"


@pytest.mark.long
def test_it_goes_where_it_is_sent(later: Life) -> None:
    assert version(later, "switched", "staged") == "3"
    assert [version(later, chapter, "booted") for chapter in ("fourth", "fifth", "sixth")] == ["3", "1", "3"]
    for chapter in ("fourth", "fifth", "sixth"):
        check_status(later, chapter)
        check_health(later, chapter)


@pytest.mark.long
def test_a_factory_reset_brings_the_images_own_etc_and_var_back(later: Life) -> None:
    later.told("sixth", "reset")
    assert later.answers["reset"]["gone"].text.count("No such file") == 4
    assert later.told("reset", "etc") == "image 3"
    assert later.answers["reset"]["alice"].status != 0
    check_status(later, "reset")


@pytest.mark.long
def test_gc_leaves_exactly_what_deployments_need(later: Life, images: dict[int, str]) -> None:
    kept = {entry["why"] for entry in document(later.told("fifth", "gc"))["kept"]}
    assert len(kept) == 2, kept
    left = objects(later, "fifth", "store after")
    first, second, third = (contents_of(name) for name in (images[1], images[2], NAMED.format(3)))
    assert first.files | third.files <= left
    assert len(left - first.layers - third.layers) < DOCUMENTS
    gone = second.layers - first.layers - third.layers
    assert gone
    assert not gone & left
    later.told("fifth", "gc dry")
    later.told("fifth", "fsck")
