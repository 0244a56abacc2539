"""What bootc's own tests ask of a machine, and what a user can get wrong on one: one machine answers for all of it.

The numbers are those of bootc's tests (tmt/tests/booted). Versions differ by a few files from one image, so no boot is
spent on anything but a question that only a boot answers.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from boot.computer import Answer, Computer, document, new_key
from boot.conftest import Built, Keelboot, succeeded
from boot.derived import derive
from boot.registry import Registry, serving
from bootc_schema import faults
from keelboot.composefs.verity import measure

pytestmark = [pytest.mark.machine, pytest.mark.long, pytest.mark.timeout(3600)]

NAME = "localhost/keelboot-test/scenario"
PRECIOUS = b"what only one version has\n" * 4000
OBJECT = measure([PRECIOUS]).object.hex
# As it is on the machine's partition: others see that read-only.
WRITABLE = "unshare -m sh -ec 'mount -o remount,bind,rw /sysroot; {}'"
ON_ESP = "mkdir -p /run/esp && mount /dev/vda1 /run/esp && ( {} ); code=$?; umount /run/esp; exit $code"
LABEL = "containers.bootc"
VERSION = "org.opencontainers.image.version"


def build(built: Built, registry: Registry) -> None:
    """All versions; `latest` is the first."""
    modules = f"usr/lib/modules/{built.facts['kernels'][0]}"  # type: ignore[index]
    first = derive(f"{NAME}:1", built.name, {"etc/example/thing": b"of the image\n"}, labels={VERSION: "1"})
    two = {
        "usr/lib/bootc/kargs.d/20-two.toml": b'kargs = ["scenario.two=1"]\n',
        "usr/share/factory/var/lib/bulk/data": bytes(range(256)) * 20_000,
        "usr/lib/tmpfiles.d/bulk.conf": b"d /var/lib/bulk 0755\nC /var/lib/bulk/data\n",
        "usr/lib/sysusers.d/ghost.conf": b"g ghost -\n",
    }
    second = derive(f"{NAME}:2", first, two, labels={VERSION: "2"})
    third = derive(f"{NAME}:3", second, {"usr/share/scenario": PRECIOUS}, labels={VERSION: "3"})
    broken = {f"{modules}/initramfs.img": b"not an archive\n" * 99}
    derive(f"{NAME}:broken", third, broken, labels={VERSION: "broken"})
    change = "rm /etc/example/thing && mkdir /etc/example/thing && touch /etc/example/thing/more"
    derive(f"{NAME}:conflict", first, run=[change], labels={VERSION: "conflict"})
    for tag, name in (("latest", "1"), ("conflict", "conflict")):
        registry.push(f"{NAME}:{name}", f"example/scenario:{tag}")
    registry.push("localhost/debian:trixie", "example/plain:1")
    derive(f"{NAME}:arm", "scratch", {"etc/other": b"machine\n"}, labels={LABEL: "1"}, architecture="arm64")
    registry.push(f"{NAME}:arm", "example/arm:1")


def absurd(directory: Path) -> Path:
    """An OCI layout that claims to have a layer of 999 TiB."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, kind: str, size: int | None = None) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": size or len(data)}

    layer = blob(b"no layer", "layer.v1.tar", 999 << 40)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {LABEL: "1"}},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [layer],
    }
    index = {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json")]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return directory


@dataclass
class Story:
    """What the machine answered, by the chapter and the question."""

    answers: dict[str, dict[str, Answer]] = field(default_factory=dict)
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)

    def ask(self, computer: Computer, chapter: str, questions: Mapping[str, str]) -> None:
        answers = self.answers.setdefault(chapter, {})
        for name, command in questions.items():
            answers[name] = computer.ask(command)

    def look(self, computer: Computer, moment: str) -> None:
        self.statuses[moment] = computer.status()

    def told(self, chapter: str, name: str) -> str:
        answer = self.answers[chapter][name]
        assert answer.status == 0, f"{chapter}: {name}: {answer}"
        return answer.text

    def slot(self, moment: str, name: str) -> str | None:
        """The version in the slot NAME of the status at that MOMENT."""
        entry = self.statuses[moment]["status"][name]
        return entry and entry["image"]["version"]


