"""The account databases of /etc, merged line by line, three ways: parent image, machine, new image.

A merge of whole files would lose either the machine's users or the image's. The rules, name by name:

- The machine's numbers stay: a uid or gid is written on every file of /var, and an image cannot see those. Where an
  image gives a name another number, the name keeps the one it has here.
- A field that only one side changed is taken from that side; if both did, the machine's. Members are merged one by one.
- A name that is new in the image is added, with the image's number unless that means another name here.
- A name that the image dropped stays: its files may still be there, and a free number would give them to the next
  user. Removing a package keeps its users for the same reason (Debian Policy, 9.2.2).
- A name that the machine removed stays removed.
- A line of shadow or gshadow whose name is nowhere in passwd or group is dropped: it would keep systemd-sysusers from
  making that name again. So is a second line of one name, which nobody reads.
- Lines that are no entries (comments, NIS's `+` and `-`, what is damaged) are kept as they are.

Formats: passwd(5), group(5), shadow(5), gshadow(5), subuid(5). This runs in the initramfs: it imports next to nothing.
"""

from collections.abc import Iterable, Iterator, Mapping

Databases = Mapping[str, bytes | None]  # by name of the file; None where it is missing
Numbers = dict[str, int]
_Tables = tuple["_Table", "_Table", "_Table"]  # base, machine, image

FILES = ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")
_SHAPES = {  # fields in a line; those that are numbers; those that are lists
    "passwd": (7, (2, 3), ()),
    "group": (4, (2,), (3,)),
    "shadow": (9, (), ()),
    "gshadow": (4, (), (2, 3)),
    "subuid": (3, (1, 2), ()),
    "subgid": (3, (1, 2), ()),
}
_OWNERS = {"shadow": "passwd", "gshadow": "group"}
_NUMBER_MAX = (1 << 32) - 2  # -1 means "no change" to chown(2)
_SYSTEM = range(999, 99, -1)  # as systemd-sysusers: downwards, away from what adduser hands out while images are built
_PEOPLE = range(1000, 60000)  # login.defs(5), UID_MIN and UID_MAX
_SUBORDINATE = 65536


class _Table:
    """A database as its lines, in order: entries by name, and lines that are none."""

    def __init__(self, file: str, content: bytes | None) -> None:
        count, numbers, _ = _SHAPES[file]
        self.many = file in ("subuid", "subgid")
        self.order: list[tuple[str | None, str]] = []  # an entry's name and "", or None and a line as it is
        self.entries: dict[str, list[list[str]]] = {}
        text = (content or b"").decode("utf-8", "surrogateescape")
        for line in text.removesuffix("\n").split("\n") if text else ():
            fields = line.split(":")
            name = fields[0]
            plain = name.strip() and not name.startswith(("+", "-", "#"))
            if not plain or len(fields) != count or not all(_is_number(fields[number]) for number in numbers):
                self.order.append((None, line))
            elif name not in self.entries:
                self.order.append((name, ""))
                self.entries[name] = [fields]
            elif self.many and fields not in self.entries[name]:
                self.entries[name].append(fields)

    def others(self) -> list[str]:
        return [line for name, line in self.order if name is None]

    def numbers(self) -> Numbers:
        return {name: int(entry[0][2]) for name, entry in self.entries.items()}

    def mentioned(self) -> set[str]:
        """Names of entries, and of lines that look like damaged ones."""
        return {*self.entries, *(line.partition(":")[0] for line in self.others())}

    def lines(self) -> list[str]:
        found = []
        for name, line in self.order:
            found += [line] if name is None else [":".join(fields) for fields in self.entries.get(name, ())]
        return found

    def add(self, name: str | None, line: str = "") -> None:
        """Put an entry's name, or a line that is none, behind the others; NIS's stay last: they are read in order."""
        nis = (at for at, (_, other) in enumerate(self.order) if other.startswith(("+", "-")))
        at = len(self.order) if line.startswith(("+", "-")) else next(nis, len(self.order))
        self.order.insert(at, (name, line))


