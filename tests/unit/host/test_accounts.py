"""The merge of account databases: rules one by one, and random machines and images against a naive oracle."""

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keelboot.host.accounts import FILES, merge, renumbered

CASES = int(os.environ.get("KEELBOOT_CASES", "150"))  # `KEELBOOT_CASES=10000` is the long run

BASE = {
    "passwd": b"root:x:0:0:root:/root:/bin/bash\nwww:x:33:33:www:/var/www:/usr/sbin/nologin\n",
    "group": b"root:x:0:\nadm:x:4:syslog\nwww:x:33:\n",
    "shadow": b"root:*:20000:0:99999:7:::\nwww:*:20000:0:99999:7:::\n",
    "gshadow": b"root:*::\nadm:*::syslog\nwww:!::\n",
    "subuid": b"",
    "subgid": b"",
}


def lines(content: bytes | None) -> list[str]:
    return (content or b"").decode().splitlines()


def changed(databases: dict[str, bytes | None], file: str, old: bytes, new: bytes) -> dict[str, bytes | None]:
    content = databases[file]
    assert content is not None
    assert old in content
    return {**databases, file: content.replace(old, new)}


def added(databases: dict[str, bytes | None], **more: bytes) -> dict[str, bytes | None]:
    return {**databases, **{file: (databases[file] or b"") + line for file, line in more.items()}}


def account(name: str, number: int) -> dict[str, bytes]:
    return {
        "passwd": f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n".encode(),
        "group": f"{name}:x:{number}:\n".encode(),
        "shadow": f"{name}:!:20100::::::\n".encode(),
        "gshadow": f"{name}:!::\n".encode(),
    }


def test_nothing_changed_gives_the_images_bytes() -> None:
    image = {**BASE, "passwd": b"".join(reversed((BASE["passwd"] or b"").splitlines(keepends=True)))}
    assert merge(BASE, BASE, image) == image


def test_both_sides_users_are_there() -> None:
    machine = added(BASE, **account("alice", 1000))
    image = added(BASE, **account("postgres", 101))
    merged = merge(BASE, machine, image)
    assert [line.split(":")[0] for line in lines(merged["passwd"])] == ["root", "www", "alice", "postgres"]
    assert "postgres:x:101:101::/nonexistent:/usr/sbin/nologin" in lines(merged["passwd"])
    assert "postgres:!:20100::::::" in lines(merged["shadow"])
    assert "alice:!::" in lines(merged["gshadow"])


def test_numbers_stay_when_the_image_renumbers() -> None:
    before = added(BASE, **account("postgres", 101))
    image = added(BASE, **account("postgres", 105))
    merged = merge(before, before, image)
    assert "postgres:x:101:101::/nonexistent:/usr/sbin/nologin" in lines(merged["passwd"])
    assert "postgres:x:101:" in lines(merged["group"])
    assert renumbered(merged, image) == ({105: 101}, {105: 101})
    assert renumbered(merged, before) == ({}, {})


def test_a_number_that_is_taken_here_becomes_a_free_one_for_user_and_group_alike() -> None:
    machine = added(BASE, **account("local", 101))
    image = added(
        added(BASE, **account("postgres", 101)), group=b"cert:x:102:postgres\n", gshadow=b"cert:!::postgres\n"
    )
    merged = merge(BASE, machine, image)
    assert "postgres:x:999:999::/nonexistent:/usr/sbin/nologin" in lines(merged["passwd"])
    assert "postgres:x:999:" in lines(merged["group"])
    assert "cert:x:102:postgres" in lines(merged["group"])
    assert renumbered(merged, image) == ({101: 999}, {101: 999})


def test_a_person_gets_a_persons_number() -> None:
    merged = merge(BASE, added(BASE, **account("alice", 1000)), added(BASE, **account("deploy", 1000)))
    assert "deploy:x:1001:1001::/nonexistent:/usr/sbin/nologin" in lines(merged["passwd"])


def test_a_user_follows_the_group_that_is_here() -> None:
    """The image brings the user `app` with a group of its own; the machine has that group under another number."""
    machine = added(BASE, group=b"app:x:500:\nother:x:101:\n", passwd=b"other:x:101:101::/:/bin/sh\n")
    merged = merge(BASE, machine, added(BASE, **account("app", 101)))
    assert "app:x:500:500::/nonexistent:/usr/sbin/nologin" in lines(merged["passwd"])
    assert "app:x:500:" in lines(merged["group"])


def test_two_names_of_one_user_stay_one_user() -> None:
    toor = b"toor:x:0:0:root too:/root:/bin/sh\n"
    assert toor.decode().strip() in lines(merge(BASE, BASE, added(BASE, passwd=toor))["passwd"])


def test_a_field_follows_the_side_that_changed_it() -> None:
    machine = changed(BASE, "passwd", b"/bin/bash", b"/bin/zsh")
    image = changed(changed(BASE, "passwd", b":root:/root", b":Root:/root"), "passwd", b"/bin/bash", b"/bin/sh")
    assert lines(merge(BASE, machine, image)["passwd"])[0] == "root:x:0:0:Root:/root:/bin/zsh"