def _first(story: Story, computer: Computer, registry: Registry, place: Path) -> None:
    """Questions that change nothing, then a download that a boot forgets."""
    source = f"docker://{registry.inside}/example"
    computer.send(absurd(place / "absurd"), "/root/absurd")
    computer.told("echo mine >/etc/example/thing; echo 'ghost:!::' >>/etc/gshadow; echo kept >/var/lib/kept")
    story.look(computer, "untouched")
    story.ask(
        computer,
        "readonly",
        {
            "version 0": "bootc status --format=json --format-version=0",
            "yaml": "bootc status | head -n 2",
            "booted": "bootc status --json --booted",
            "sysroot": "findmnt -no OPTIONS /sysroot",
            "colours": "bootc switch containers-storage: 2>&1 | od -c | grep -c '033'",
            "help": "systemd-run --wait --pipe --quiet --property=DynamicUser=yes bootc upgrade --help",
            "hostname": "test ! -e /etc/hostname || test -s /etc/hostname",
            "initramfs": "journalctl -b --no-pager -o cat -u keelboot-root.service",
            "command line": "cat /proc/cmdline",
            "nothing to collect": "keelboot gc --dry-run --json",
            "no rollback": "keelboot rollback",
        },
    )
    story.ask(
        computer,
        "refused",
        {
            "user": "runuser -u nobody -- keelboot upgrade",
            "user's rollback": "runuser -u nobody -- bootc rollback",
            "directory": "keelboot switch oci:/etc",
            "file": "keelboot switch oci-archive:/etc/passwd",
            "name": "keelboot switch 'docker://Not A Name'",
            "architecture": f"keelboot switch {source}/arm:1",
            "not bootable": f"keelboot switch {source}/plain:1",
            "no tag": f"keelboot switch {source}/scenario:nowhere",
            "no network": f"unshare --net keelboot switch {source}/scenario:other",
            "no registry": "keelboot switch docker://10.0.2.2:1/example/scenario:1",
            "absurd": "keelboot switch oci:/root/absurd",
            "conflict": f"keelboot switch {source}/scenario:conflict",
            "no downloads": "keelboot upgrade --from-downloaded",
            "together": "bootc upgrade --download-only --apply",
            "edit": "bootc edit -f /etc/passwd",
        },
    )
    story.look(computer, "after refusals")
    registry.push(f"{NAME}:2", "example/scenario:v2")
    story.ask(computer, "first", {"check tag": "bootc upgrade --check --tag v2"})
    story.look(computer, "tag checked")
    registry.push(f"{NAME}:2", "example/scenario:latest")
    fill = "fallocate -l $(( $(stat -f -c '%a*%S' /var) - 3000000 )) /var/filler"
    story.ask(computer, "first", {"check": "bootc upgrade --check"})
    story.look(computer, "checked")
    story.ask(
        computer,
        "first",
        {
            "full var": f"{fill} && keelboot upgrade; code=$?; rm /var/filler; exit $code",
            "overlay": "bootc usr-overlay && touch /usr/made",
            "overlay again": "bootc usr-overlay",
            "download": "bootc upgrade --download-only",
        },
    )
    story.look(computer, "downloaded")
    computer.reboot()


def _second(story: Story, computer: Computer, registry: Registry) -> None:
    """The download is forgotten; another is followed by the version itself."""
    story.look(computer, "forgotten")
    bogus = "echo rubbish >/run/esp/loader/entries/keelboot-999999-bogus.conf"
    story.ask(
        computer,
        "second",
        {
            "made": "ls /usr/made",
            "download": "bootc upgrade --download-only",
            "from downloaded": "unshare --net bootc upgrade --from-downloaded",
            "bogus entry": ON_ESP.format(bogus),
            "status with it": "keelboot status --json",
            "no bogus entry": ON_ESP.format("rm /run/esp/loader/entries/keelboot-999999-bogus.conf"),
            "no notes": "rm -f /run/keelboot/staged /run/keelboot/host.json /run/keelboot/downloaded",
        },
    )
    story.look(computer, "staged")
    # 24: nothing new, yet what is staged has to be booted.
    computer.reboot(f"bootc switch --apply {registry.inside}/example/scenario:latest")


