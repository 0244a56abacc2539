"""A machine in a directory that follows an image in a registry in memory, with keys to sign versions of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from conftest import BOOTABLE
from keelboot.assembly.record import Record
from keelboot.host import policies, records, stage, upgrade
from keelboot.host.admission import Terms
from keelboot.host.sysroot import Sysroot
from keelboot.host.upgrade import Outcome, Wish
from keelboot.image import remote
from keelboot.image.digest import Digest
from keelboot.image.documents import OCI_MANIFEST, Descriptor
from keelboot.image.reference import Reference
from keelboot.image.transports import open_image
from keelboot.image.tree import ObjectId
from keelboot.registry.endpoint import Clock
from keelboot.registry.opening import Registries
from keelboot.registry.patience import Patience
from keelboot.registry.places import Places
from keelboot.trust.identity import Named
from keelboot.trust.keyfiles import PrivateKey, generate
from keelboot.trust.signing import ToStore, sign_bundle, sign_simple
from simulated.registry import Registry, serving
from small_images import Files, write_layout
from small_machines import bless, machine

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
DAY = timedelta(days=1)
RELEASE, REVIEW, STRANGER = (generate() for _ in range(3))
_PATIENCE = Patience(connect=20, answer=20, silence=20, tries=2, first_tries=2, longest_pause=1, progress=1 << 18)


@dataclass
class World:
    """`root` is the machine's /, as far as policies lie there."""

    directory: Path
    registry: Registry
    sysroot: Sysroot
    root: Path
    now: datetime = NOW
    booted: ObjectId = field(init=False)
    tables: dict[str, Registries] = field(default_factory=dict)

    @property
    def repository(self) -> str:
        return f"{self.registry.address}/os/web"

    @property
    def followed(self) -> Reference:
        return Reference.parse(f"docker://{self.repository}:stable")

    def at(self, tag: str, repository: str = "os/web") -> Reference:
        return Reference.parse(f"docker://{self.registry.address}/{repository}:{tag}")

    def push(
        self,
        number: int,
        *tags: str,
        by: Sequence[PrivateKey] = (),
        created: datetime | None = None,
        files: Mapping[str, bytes | None] | None = None,
        **signed: str,
    ) -> Descriptor:
        """The version NUMBER, made as many days after the first as that says, under TAGS, signed BY keys."""
        own: dict[str, bytes | str | None] = {"usr": None, "usr/version": f"{number}\n".encode() * 99, **(files or {})}
        base: Files = dict(BOOTABLE)
        labels = {"containers.bootc": "1", "org.opencontainers.image.version": str(number)}
        made = created or NOW - 100 * DAY + number * DAY
        layout = self.directory / f"v{number}"
        write_layout(layout, base, own, labels=labels, created=f"{made:%Y-%m-%dT%H:%M:%SZ}")
        digest = self.registry.add(layout, *(tags or ("stable",)))
        data = self.registry.manifests[digest][1]
        pushed = Descriptor(OCI_MANIFEST, Digest.parse(digest), len(data))
        if by:
            self.sign(pushed, *by, **signed)
        return pushed

    def sign(
        self,
        image: Descriptor,
        *keys: PrivateKey,
        repository: str | None = None,
        at: datetime | None = None,
        bundle: bool = False,
        **annotations: str,
    ) -> None:
        """Have IMAGE signed by each of KEYS for REPOSITORY."""
        identity = Named(repository or self.repository)
        for number, key in enumerate(keys):
            if number or bundle:  # what cosign 2 signed once is under one tag
                one = sign_bundle(image, identity, key, annotations, now=at or self.now)
            else:
                one = sign_simple(image, identity, key, annotations, now=at or self.now)
            self.store(one)

    def store(self, one: ToStore) -> None:
        for blob in one.blobs:
            self.registry.blobs[str(blob.descriptor.digest)] = blob.data
        tags = (one.tag,) if one.tag else ()
        self.registry.put(one.manifest.data, one.manifest.descriptor.media_type, *tags)

    def trust(self, *keys: PrivateKey, otherwise: str = "reject", **rule: object) -> None:
        """A policy of the machine's own: one of KEYS, bound to the repository, and what RULE says."""
        names = [f"key-{number}" for number, _ in enumerate(keys)]
        bound = {"repositories": [self.repository]}
        document = {
            "version": 1,
            "keys": {name: {"data": key.public.pem, **bound} for name, key in zip(names, keys, strict=True)},
            "images": {self.repository: {"keys": names, **rule} if keys else rule},
            "otherwise": otherwise,
        }
        self.write(policies.OWN, document)

    def write(self, path: str, document: object) -> None:
        file = policies.within(self.root, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(document if isinstance(document, str) else json.dumps(document))

    def terms(self, **said: bool) -> Terms:
        now = self.now
        return Terms(policies=lambda: policies.machines(self.root), now=lambda: now, **said)  # type: ignore[arg-type]

    def opened(self) -> Registries:
        """What one operation sees of registries."""
        places = Places.usual({"HOME": str(self.directory)}, uid=1000, root=self.directory / "nothing")
        clock = Clock(now=lambda: 1_700_000_000.0, sleep=lambda _: None, chance=lambda: 0.0)
        return Registries(places, patience=_PATIENCE, clock=clock)

    def wish(self, source: Reference | None = None, *, said: Mapping[str, bool] | None = None, **more: bool) -> Wish:
        """What is asked for, as a process of its own would."""
        remote.provide(self.opened)
        return Wish(source=source or self.followed, jobs=1, terms=self.terms(**(said or {})), **more)  # type: ignore[arg-type]

    def update(
        self, source: Reference | None = None, *, said: Mapping[str, bool] | None = None, **more: bool
    ) -> Outcome:
        return upgrade.update(self.sysroot, self.booted, self.wish(source, said=said, **more))

    def from_downloaded(self, **said: bool) -> Outcome:
        return upgrade.from_downloaded(self.sysroot, self.booted, terms=self.terms(**said))

    def record(self, digest: ObjectId | None = None) -> Record:
        return records.read(self.sysroot, digest or self.booted)

    def boot(self, outcome: Outcome) -> None:
        """What was staged runs, and is found good."""
        assert outcome.record
        self.booted = outcome.record.digest
        bless(self.sysroot, self.booted)

    def layers_fetched(self) -> int:
        """How many blobs beside configs and what is attached were asked for."""
        layers = set()
        for _, data in self.registry.manifests.values():
            document = json.loads(data)
            if "cosign" not in str(data) and "bundle" not in str(data):
                layers |= {layer["digest"] for layer in document.get("layers", [])}
        return sum(seen.path.rpartition("/")[2] in layers for seen in self.registry.seen)


@contextmanager
def following(directory: Path) -> Iterator[World]:
    """A machine that runs version 1 of what it follows, signed by RELEASE, as its policy wants it."""
    with serving(Registry(lists=True)) as registry:
        root = directory / "etc-of-the-machine"
        root.mkdir()
        world = World(directory, registry, machine(directory), root)
        world.trust(RELEASE)
        world.push(1, by=[RELEASE])
        remote.provide(world.opened)
        with open_image(world.followed) as image:
            first = stage.stage(world.sysroot, image, terms=world.terms(), tries=None, jobs=1)
        world.booted = first.digest
        bless(world.sysroot, first.digest)
        registry.seen.clear()
        try:
            yield world
        finally:
            remote.provide(None)