def test_passwords_set_here_stay_and_others_follow_the_image() -> None:
    machine = changed(BASE, "shadow", b"root:*:20000", b"root:$y$secret:20200")
    image = changed(changed(BASE, "shadow", b"root:*:20000", b"root:!:20300"), "shadow", b"www:*", b"www:!*")
    assert lines(merge(BASE, machine, image)["shadow"]) == [
        "root:$y$secret:20200:0:99999:7:::",
        "www:!*:20000:0:99999:7:::",
    ]


def test_a_user_the_image_dropped_stays_and_one_the_machine_removed_does_not_come_back() -> None:
    base = added(added(BASE, **account("dropped", 110)), **account("removed", 111))
    machine = added(BASE, **account("dropped", 110))
    image = added(BASE, **account("removed", 111))
    merged = merge(base, machine, image)
    for file in ("passwd", "group", "shadow", "gshadow"):
        names = [line.split(":")[0] for line in lines(merged[file])]
        assert "dropped" in names, file
        assert "removed" not in names, file


def test_members_are_merged_one_by_one() -> None:
    base = changed(BASE, "group", b"adm:x:4:syslog", b"adm:x:4:syslog,old,both")
    machine = changed(BASE, "group", b"adm:x:4:syslog", b"adm:x:4:alice,syslog,old")
    image = changed(BASE, "group", b"adm:x:4:syslog", b"adm:x:4:syslog,both,new")
    assert lines(merge(base, machine, image)["group"])[1] == "adm:x:4:alice,syslog,new"


def test_a_stale_gshadow_line_goes_and_a_group_is_there_once() -> None:
    """bootc's test 44: with the stale line systemd-sysusers would refuse to make the group."""
    machine = added(BASE, gshadow=b"docker:!::\n", group=b"adm:x:4:\n")
    image = added(BASE, group=b"podman:x:105:\n", gshadow=b"podman:!::\n")
    merged = merge(BASE, machine, image)
    assert [line.split(":")[0] for line in lines(merged["gshadow"])] == ["root", "adm", "www", "podman"]
    assert [line.split(":")[0] for line in lines(merged["group"])] == ["root", "adm", "www", "podman"]


def test_what_is_no_entry_survives_and_nis_stays_last() -> None:
    odd = b"# a comment\nbroken:x:12\n\n\xff\xfe:x:y\n+@netgroup::::::\n+::::::\n"
    machine = added(BASE, passwd=odd)
    merged = merge(BASE, machine, added(BASE, **account("postgres", 101)))
    content = merged["passwd"] or b""
    assert content.index(b"postgres") < content.index(b"+@netgroup")
    assert [line for line in content.split(b"\n") if b"postgres" not in line] == (machine["passwd"] or b"").split(b"\n")


def test_subordinate_ids_do_not_overlap() -> None:
    machine = added(BASE, subuid=b"alice:100000:65536\nalice:300000:10\n")
    image = added(BASE, subuid=b"deploy:100000:65536\n")
    assert lines(merge(BASE, machine, image)["subuid"]) == [
        "alice:100000:65536",
        "alice:300000:10",
        "deploy:327680:65536",
    ]


def test_missing_files() -> None:
    nothing: dict[str, bytes | None] = dict.fromkeys(FILES)
    assert merge(nothing, nothing, nothing) == nothing
    assert merge(nothing, nothing, BASE) == BASE
    assert merge(BASE, BASE, nothing) == BASE
    assert merge(BASE, nothing, BASE) == nothing
    assert merge({}, {}, {}) == nothing


def test_no_passwd_is_no_reason_to_forget_passwords() -> None:
    only = {"shadow": b"root:secret:1::::::\n"}
    assert merge(only, only, {**only, "gshadow": b"a:!::\n"})["shadow"] == only["shadow"]


# Random databases of few names and few numbers, so that they meet.
NAMES = st.sampled_from(["root", "adm", "web", "db", "alice", "bob"])
NUMBERS = st.sampled_from([0, 4, 100, 101, 102, 1000, 1001])
WORDS = st.sampled_from(["", "a", "b"])
ODD = st.sampled_from(
    ["# comment", "+::::::", "-bob", "broken", "web:x", ":::", "a:b:c:d:e:f:g:h:i:j", "", "\x85x:\x0b"]
)


@st.composite
def databases(draw: Any) -> dict[str, bytes | None]:
    users = draw(st.dictionaries(NAMES, st.tuples(NUMBERS, NUMBERS, WORDS, WORDS), max_size=5))
    groups = draw(st.dictionaries(NAMES, st.tuples(NUMBERS, st.lists(NAMES, unique=True, max_size=3)), max_size=5))
    shadows = draw(st.dictionaries(NAMES, st.tuples(st.sampled_from(["*", "!", "secret", "other"]), WORDS), max_size=5))
    ranges = draw(st.dictionaries(NAMES, st.sampled_from([100000, 165536, 100001]), max_size=3))
    whole = {
        "passwd": [f"{n}:x:{u}:{g}:{c}:/:{s}" for n, (u, g, c, s) in users.items()],
        "group": [f"{n}:x:{g}:{','.join(m)}" for n, (g, m) in groups.items()],
        "shadow": [f"{n}:{p}:{d}::::::" for n, (p, d) in shadows.items()],
        "gshadow": [f"{n}:!::{','.join(m)}" for n, (_, m) in groups.items()],
        "subuid": [f"{n}:{start}:65536" for n, start in ranges.items()],
        "subgid": [],
    }
    odd = {file: draw(st.lists(ODD, max_size=1)) for file in whole}
    return {file: "".join(f"{line}\n" for line in whole[file] + odd[file]).encode() for file in whole}


