"""The three-way merge of /etc: what the upper layer of a new deployment has to hold, as a plan.

Each name by itself, from what it is in the parent's image, on the machine, and in the new image:

- What the machine did not change becomes what the new image has, also where that is nothing.
- What the machine changed, added or removed stays so. A file's content and its metadata are two things: one that only
  got other permissions here still gets new content from the image.
- A directory that the machine only has because of what is in it goes with that.
- Times do not count. Account databases are merged line by line (`accounts`).

The plan is an upper layer without opaque directories: what the machine removed has a whiteout each, so that what is new
in the image shows. The initramfs uses this, so it imports next to nothing.
"""

import stat

from keelboot.host import accounts
from keelboot.host.sides import UPDATED, Entry, Side, join

# What systemd's units with ConditionNeedsUpdate=/etc work from: whoever changed it here needs them to run.
_MADE_FROM = ("ld.so.conf", "ld.so.conf.d", "ld.so.cache", "sysusers.d", "udev/hwdb.d", "udev/hwdb.bin")
_Owners = tuple[dict[int, int], dict[int, int]]  # image's number -> machine's, of users and of groups


class Planned:
    """One file of the new upper layer; `children` is None for all but directories.

    Content comes from `data` where there is one, else with its times from `content`; permissions and attributes from
    `metadata`. A whiteout has neither.
    """

    __slots__ = ("children", "content", "data", "gid", "metadata", "uid")

    def __init__(self, content: Entry | None, metadata: Entry | None, owner: tuple[int, int] = (0, 0)) -> None:
        self.content, self.metadata = content, metadata
        self.uid, self.gid = owner
        self.data: bytes | None = None
        self.children: dict[str, Planned] | None = None

    @property
    def is_whiteout(self) -> bool:
        return self.content is None and self.data is None