def merge(base: Databases, machine: Databases, image: Databases) -> dict[str, bytes | None]:
    """The databases of a machine that had MACHINE, made from BASE, and gets IMAGE.

    Every file of `FILES` is in the result, None where it is not to be there. Merging the result once more, from BASE or
    from IMAGE, changes nothing. Bytes that are no database pass through; nothing raises.
    """
    tables: dict[str, _Tables] = {
        file: (_Table(file, base.get(file)), _Table(file, machine.get(file)), _Table(file, image.get(file)))
        for file in FILES
    }
    new_users = _new_names(*tables["passwd"])
    users, groups = _numbered(tables["passwd"], tables["group"])
    merged = {file: _merged(file, *tables[file]) for file in FILES}
    _renumber(merged, new_users, tables["group"][2], users, groups)
    for file, owner in _OWNERS.items():
        _drop_stale(merged[file], merged[owner].mentioned())
    result: dict[str, bytes | None] = {}
    for file, table in merged.items():
        before, now, new = (side.get(file) for side in (base, machine, image))
        if now is None and (before is not None or new is None):
            result[file] = None
        else:
            result[file] = _encoded(table, now, new)
    return result


def renumbered(machine: Databases, image: Databases) -> tuple[dict[int, int], dict[int, int]]:
    """Users and groups whose number in IMAGE is not the one they have on MACHINE: image's number -> machine's.

    A file of the image that belongs to one of the numbers belongs to the wrong name on the machine, or to none.
    """

    def differing(file: str) -> dict[int, int]:
        here, there = (_Table(file, side.get(file)).numbers() for side in (machine, image))
        found: dict[int, int] = {}
        for name, number in there.items():
            found.setdefault(number, here.get(name, number))
        return {number: ours for number, ours in found.items() if number != ours}

    return differing("passwd"), differing("group")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _NUMBER_MAX


def _merged(file: str, base: _Table, machine: _Table, image: _Table) -> _Table:
    """MACHINE's table with what the image changed or added; numbers are not looked at yet."""
    for name, entries in machine.entries.items():
        if name in image.entries and not machine.many:
            was = base.entries[name][0] if name in base.entries else None
            machine.entries[name] = [_merged_entry(file, was, entries[0], image.entries[name][0])]
    for entry, line in image.order:
        if entry is not None:
            if entry not in machine.entries and entry not in base.entries:
                machine.add(entry)
                entries = image.entries[entry]
                machine.entries[entry] = _free_ranges(machine, entries) if machine.many else entries
        elif line.strip() and line not in base.others() and line not in machine.others():
            machine.add(None, line)
    return machine


def _merged_entry(file: str, base: list[str] | None, machine: list[str], image: list[str]) -> list[str]:
    _, numbers, lists = _SHAPES[file]
    fields = list(machine)
    for at in range(1, len(fields)):
        if at in numbers:
            continue
        if at in lists:
            fields[at] = _members(base[at] if base else "", machine[at], image[at])
        elif base and machine[at] == base[at]:
            fields[at] = image[at]
    if file == "shadow" and base and machine[1] != base[1]:
        fields[2] = machine[2]  # the day of the last change belongs to the password
    return fields


def _members(base: str, machine: str, image: str) -> str:
    was, now, new = (list(filter(None, text.split(","))) for text in (base, machine, image))
    if now == was:
        return image
    kept = [name for name in now if name in new or name not in was]
    added = [name for name in new if name not in was and name not in kept]
    return machine if kept == now and not added else ",".join([*kept, *added])


