"""A machine's life: version 1, an upgrade, back, a version with PostgreSQL, back and forth. Six boots answer it all.

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

from boot.computer import Answer, Computer, new_key
from boot.conftest import succeeded
from boot.registry import Registry, serving

pytestmark = pytest.mark.machine

Keelboot = Callable[..., subprocess.CompletedProcess[str]]
VERSIONS = Path(__file__).with_name("versions")


def built(keelboot: Keelboot, version: int) -> str:
    name = f"localhost/keelboot-test/version:{version}"
    succeeded(keelboot("build", "-t", name, "--build-arg", f"VERSION={version}", VERSIONS, timeout=1200))
    return name


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with serving(tmp_path_factory.mktemp("registry")) as serving_one:
        yield serving_one


@pytest.fixture(scope="module")
def images(keelboot: Keelboot, base: str, registry: Registry) -> dict[int, str]:  # noqa: ARG001 - it has to be there
    """The versions, built, and in the registry under their numbers; `latest` is the first one."""
    names = {number: built(keelboot, number) for number in (1, 2, 3)}
    for number, name in names.items():
        registry.push(name, f"example/web:{number}")
    registry.push(names[1], "example/web:latest")
    registry.push(names[1], "example/same:1")
    return names


@dataclass
class Life:
    """What the machine answered, by the boot and the question."""

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


STORE = "find /sysroot/composefs/objects -type f | wc -l; du -sk --apparent-size /sysroot/composefs/objects"
SEEN = {
    "page header": "curl -si http://127.0.0.1/ 2>/dev/null || "
    "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1/\").headers)'",
    "tree": "command -v tree",
    "etc": "cd /etc/example && for f in *; do echo $f: $(cat $f); done; cat /etc/late 2>/dev/null; cat /etc/hostname",
    "users": "id alice; id teller; id newcomer; stat -c %U:%u /var/lib/tellers",
    "command line": "cat /proc/cmdline",
    "var": "cat /var/lib/mine /home/alice/mine",
    "state": "systemctl is-system-running; systemctl list-units --failed --plain --no-legend",
    "human": "keelboot status --format humanreadable",
    "store": STORE,
    "machine id": "cat /etc/machine-id",
    "sysroot": "findmnt -no OPTIONS /sysroot; ls /boot",
    "health": "keelboot health",
    "as alice": "runuser -u alice -- keelboot status --json",
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
    life = Life()
    life.digests[1] = told["composefs"]
    with Computer(disk, key=key, log=place / "console.log") as machine:
        machine.told(
            "mkdir -p /etc/containers/registries.conf.d && "
            f"printf '[[registry]]\\nlocation = \"{registry.inside}\"\\ninsecure = true\\n' "
            ">/etc/containers/registries.conf.d/test.conf && "
            "useradd -m alice && echo mine >/var/lib/mine && echo mine >/home/alice/mine && "
            "echo machine >/etc/example/both && echo keeper >/etc/hostname && rm /etc/example/old && "
            "install -d -o teller -g teller /var/lib/tellers"
        )
        life.ask(machine, "first", SEEN)
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
        life.ask(machine, "third", {"switch": f"keelboot switch docker://{registry.inside}/example/web:3"})
        life.look(machine, "switched")
        machine.reboot()

        sql = "runuser -u postgres -- psql -Atc"
        life.ask(
            machine,
            "fourth",
            SEEN
            | {
                "write": f"{sql} 'create table kept (n int)' && {sql} 'insert into kept values (42)'",
                "pin": "keelboot pin",
                "where": "runuser -u postgres -- ls -d /var/lib/postgresql/*/main/base",
            },
        )
        life.look(machine, "fourth")
        machine.reboot("keelboot rollback && systemctl reboot")

        life.ask(machine, "fifth", SEEN | {"data": "ls -d /var/lib/postgresql/*/main/base"})
        life.look(machine, "fifth")
        life.ask(machine, "fifth", {"gc dry": "keelboot gc --dry-run --json", "gc": "keelboot gc"})
        machine.reboot("keelboot rollback && systemctl reboot")

        life.ask(machine, "sixth", SEEN | {"read": f"{sql} 'select n from kept'"})
        life.look(machine, "sixth")
    (place / "life.json").write_text(
        json.dumps({c: {n: str(a) for n, a in q.items()} for c, q in life.answers.items()} | life.statuses, indent=1)
    )
    return life