class Merge:
    """The plan, and what there is to say about it.

    `both` are files that machine and image changed, each in its way: the machine's are kept. `conflicts` are paths that
    both changed and that are a directory on one side and none on the other: there the machine's whole is kept.
    `taken` counts what was copied up here and is again as the image has it. `merged` names the account databases that
    are neither the image's nor the machine's.
    """

    def __init__(self, base: Side, upper: Side, image: Side) -> None:
        """Raises OSError where the upper layer cannot be read."""
        self._base, self._upper, self._image = base, upper, image
        self.both: list[str] = []
        self.conflicts: list[str] = []
        self.merged: list[str] = []
        self.taken = 0
        here, there, new = (_databases(side) for side in (upper, base, image))
        gone = {file for file in accounts.FILES if _is_gone(upper.get(file))}
        machine = {file: None if file in gone else here.get(file, there.get(file)) for file in accounts.FILES}
        self._accounts = accounts.merge(there, machine, new)
        self._base_owners = accounts.renumbered(machine, there)
        self.owners: _Owners = accounts.renumbered(self._accounts, new)
        self._machine = machine
        self.root = self._planned_root()

    def _planned_root(self) -> Planned:
        upper, base, image = (side.get("") for side in (self._upper, self._base, self._image))
        assert upper is not None
        children = self._children("", base, image, hidden=False)
        for file in accounts.FILES:
            if planned := self._planned_accounts(file):
                children[file] = planned
        if any(self.owners):
            self._renumber("", children)
        if self._image.get(UPDATED) and any(_has(children, path) for path in _MADE_FROM):
            children[UPDATED] = Planned(None, None)
        root = self._directory(upper, base, image)
        root.children = children
        return root

    def _children(self, path: str, base: Entry | None, image: Entry | None, *, hidden: bool) -> dict[str, Planned]:
        """What to put into the directory PATH. HIDDEN: nothing of the parent's image shows there on the machine."""
        in_base, in_image = _is_directory(base), _is_directory(image)
        names = self._upper.names(path)
        if hidden and in_base:
            names = sorted({*names, *self._base.names(path)})
        found = {}
        for name in names:
            child = join(path, name)
            if path == "" and (name == UPDATED or (name in accounts.FILES and self._is_database(name))):
                continue
            upper = self._upper.get(child)
            was = self._base.get(child) if in_base else None
            new = self._image.get(child) if in_image else None
            if upper is None or upper.is_whiteout:
                planned = self._removed(child, was, new)
            elif upper.is_directory:
                planned = self._below(child, upper, was, new, hidden=hidden or upper.is_opaque)
            else:
                planned = self._leaf(child, upper, was, new)
            if planned:
                found[name] = planned
        return found

    def _removed(self, path: str, was: Entry | None, new: Entry | None) -> Planned | None:
        if was is None or new is None:
            return None
        if not was.is_directory and not self._same(new, was):
            self.both.append(path)
        return Planned(None, None)

    def _below(self, path: str, upper: Entry, was: Entry | None, new: Entry | None, *, hidden: bool) -> Planned | None:
        children = self._children(path, was, new, hidden=hidden)
        changed = not self._is_untouched(upper, was)
        if not changed and not children and not _is_directory(new):
            return None
        if new is not None and not new.is_directory and (was is None or not self._same(new, was)):
            self.conflicts.append(path)
        planned = self._directory(upper, was, new)
        if new is not None and new.is_directory and not children and self._is_as(planned, new):
            return None
        planned.children = children
        return planned

    def _directory(self, upper: Entry, was: Entry | None, new: Entry | None) -> Planned:
        if self._is_untouched(upper, was) and new is not None and new.is_directory:
            return Planned(new, new, self._owner(new))
        return Planned(upper, upper, (upper.uid, upper.gid))

    def _leaf(self, path: str, upper: Entry, was: Entry | None, new: Entry | None) -> Planned | None:
        other = was is None or not upper.same_content(was)
        dressed = not self._is_untouched(upper, was)
        own = Planned(upper, upper, (upper.uid, upper.gid))
        if not other and not dressed:
            self.taken += 1
            plain = new is None or new.is_directory or self._owner(new) == (new.uid, new.gid)
            return None if plain or new is None else Planned(new, new, self._owner(new))
        if new is None:
            if was is not None:
                self.both.append(path)
            return own
        if new.kind != upper.kind:
            if new.is_directory and (was is None or not was.is_directory or self._differs(path, was, new)):
                self.conflicts.append(path)
            elif not new.is_directory and (was is None or not self._same(new, was)):
                self.both.append(path)
            return own
        content = upper if other and not upper.same_content(new) else new
        metadata = upper if dressed else new
        if self._hides(upper, was, new, content=other, metadata=dressed):
            self.both.append(path)
        planned = Planned(content, metadata, (upper.uid, upper.gid) if dressed else self._owner(new))
        if content is new and self._is_as(planned, new):
            self.taken += 1
            return None
        return planned

    def _hides(self, upper: Entry, was: Entry | None, new: Entry, *, content: bool, metadata: bool) -> bool:
        """Whether keeping what the machine changed, CONTENT or METADATA, hides a change of the image's."""
        if content and not upper.same_content(new) and (was is None or not new.same_content(was)):
            return True
        return metadata and not same_metadata(upper, new, self.owners) and (was is None or not self._same_as(new, was))

    def _differs(self, path: str, was: Entry, new: Entry) -> bool:
        """Whether the directory PATH, or anything below it, is not the same in both images."""
        if not was.is_directory or not new.is_directory:
            return not self._same(was, new)
        names = self._base.names(path)
        if names != self._image.names(path) or not self._same(was, new):
            return True
        for name in names:
            child = join(path, name)
            one, other = self._base.get(child), self._image.get(child)
            if one and other and self._differs(child, one, other):
                return True
        return False

    def _planned_accounts(self, file: str) -> Planned | None:
        if not self._is_database(file):
            return None
        data, new, was, upper = (
            self._accounts[file],
            *(side.get(file) for side in (self._image, self._base, self._upper)),
        )
        if data is None:
            return Planned(None, None) if was and new else None
        if data not in (self._machine[file], new and _content(new)):
            self.merged.append(file)
        dressed = upper and not self._is_untouched(upper, was)
        donor = upper if dressed or new is None else new
        donor = donor or was
        assert donor is not None
        planned = Planned(None, donor, self._owner(donor) if donor is new else (donor.uid, donor.gid))
        planned.data = data
        if new is not None and data == _content(new) and self._is_as(planned, new):
            return None
        return planned

    def _is_database(self, file: str) -> bool:
        """Whether FILE is merged by lines: not where it is a link or something odder on any side."""
        found = (side.get(file) for side in (self._base, self._upper, self._image))
        return all(entry is None or entry.kind == stat.S_IFREG or entry.is_whiteout for entry in found)

    def _renumber(self, path: str, children: dict[str, Planned]) -> None:
        """Give files of the image to the users and groups they mean, where nothing else is planned."""
        for name in self._image.names(path):
            child = join(path, name)
            new, planned = self._image.get(child), children.get(name)
            if new is None or (planned and planned.children is None) or (path == "" and name in accounts.FILES):
                continue
            moved = self._owner(new) != (new.uid, new.gid)
            if new.is_directory:
                below = planned.children if planned and planned.children is not None else {}
                self._renumber(child, below)
                if not planned and (below or moved):
                    children[name] = made = Planned(new, new, self._owner(new))
                    made.children = below
            elif moved and not planned:
                children[name] = Planned(new, new, self._owner(new))

    def _owner(self, new: Entry) -> tuple[int, int]:
        """To whom a file of the new image belongs on this machine."""
        users, groups = self.owners
        return users.get(new.uid, new.uid), groups.get(new.gid, new.gid)

    def _is_untouched(self, upper: Entry, was: Entry | None) -> bool:
        """Whether the machine left the metadata, and the type, as the parent's image has them."""
        return was is not None and was.kind == upper.kind and same_metadata(upper, was, self._base_owners)

    def _same(self, new: Entry, was: Entry) -> bool:
        return new.same_content(was) and self._same_as(new, was)

    def _same_as(self, new: Entry, was: Entry) -> bool:
        """Whether both images have the same metadata, owners by what they mean here."""
        users, groups = self._base_owners
        owner = users.get(was.uid, was.uid), groups.get(was.gid, was.gid)
        return new.metadata() == was.metadata() and self._owner(new) == owner

    def _is_as(self, planned: Planned, new: Entry) -> bool:
        assert planned.metadata is not None
        return planned.metadata.metadata() == new.metadata() and (planned.uid, planned.gid) == (new.uid, new.gid)


def same_metadata(upper: Entry, image: Entry, owners: _Owners) -> bool:
    """Whether UPPER has the metadata of IMAGE, whose owners may go by other numbers on this machine."""
    return (
        upper.metadata() == image.metadata()
        and upper.uid in (image.uid, owners[0].get(image.uid))
        and upper.gid in (image.gid, owners[1].get(image.gid))
    )


def owners(base: Side, upper: Side) -> _Owners:
    """What users and groups of the image BASE are called on the machine that has UPPER above it."""
    here, there = _databases(upper), _databases(base)
    return accounts.renumbered({**there, **here}, there)


def _databases(side: Side) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for file in accounts.FILES:
        entry = side.get(file)
        if entry is not None and entry.kind == stat.S_IFREG and not entry.is_whiteout:
            found[file] = _content(entry)
    return found


def _content(entry: Entry) -> bytes | None:
    return entry.content() if entry.kind == stat.S_IFREG else None


def _is_gone(entry: Entry | None) -> bool:
    return entry is not None and entry.is_whiteout


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and entry.is_directory


def _has(children: dict[str, Planned], path: str) -> bool:
    first, _, rest = path.partition("/")
    found = children.get(first)
    return found is not None and (not rest or (found.children is not None and _has(found.children, rest)))