def _free_ranges(machine: _Table, wanted: list[list[str]]) -> list[list[str]]:
    """The subordinate ids of a new name, moved behind all others where they would be someone else's."""
    found: list[list[str]] = []
    for name, start, count in wanted:
        first, length = int(start), int(count)
        taken = [(int(one[1]), int(one[1]) + int(one[2])) for entries in machine.entries.values() for one in entries]
        taken += [(int(one[1]), int(one[1]) + int(one[2])) for one in found]
        if any(first < end and begin < first + length for begin, end in taken):
            first = -(-max(end for _, end in taken) // _SUBORDINATE) * _SUBORDINATE
        if first + length <= _NUMBER_MAX:
            found.append([name, str(first), count])
    return found


def _numbered(passwd: _Tables, group: _Tables) -> tuple[Numbers, Numbers]:
    """What uid and gid every name has afterwards: the machine's, and for new names the image's or a free one."""
    used = []
    new = []
    for base, machine, image in (passwd, group):
        used.append(machine.numbers())
        numbers = image.numbers()
        new.append({name: numbers[name] for name in _new_names(base, machine, image)})
    wanted = (passwd[2].numbers(), group[2].numbers())
    everywhere = {number for table in (*passwd, *group) for number in table.numbers().values()}
    everywhere |= {int(entry[0][3]) for table in passwd for entry in table.entries.values()}
    late: dict[str, list[int]] = {}
    for side in (1, 0):  # groups first: a user's number may follow that of the group
        for name, number in new[side].items():
            own = _same_in_image(number, used[side], wanted[side])
            pair = name in new[1 - side] and new[1 - side][name] == number
            free = number not in used[side].values() and not (pair and _is_taken(number, used[1 - side], name))
            if own is not None or free:
                used[side][name] = number if own is None else own
            else:
                late.setdefault(name, []).append(side)
    for name, sides in late.items():
        for side in sides:
            twin = used[1 - side].get(name)
            if twin is None or twin in used[side].values():
                twin = _free(new[side][name], everywhere | {*used[0].values(), *used[1].values()})
            used[side][name] = twin
    return used[0], used[1]


def _is_taken(number: int, used: Numbers, name: str) -> bool:
    return any(number == other and owner != name for owner, other in used.items())


def _same_in_image(number: int, used: Numbers, wanted: Numbers) -> int | None:
    """The number on the machine of a name that shares NUMBER in the image: two names of one user stay one user."""
    return next((used[name] for name, other in wanted.items() if other == number and name in used), None)


def _free(wanted: int, taken: set[int]) -> int:
    ranges: Iterable[range] = (_PEOPLE, _SYSTEM) if wanted >= _PEOPLE.start else (_SYSTEM, _PEOPLE)
    candidates: Iterator[int] = (number for numbers in ranges for number in numbers if number not in taken)
    return next(candidates, wanted)


def _new_names(base: _Table, machine: _Table, image: _Table) -> list[str]:
    return [name for name in image.entries if name not in base.entries and name not in machine.entries]


def _renumber(
    merged: dict[str, _Table], new_users: list[str], image_groups: _Table, users: Numbers, groups: Numbers
) -> None:
    """Write the numbers that were decided on into the entries of new names."""
    group_names: dict[int, str] = {}
    for name, number in image_groups.numbers().items():
        group_names.setdefault(number, name)
    for name in new_users:
        fields = merged["passwd"].entries[name][0]
        gid = groups.get(group_names.get(int(fields[3]), ""), int(fields[3]))
        merged["passwd"].entries[name] = [[*fields[:2], str(users[name]), str(gid), *fields[4:]]]
    for name, entries in merged["group"].entries.items():
        if name in groups and int(entries[0][2]) != groups[name]:
            merged["group"].entries[name] = [[*entries[0][:2], str(groups[name]), *entries[0][3:]]]


def _drop_stale(table: _Table, known: set[str]) -> None:
    if not known:
        return  # there is no passwd or group at all: then this is all that is known
    table.order = [(name, line) for name, line in table.order if name is None or name in known]
    table.entries = {name: entries for name, entries in table.entries.items() if name in known}


def _encoded(table: _Table, machine: bytes | None, image: bytes | None) -> bytes:
    """The table as bytes: those of a side that says the same, so that nothing seems changed that is not."""
    lines = table.lines()
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    for side in (image, machine):
        if side is not None and _same_lines(side, text):
            return side
    return text


def _same_lines(one: bytes, other: bytes) -> bool:
    """Whether both have the same lines, in whatever order; an end of file ends a line too."""
    split = [
        sorted((text if text.endswith(b"\n") else text + b"\n").split(b"\n")) if text else [] for text in (one, other)
    ]
    return split[0] == split[1]
