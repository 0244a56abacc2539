"""Where a machine's deployments are: the mounted partition with the store, and the mounted ESP.

The layout is that of docs/formats/deployment.md. On a running machine the root is /sysroot; while installing it is the
new filesystem; in tests it is a directory like any other.
"""

from dataclasses import dataclass
from pathlib import Path

from keelboot.image.tree import ObjectId


@dataclass(frozen=True, slots=True)
class Sysroot:
    """The directory that has composefs/ and state/, the one that the ESP is mounted at, and one that a boot forgets."""

    root: Path
    esp: Path
    run: Path = Path("/run/keelboot")

    @property
    def store(self) -> Path:
        return self.root / "composefs"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def deployments(self) -> Path:
        return self.state / "deploy"

    @property
    def boots(self) -> Path:
        return self.state / "boots"

    @property
    def failures(self) -> Path:
        return self.state / "failures.json"

    @property
    def settings(self) -> Path:
        return self.state / "host.json"

    @property
    def entries(self) -> Path:
        return self.esp / "loader/entries"

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    @property
    def downloaded(self) -> Path:
        """Holds the digest of a deployment that waits for `upgrade --from-downloaded`."""
        return self.run / "downloaded"

    def deployment(self, digest: ObjectId) -> Path:
        """The directory of what is kept for the deployment DIGEST."""
        return self.deployments / digest.hex
