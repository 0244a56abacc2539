"""What a list of packages is about: the image, and names for it and its packages that other tools share."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote
from uuid import NAMESPACE_URL, UUID, uuid5

from keelboot.image.digest import Digest
from keelboot.image.release import Release
from keelboot.sbom.dpkg import Package

TOOL: Final = "keelboot"


@dataclass(frozen=True, slots=True)
class Subject:
    """The image NAME with the manifest DIGEST; CREATED is when it was made (RFC 3339), as its config says."""

    name: str
    digest: Digest
    created: str
    tool_version: str

    def uuid(self, form: str) -> UUID:
        """Names the list in the format FORM: the same image gives the same."""
        return uuid5(NAMESPACE_URL, f"oci:{self.digest}#{form}")

    @property
    def purl(self) -> str:
        """The image's package URL (github.com/package-url/purl-spec, type oci)."""
        name = self.name.rpartition("/")[2].partition("@")[0].partition(":")[0]
        return f"pkg:oci/{quote(name.lower())}@{quote(str(self.digest), safe='')}"


def purl(package: Package, release: Release) -> str:
    """The URL of PACKAGE (purl-spec, type deb)."""
    vendor = release.id if release.id not in ("", "linux") else "debian"
    distro = f"&distro={quote(f'{vendor}-{release.version_id}')}" if release.version_id else ""
    version = quote(package.version, safe=":")
    return f"pkg:deb/{vendor}/{quote(package.name, safe='')}@{version}?arch={package.architecture}{distro}"


def second(created: str | None) -> str:
    """The time CREATED, as an image's config has it, in whole seconds of UTC; 1970 where it says nothing usable."""
    try:
        found = datetime.fromisoformat(created or "")
    except ValueError:
        found = datetime.fromtimestamp(0, UTC)
    if found.tzinfo is None:
        found = datetime.fromtimestamp(0, UTC)
    return f"{found.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