def _third(story: Story, computer: Computer, registry: Registry) -> None:
    """Version 2 runs; a third is staged, dropped, staged again, and comes by a soft reboot."""
    registry.push(f"{NAME}:3", "example/scenario:v3")
    story.look(computer, "second version")
    story.ask(
        computer,
        "third",
        {
            "var": "cat /var/lib/kept; stat -c %s /var/lib/bulk/data",
            "ghost": "getent group ghost | wc -l; grep -c ^ghost: /etc/gshadow",
            "command line": "cat /proc/cmdline",
            "tag": "bootc upgrade --tag v3",
        },
    )
    story.look(computer, "third staged")
    story.ask(computer, "third", {"rollback": "bootc rollback"})
    story.look(computer, "dropped")
    story.ask(computer, "third", {"rollback again": "bootc rollback"})
    story.look(computer, "twice back")
    gone = "mv /sysroot/state/deploy/$0/origin.json /sysroot/state/deploy/$0/lost"
    old = story.statuses["untouched"]["status"]["booted"]["composefs"]["verity"]
    story.ask(
        computer,
        "third",
        {
            "lose a record": WRITABLE.format(gone.replace("$0", old)),
            "status without it": "keelboot status --json",
            "tag again": "bootc upgrade --tag v3",
            "kargs": "keelboot kargs set scenario.mine=1",
        },
    )
    story.look(computer, "other arguments")
    story.ask(computer, "third", {"no kargs": "keelboot kargs unset scenario.mine"})
    story.look(computer, "same arguments")
    boot = computer.boot
    computer.ask("bootc upgrade --soft-reboot=auto --apply")
    computer.until("keelboot status --json", lambda text: '"version": "3"' in text.partition('"rollback"')[0])
    computer.ask("systemctl is-system-running --wait")
    story.ask(
        computer,
        "soft",
        {
            "boot id": "cat /proc/sys/kernel/random/boot_id",
            "state": "systemctl is-system-running",
            "root": "findmnt -no SOURCE,OPTIONS /",
            "precious": "wc -c </usr/share/scenario",
            "blessed": "systemctl start keelboot-bless.service",
        },
    )
    assert story.told("soft", "boot id") == boot
    story.look(computer, "soft")


def _automatic(story: Story, computer: Computer, registry: Registry) -> None:
    """A timer stages a version that cannot boot, waits for its window, restarts, and it falls back."""
    registry.push(f"{NAME}:broken", "example/scenario:v3")
    closed = "mode = \"apply\"\\nwindows = [\"'$(date -d '3 days' +%a)' 00:00-00:01\"]\\n"
    story.ask(
        computer,
        "automatic",
        {
            "off": "systemctl is-enabled keelboot-update.timer",
            "on": "systemctl enable --now keelboot-update.timer && systemctl is-active keelboot-update.timer",
            "setting": f"mkdir -p /etc/keelboot && printf '{closed}' >/etc/keelboot/update.toml",
            "update": "systemctl start keelboot-update.service",
            "window": "systemctl start keelboot-update-window.service; systemctl is-system-running",
            "human": "keelboot status --format humanreadable",
        },
    )
    story.look(computer, "automatic")
    computer.reboot(
        "printf 'mode = \"apply\"\\n' >/etc/keelboot/update.toml; "
        "systemctl start --no-block keelboot-update-window.service"
    )
    story.look(computer, "fallen back")
    story.ask(
        computer,
        "fallen back",
        {
            "human": "keelboot status --format humanreadable",
            "update": "systemctl start keelboot-update.service",
        },
    )
    story.look(computer, "refused by the timer")
    story.ask(computer, "fallen back", {"by hand": "keelboot upgrade", "retry": "keelboot upgrade --retry-failed"})
    story.look(computer, "retried")
    story.ask(computer, "fallen back", {"drop": "keelboot rollback && keelboot rollback"})
    story.look(computer, "dropped at last")