def entries(content: bytes | None, fields: int) -> dict[str, list[str]]:
    """What a reader of the database sees: the first line of each name."""
    found: dict[str, list[str]] = {}
    for line in (content or b"").decode().split("\n"):
        parts = line.split(":")
        if len(parts) == fields and parts[0].strip() and parts[0][0] not in "+-#":
            found.setdefault(parts[0], parts)
    return found


def expected_names(base: set[str], machine: set[str], image: set[str]) -> set[str]:
    return machine | (image - base)


def check_rules(base: dict[str, Any], machine: dict[str, Any], image: dict[str, Any], merged: dict[str, Any]) -> None:
    for file, fields, lists in (("passwd", 7, ()), ("group", 4, (3,)), ("shadow", 9, ()), ("gshadow", 4, (2, 3))):
        was, now, new, got = (entries(side[file], fields) for side in (base, machine, image, merged))
        names = expected_names(set(was), set(now), set(new))
        owner = {"shadow": "passwd", "gshadow": "group"}.get(file)
        if owner:
            known = {line.partition(":")[0] for line in (merged[owner] or b"").decode().split("\n")[:-1]}
            names = {name for name in names if not known or name in known}
        assert set(got) == names, file
        for name in names & set(now):
            for at in range(1, fields):
                if (file, at) in (("passwd", 2), ("passwd", 3), ("group", 2)) or name not in new:
                    assert got[name][at] == now[name][at]
                elif at in lists:
                    before = set(was[name][at].split(",")) if name in was else set()
                    ours, theirs = set(now[name][at].split(",")), set(new[name][at].split(","))
                    wanted = {
                        one for one in ours | theirs | before if (one in ours) + (one in theirs) > (one in before)
                    }
                    assert set(got[name][at].split(",")) - {""} == wanted - {""}
                elif (file, at) == ("shadow", 2) and name in was and now[name][1] != was[name][1]:
                    assert got[name][at] == now[name][at]
                else:
                    mine = name not in was or now[name][at] != was[name][at]
                    assert got[name][at] == (now if mine else new)[name][at]
        odd = [line for line in machine[file].decode().split("\n")[:-1] if line.split(":")[0] not in now]
        left = merged[file].decode().split("\n")[:-1]
        assert all(line in left for line in odd)


def check_numbers(base: dict[str, Any], machine: dict[str, Any], image: dict[str, Any], merged: dict[str, Any]) -> None:
    """No new name has a number that means another name here, but where the image gives both one number."""
    for file, fields in (("passwd", 7), ("group", 4)):
        was, now, new, got = (entries(side[file], fields) for side in (base, machine, image, merged))
        for name in set(got) - set(now):
            sharing = {other for other in got if other != name and got[other][2] == got[name][2]}
            assert not sharing or any(other in new and new[other][2] == new[name][2] for other in sharing)
            taken = {entry[2] for entry in now.values()}
            alone = not any(other != name and new[other][2] == new[name][2] for other in new)
            users, groups = (entries(machine[one], size) for one, size in (("passwd", 7), ("group", 4)))
            if alone and not any(new[name][2] == entry[2] for entry in (*users.values(), *groups.values())):
                assert got[name][2] == new[name][2]
            if alone and new[name][2] in taken:
                assert got[name][2] not in taken or file == "passwd"
    assert was is not None


@settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(databases(), databases(), databases())
def test_against_the_rules(base: dict[str, Any], machine: dict[str, Any], image: dict[str, Any]) -> None:
    merged = merge(base, machine, image)
    check_rules(base, machine, image, merged)
    check_numbers(base, machine, image, merged)
    assert merge(base, merged, image) == merged
    assert merge(image, merged, image) == merged
    assert merge(base, machine, image) == merged


@settings(max_examples=CASES, deadline=None)
@given(*(st.fixed_dictionaries({}, optional={file: st.binary(max_size=60) for file in FILES}) for _ in range(3)))
def test_bytes_of_any_kind_are_no_trouble(base: Any, machine: Any, image: Any) -> None:
    merged = merge(base, machine, image)
    assert merge(base, merged, image) == merged
    renumbered(machine, image)


@pytest.mark.parametrize("number", ["9" * 5000, "4294967295", "-1", "٣", "0x10", " 5"])
def test_a_number_that_is_none(number: str) -> None:
    line = f"odd:x:{number}:0::/:/bin/sh\n".encode()
    machine = added(BASE, passwd=line)
    assert line in (merge(BASE, machine, added(BASE, **account("db", 101)))["passwd"] or b"")
