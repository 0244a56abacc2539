"""What is typed and told about signatures, under both names, on a machine that is a directory."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from bootc_schema import faults
from keelboot.cli import bootc, main, registries
from keelboot.host import facts, mounts, namespace, policies, records, status
from signed_machines import RELEASE, World, following
from small_machines import boots


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with following(tmp_path) as world:
        for how in ("reading", "changing", "noting"):
            monkeypatch.setattr(namespace, how, lambda *_: nullcontext(world.sysroot))
        monkeypatch.setattr(namespace, "require_root", lambda: None)
        for how in ("require_booted", "booted_digest"):
            monkeypatch.setattr(namespace, how, lambda: world.booted)
        seen = f"29 1 0:25 / / ro - overlay composefs:{world.booted.hex} ro\n"
        monkeypatch.setattr(facts, "mounted", lambda: mounts.parse(seen))
        monkeypatch.setattr(registries, "registries", world.opened)
        real = policies.find
        monkeypatch.setattr(policies, "find", lambda *_: real(world.root))
        yield world


def typed(text: str) -> int:
    name, *words = text.split()
    return main.main(words, bootc.FACE if name == "bootc" else main.KEELBOOT)


def document(world: World) -> dict[str, object]:
    found = status.document(facts.gather(world.sysroot, facts.mounted()))
    assert faults(found) == []
    return found["status"]["keelboot"]  # type: ignore[no-any-return]


def test_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.push(2)
    assert typed("keelboot upgrade") == 20
    assert "it is not signed" in capsys.readouterr().err
    assert typed("bootc upgrade") == 1
    assert "error: " in capsys.readouterr().err
    assert typed("keelboot upgrade --dry-run") == 20
    assert typed("keelboot upgrade --check") == 0
    assert "It would be refused: " in capsys.readouterr().err
    assert typed("keelboot upgrade --automatic") == 20
    assert boots(world.sysroot) == [world.booted.hex[:8]]


def test_signed(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.push(2, by=[RELEASE])
    assert typed("keelboot upgrade --check --json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verification"]["basis"] == "signed"
    assert told["refusal"] is None
    assert typed("keelboot upgrade") == 0
    assert "  Signed: by key-0 (sha256:" in capsys.readouterr().out
    found = document(world)
    assert found["policy"] == {
        "files": [policies.OWN],
        "demands": {policies.OWN: "wants it signed by key-0"},
        "strict": False,
    }
    kept = [one["verification"] for one in found["deployments"].values()]  # type: ignore[attr-defined]
    assert {one["basis"] for one in kept} == {"signed"}


def test_by_the_name_bootc_what_no_policy_is_about_is_taken(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    policies.within(world.root, policies.OWN).unlink()
    world.push(2)
    assert typed("keelboot upgrade") == 20
    assert "Say it in /etc/keelboot/trust.json" in capsys.readouterr().err
    assert typed("bootc upgrade") == 0
    assert "Signed: NOT CHECKED" in capsys.readouterr().out


def test_an_exception_is_shown_loudly(world: World) -> None:
    policies.within(world.root, policies.OWN).unlink()
    world.push(2)
    assert typed("keelboot upgrade --allow-unsigned") == 0
    assert "what boots next is not signed: it was taken with --allow-unsigned" in document(world)["warnings"]  # type: ignore[operator]


def test_strictness_stays_until_it_is_taken_back(world: World) -> None:
    policies.within(world.root, policies.OWN).unlink()
    accept, reject = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
    world.write(policies.CONTAINERS, {"default": reject, "transports": {"docker": {world.registry.address: accept}}})
    world.push(2, "2")
    world.push(3, "3")
    assert typed(f"bootc switch --enforce-container-sigpolicy {world.repository}:2") == 0
    assert records.settings(world.sysroot).strict
    world.write(policies.CONTAINERS, {"default": accept})
    assert typed(f"bootc switch {world.repository}:3") == 1
    assert typed(f"bootc switch --no-enforce-container-sigpolicy {world.repository}:3") == 0
    assert not records.settings(world.sysroot).strict


def test_what_was_downloaded(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.push(2, by=[RELEASE])
    assert typed("keelboot upgrade --download-only") == 0
    capsys.readouterr()
    assert typed("keelboot upgrade --from-downloaded --dry-run --json") == 0
    assert json.loads(capsys.readouterr().out)["verification"]["basis"] == "signed"
    world.trust(unsigned=True)
    world.write(policies.OWN, "{")
    assert typed("keelboot upgrade --from-downloaded --dry-run") == 27