def _damage(story: Story, computer: Computer, registry: Registry, place: Path, keelboot: Keelboot) -> None:
    """No room on the ESP, an object that is not what its name says, and a disk that cannot be written to any more.

    Before the last, an upgrade comes from a directory.
    """
    derive(f"{NAME}:5", f"{NAME}:3", {"usr/share/five": os.urandom(99_999)}, labels={VERSION: "5"})
    succeeded(keelboot("build", "--from", f"{NAME}:5", "-t", f"{NAME}:5"))  # it says what it needs on the ESP
    registry.push(f"{NAME}:5", "example/scenario:v5")
    # Another initramfs, and a label that was made for other layers: only reading this one tells what it needs.
    derive(
        f"{NAME}:6",
        f"{NAME}:5",
        run=['for one in /usr/lib/modules/*/initramfs.img; do head -c 512 /dev/zero >>"$one"; done'],
        labels={VERSION: "6"},
    )
    registry.push(f"{NAME}:6", "example/scenario:v6")
    filler = "dd if=/dev/zero of=/run/esp/filler bs=1M 2>/dev/null; sync /run/esp/filler; true"
    path = f"{OBJECT[:2]}/{OBJECT[2:]}"
    objects = "find /sysroot/composefs | wc -l"
    new, silent = (f"docker://{registry.inside}/example/scenario:{version}" for version in ("v5", "v6"))
    bad = f"cd /sysroot/composefs/objects; echo bad >new; chmod 0644 new; mv new {path}"
    story.ask(
        computer,
        "damage",
        {
            "fill": ON_ESP.format(filler),
            "full ESP": "keelboot upgrade --retry-failed",
            # The one before took away what no entry names; what follows has its kernel there, and needs an entry only.
            "fill again": ON_ESP.format(filler),
            "objects": objects,
            "full ESP, rehearsed": f"keelboot switch --dry-run {new}",
            "full ESP, known before": f"keelboot switch {new}",
            "objects after it": objects,
            "room for an entry": ON_ESP.format("truncate -s -1M /run/esp/filler"),
            "full ESP, measured": f"keelboot switch {silent}",
            "objects after that": objects,
            "status": "keelboot status --json",
            "empty": ON_ESP.format("rm /run/esp/filler"),
            "break": WRITABLE.format(bad),
            "fsck": "keelboot fsck",
            "repair": "keelboot fsck --repair",
            "gc": "keelboot gc",
            "gc again": "keelboot gc --json",
        },
    )
    derive(f"{NAME}:4", f"{NAME}:3", {"usr/share/four": b"four\n" * 99}, labels={VERSION: "4"})
    registry.push(f"{NAME}:4", "example/scenario:v4")
    source = f"docker://127.0.0.1:{registry.port}/example/scenario:v4"
    copying = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", source, f"oci:{place}/four:4"]
    subprocess.run(copying, check=True)
    computer.send(place / "four", "/var/tmp/four")
    story.ask(computer, "damage", {"local": "bootc switch --transport oci /var/tmp/four:4"})
    story.look(computer, "local")
    story.ask(
        computer,
        "damage",
        {
            "read-only": "echo u >/proc/sysrq-trigger; sleep 5; ! touch /var/lib/x",
            "status of it": "keelboot status --json",
            "upgrade of it": f"keelboot switch --retry-failed docker://{registry.inside}/example/scenario:v3",
            "rollback of it": "keelboot rollback",
            "kargs of it": "keelboot kargs set x=1",
        },
    )
    computer.cut()
    computer.power_on()
    story.look(computer, "in the end")


@pytest.fixture(scope="module")
def story(keelboot: Keelboot, built: Built, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Everything, in the order in which it happens."""
    place = tmp_path_factory.mktemp("scenarios")
    key, disk = new_key(place), place / "machine.img"
    with serving(place) as registry:
        build(built, registry)
        target = f"docker://{registry.inside}/example/scenario:latest"
        words = ("disk", "--ssh-key", key.with_suffix(".pub"), "--target-imgref", target, f"{NAME}:1", "-o", disk)
        succeeded(keelboot(*words))
        story = Story()
        with Computer(disk, key=key, log=place / "console.log") as computer:
            computer.told(registry.trust())
            _first(story, computer, registry, place)
            _second(story, computer, registry)
            _third(story, computer, registry)
            _automatic(story, computer, registry)
            _damage(story, computer, registry, place, keelboot)
    disk.unlink()
    return story


READ_ONLY = (
    "untouched",
    "after refusals",
    "downloaded",
    "staged",
    "second version",
    "third staged",
    "soft",
    "automatic",
)


@pytest.mark.parametrize("moment", [*READ_ONLY, "fallen back", "retried", "in the end"])
def test_status_is_bootcs_document(story: Story, moment: str) -> None:
    assert faults(story.statuses[moment]) == []


def test_001_status_in_every_form(story: Story) -> None:
    old = json.loads(story.told("readonly", "version 0"))
    assert (old["apiVersion"], old["kind"]) == ("org.containers.bootc/v1", "BootcHost")
    assert "apiVersion: org.containers.bootc/v1" in story.told("readonly", "yaml")
    booted = json.loads(story.told("readonly", "booted"))["status"]
    assert booted["booted"]
    assert (booted["staged"], booted["rollback"]) == (None, None)
    assert "ro" in story.told("readonly", "sysroot").split(",")


def test_002_errors_and_help_are_plain(story: Story) -> None:
    assert story.answers["readonly"]["colours"].text == "0"
    assert "--soft-reboot" in story.told("readonly", "help")
    story.told("readonly", "hostname")


def test_030_the_root_is_found_and_nothing_is_to_be_collected(story: Story) -> None:
    assert not [word for word in story.told("readonly", "command line").split() if word.startswith("root=")]
    found = document(story.told("readonly", "nothing to collect"))
    assert (found["objects"], found["images"], found["layers"], found["deployments"]) == (0, [], [], [])
    story.told("readonly", "initramfs")


@pytest.mark.parametrize(
    ("question", "code", "said"),
    [
        ("user", 15, "only root"),
        ("user's rollback", 1, "only root"),
        ("directory", 5, "oci-layout is missing"),
        ("file", 5, "/etc/passwd"),
        ("name", 1, "Names are lower case"),
        ("architecture", 6, "arm64"),
        ("not bootable", 6, "containers.bootc=1"),
        ("no tag", 4, "nowhere"),
        ("no network", 24, "10.0.2.2"),
        ("no registry", 24, "10.0.2.2:1"),
        ("absurd", 8, "Insufficient free space"),
        ("conflict", 16, "Merge conflicts found in etc"),
        ("no downloads", 1, "--download-only"),
        ("together", 1, "--download-only"),
        ("edit", 2, "bootc switch"),
    ],
)
def test_refused(story: Story, question: str, code: int, said: str) -> None:
    answer = story.answers["refused"][question]
    assert answer.status == code, str(answer)
    assert said in answer.text
    assert "Traceback" not in answer.text


def test_what_was_refused_changed_nothing(story: Story) -> None:
    assert story.statuses["after refusals"] == story.statuses["untouched"]


def test_nothing_to_go_back_to(story: Story) -> None:
    answer = story.answers["readonly"]["no rollback"]
    assert answer.status == 1
    assert "no other version on this machine has proved itself" in answer.text


def test_37_39_what_there_is_can_be_looked_at(story: Story) -> None:
    assert "Update available for: " in story.told("first", "check tag")
    assert "Version: 2" in story.told("first", "check tag")
    assert story.slot("tag checked", "staged") is None
    assert "Version: 2" in story.told("first", "check")
    assert story.statuses["checked"]["status"]["booted"]["cachedUpdate"]["version"] == "2"
    assert story.statuses["downloaded"]["status"]["booted"]["cachedUpdate"] is None, "it is here now"
    story.told("third", "tag")
    assert story.slot("third staged", "staged") == "3"
    assert story.statuses["third staged"]["spec"]["image"]["image"].endswith("/example/scenario:v3")


def test_var_has_room_or_nothing_is_staged(story: Story) -> None:
    answer = story.answers["first"]["full var"]
    assert answer.status == 8, str(answer)
    assert "Insufficient free space in /var" in answer.text


def test_23_the_overlay_on_usr_is_gone_with_the_boot(story: Story) -> None:
    story.told("first", "overlay")
    assert "already" in story.told("first", "overlay again")
    overlay = story.statuses["downloaded"]["status"]["usrOverlay"]
    assert overlay == {"accessMode": "readWrite", "persistence": "transient"}
    assert story.statuses["forgotten"]["status"]["usrOverlay"] is None
    assert story.answers["second"]["made"].status != 0


def test_26_a_download_is_forgotten_by_a_boot(story: Story) -> None:
    staged = story.statuses["downloaded"]["status"]["staged"]
    assert (staged["downloadOnly"], staged["image"]["version"]) == (True, "2")
    assert story.slot("forgotten", "staged") is None
    assert story.slot("forgotten", "booted") == "1"
    story.told("second", "download")
    story.told("second", "from downloaded")
    staged = story.statuses["staged"]["status"]["staged"]
    assert (staged["downloadOnly"], staged["image"]["version"]) == (False, "2")
    assert story.slot("second version", "booted") == "2"


def test_24_var_goes_on_and_gets_what_the_image_brings(story: Story) -> None:
    assert story.told("third", "var").split() == ["kept", str(256 * 20_000)]
    assert "scenario.two=1" in story.told("third", "command line").split()


def test_44_a_stale_gshadow_entry_does_not_keep_the_group_away(story: Story) -> None:
    assert story.answers["third"]["ghost"].text.split() == ["1", "1"]


def test_45_a_damaged_state_is_told_and_ends_nothing(story: Story) -> None:
    told = document(story.told("second", "status with it"))
    assert "keelboot-999999-bogus.conf" in str(told["status"]["keelboot"]["warnings"])
    assert told["status"]["booted"]["image"]["version"] == "1"
    told = document(story.told("third", "status without it"))
    assert told["status"]["booted"]["image"]["version"] == "2"
    assert told["status"]["rollback"] is None
    assert "Queued for next boot: " in story.told("third", "tag again")


def test_36_rollback_drops_what_is_staged_and_is_taken_back(story: Story) -> None:
    story.told("third", "rollback")
    dropped = story.statuses["dropped"]["status"]
    assert (dropped["staged"], dropped["rollbackQueued"]) == (None, True)
    story.told("third", "rollback again")
    assert story.statuses["twice back"]["status"]["rollbackQueued"] is False


def test_25_the_userspace_alone_restarts(story: Story) -> None:
    assert story.statuses["third staged"]["status"]["staged"]["softRebootCapable"] is True
    assert story.statuses["other arguments"]["status"]["staged"]["softRebootCapable"] is False
    assert story.statuses["same arguments"]["status"]["staged"]["softRebootCapable"] is True
    assert story.slot("soft", "booted") == "3"
    assert story.told("soft", "state") == "running"
    digest = story.statuses["soft"]["status"]["booted"]["composefs"]["verity"]
    assert story.told("soft", "root").startswith(f"composefs:{digest} ro,")
    assert story.told("soft", "precious") == str(len(PRECIOUS))
    assert story.statuses["soft"]["status"]["keelboot"]["deployments"][digest]["state"] == "good"


def test_automatic_updates_are_off_and_wait_for_a_window(story: Story) -> None:
    assert story.answers["automatic"]["off"].text == "disabled"
    assert story.told("automatic", "on").startswith("active")
    story.told("automatic", "update")
    assert story.slot("automatic", "staged") == "broken"
    assert story.slot("automatic", "booted") == "3"
    assert story.statuses["automatic"]["status"]["keelboot"]["updates"]["mode"] == "apply"
    assert story.answers["automatic"]["window"].text.splitlines()[-1] == "running"


def test_a_broken_initramfs_falls_back_and_is_not_staged_again(story: Story) -> None:
    assert story.slot("fallen back", "booted") == "3"
    (failure,) = story.statuses["fallen back"]["status"]["keelboot"]["failures"]
    assert (failure["version"], failure["tries"]) == ("broken", 3)
    assert failure["reason"]
    assert "broken" in story.told("fallen back", "human")
    story.told("fallen back", "update")
    assert story.slot("refused by the timer", "staged") is None
    by_hand = story.answers["fallen back"]["by hand"]
    assert by_hand.status == 19, str(by_hand)
    assert "--retry-failed" in by_hand.text
    story.told("fallen back", "retry")
    assert story.slot("retried", "staged") == "broken"
    story.told("fallen back", "drop")
    assert story.slot("dropped at last", "staged") is None
    assert story.statuses["dropped at last"]["status"]["rollbackQueued"] is False


def test_a_full_esp_is_told_and_nothing_is_staged(story: Story) -> None:
    answer = story.answers["damage"]["full ESP"]
    assert answer.status == 8, str(answer)
    assert "Insufficient free space on the ESP" in answer.text
    assert document(story.told("damage", "status"))["status"]["staged"] is None


@pytest.mark.parametrize("question", ["full ESP, rehearsed", "full ESP, known before"])
def test_a_full_esp_is_told_before_anything_is_fetched(story: Story, question: str) -> None:
    answer = story.answers["damage"][question]
    assert answer.status == 8, str(answer)
    assert "Insufficient free space on the ESP" in answer.text
    assert story.told("damage", "objects") == story.told("damage", "objects after it")


def test_an_image_that_does_not_say_what_it_needs_is_measured_before_anything_is_kept(story: Story) -> None:
    story.told("damage", "room for an entry")
    answer = story.answers["damage"]["full ESP, measured"]
    assert answer.status == 8, str(answer)
    assert "the kernel and its initramfs need" in answer.text
    assert story.told("damage", "objects") == story.told("damage", "objects after that")


def test_damage_is_found_and_repaired(story: Story) -> None:
    story.told("damage", "break")
    broken = story.answers["damage"]["fsck"]
    assert broken.status == 1
    assert OBJECT[2:] in broken.text
    repaired = story.told("damage", "repair")
    assert "mended" in repaired
    assert ": sound" in repaired


def test_gc_leaves_what_deployments_need_and_nothing_else(story: Story) -> None:
    story.told("damage", "gc")
    assert document(story.told("damage", "gc again"))["objects"] == 0


@pytest.mark.parametrize("question", ["upgrade of it", "rollback of it", "kargs of it"])
def test_a_read_only_disk_is_told(story: Story, question: str) -> None:
    story.told("damage", "read-only")
    answer = story.answers["damage"][question]
    assert answer.status in (1, 9, 15), str(answer)
    assert "ead-only" in answer.text
    assert "Traceback" not in answer.text


def test_a_read_only_disk_has_a_status_and_boots(story: Story) -> None:
    told = document(story.told("damage", "status of it"))
    assert told["status"]["booted"]["image"]["version"] == "3"
    assert told["status"]["readOnly"] is True


def test_an_upgrade_may_come_from_a_directory(story: Story) -> None:
    assert "Queued for next boot: " in story.told("damage", "local")
    assert story.slot("local", "staged") == "4"
    assert story.statuses["local"]["spec"]["image"]["transport"] == "oci"
    assert story.slot("in the end", "booted") == "4"
