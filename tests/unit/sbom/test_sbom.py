"""The packages of images, and the documents that list them."""

import json
import re
from uuid import UUID

import pytest

from keelboot.failure import InvalidImage, UnsupportedDistribution
from keelboot.image.digest import Digest
from keelboot.image.refusal import Refused
from keelboot.image.transports import open_image
from keelboot.sbom.contents import read_contents
from keelboot.sbom.cyclonedx import write_cyclonedx
from keelboot.sbom.dpkg import parse_status
from keelboot.sbom.spdx import write_spdx
from keelboot.sbom.subject import Subject, second
from small_images import write_layout

LIBC = b"""\
Package: libc6
Status: install ok installed
Multi-Arch: same
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Architecture: amd64
Source: glibc
Version: 2.41-12
Conffiles:
 /etc/ld.so.conf.d/x86_64-linux-gnu.conf d4e7a7b88a71b5ffd9e2644e71a0cfab
Description: GNU C Library: Shared libraries
 Contains the standard libraries that are used by nearly all programs.
 .
 Package: not a field
Homepage: https://www.gnu.org/software/libc/libc.html
"""
NGINX = b"""\
Package: nginx
Status: install ok installed
Architecture: amd64
Version: 1:1.26.3-3+deb13u1~bpo12
Source: nginx-source (1.26.3-3)
"""
GONE = b"Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n"
STATUS = b"\n".join((LIBC, GONE, NGINX))
RELEASE = b'ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian 13"\n'
TREE = {"etc": None, "etc/os-release": RELEASE * 2, "usr": None, "usr/lib": None, "usr/lib/sysimage": None, "var": None}
SUBJECT = Subject("r.example.org/os/web:1", Digest("sha256", "ab" * 32), "2026-01-02T03:04:05Z", "9")


def contents(directory, *layers):
    with open_image(write_layout(directory, *layers)) as image:
        return read_contents(image)


def names(found):
    return [(one.name, one.version, one.source, one.source_version) for one in found.packages]


EXPECTED = [
    ("libc6", "2.41-12", "glibc", "2.41-12"),
    ("nginx", "1:1.26.3-3+deb13u1~bpo12", "nginx-source", "1.26.3-3"),
]


def test_as_debian_has_it(tmp_path):
    """The newest layer's database counts, and what is called dpkg or status elsewhere does not."""
    places = {"var/lib": None, "var/lib/dpkg": None, "usr/lib/status": b"x" * 100}
    first = {**TREE, **places, "var/lib/dpkg/status": GONE * 3}
    found = contents(tmp_path / "x", first, {"var/lib/dpkg/status": STATUS})
    assert names(found) == EXPECTED
    assert found.release.id == "debian"


def test_as_the_finish_stage_moved_it(tmp_path):
    moved = {"usr/lib/sysimage/dpkg": None, "usr/lib/sysimage/dpkg/status": STATUS}
    link = {"var/lib": None, "var/lib/dpkg": "-> ../../usr/lib/sysimage/dpkg"}
    old = {**TREE, "var/lib": None, "var/lib/dpkg": None, "var/lib/dpkg/status": GONE * 3}
    assert names(contents(tmp_path / "x", old, {"var/lib/.wh.dpkg": b"", **moved, **link})) == EXPECTED
    assert names(contents(tmp_path / "y", {**TREE, **moved})) == EXPECTED


def test_as_images_without_dpkg_have_it(tmp_path):
    pieces = {"status.d": None, "status.d/libc6": LIBC.replace(b"Status: install ok installed\n", b"")}
    pieces |= {"status.d/libc6.md5sums": b"0" * 100, "status.d/nginx": NGINX}
    places = {"var/lib": None, "var/lib/dpkg": None, **{f"var/lib/dpkg/{name}": data for name, data in pieces.items()}}
    assert names(contents(tmp_path / "x", {**TREE, **places})) == EXPECTED


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("usr/lib/sysimage/rpm/rpmdb.sqlite", "rpm's database"),
        ("lib/apk/db/installed", "apk's database"),
        ("etc/passwd", "no package database"),
    ],
)
def test_others_are_told_apart(tmp_path, path, told):
    parents = {"/".join(path.split("/")[:count]): None for count in range(1, path.count("/") + 1)}
    with pytest.raises(UnsupportedDistribution, match=told):
        contents(tmp_path / "x", {**TREE, **parents, path: b"x" * 100})


def test_links_that_lead_elsewhere(tmp_path):
    places = {"var/lib": None, "var/lib/dpkg": None, "etc/large": STATUS * 3, "var/lib/dpkg/status": "-> /etc/large"}
    with pytest.raises(InvalidImage, match="leads to a file that is none"):
        contents(tmp_path / "x", {**TREE, **places})
    places |= {"var/lib/dpkg/status": "-> ../../../../../../nowhere"}
    with pytest.raises(UnsupportedDistribution):
        contents(tmp_path / "y", {**TREE, **places})


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\n",
        b"no field\n",
        b"Package: a\nPackage: b\nVersion: 1\nArchitecture: all\n",
        b"Package: a\nVersion: 1\n",
        b"Package: ../a\nVersion: 1\nArchitecture: all\n",
        b"Package: a\nVersion: 1\x1b[31m\nArchitecture: all\n",
        b"Package: a\nVersion: 1\nArchitecture: all\nSource: b (\n",
    ],
)
def test_refuses(data):
    with pytest.raises(Refused):
        parse_status(data)


def test_spdx(tmp_path):
    listed = contents(tmp_path / "x", {**TREE, "usr/lib/sysimage/dpkg": None, "usr/lib/sysimage/dpkg/status": STATUS})
    data = write_spdx(listed, SUBJECT)
    assert data == write_spdx(listed, SUBJECT)
    told = json.loads(data)
    ids = [one["SPDXID"] for one in told["packages"]]
    assert len(set(ids)) == 3
    assert all(re.fullmatch("SPDXRef-[A-Za-z0-9.-]+", one) for one in ids)
    image, libc, nginx = told["packages"]
    assert image["checksums"] == [{"algorithm": "SHA256", "checksumValue": "ab" * 32}]
    assert libc["supplier"] == "Organization: GNU Libc Maintainers (debian-glibc@lists.debian.org)"
    assert libc["summary"] == "GNU C Library: Shared libraries"
    assert nginx["externalRefs"][0]["referenceLocator"] == (
        "pkg:deb/debian/nginx@1:1.26.3-3%2Bdeb13u1~bpo12?arch=amd64&distro=debian-13"
    )
    related = {
        (one["spdxElementId"], one["relationshipType"], one["relatedSpdxElement"]) for one in told["relationships"]
    }
    assert related == {("SPDXRef-DOCUMENT", "DESCRIBES", ids[0]), *((ids[0], "CONTAINS", one) for one in ids[1:])}


def test_cyclonedx(tmp_path):
    listed = contents(tmp_path / "x", {**TREE, "usr/lib/sysimage/dpkg": None, "usr/lib/sysimage/dpkg/status": STATUS})
    data = write_cyclonedx(listed, SUBJECT)
    assert data == write_cyclonedx(listed, SUBJECT)
    told = json.loads(data)
    UUID(told["serialNumber"].removeprefix("urn:uuid:"))
    assert told["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    references = [one["bom-ref"] for one in told["components"]]
    assert len(set(references)) == 3
    assert told["dependencies"][0]["dependsOn"] == sorted(references)
    assert [one["name"] for one in told["components"]] == ["debian", "libc6", "nginx"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-01-02T03:04:05.678901234Z", "2025-01-02T03:04:05Z"),
        ("2025-01-02T03:04:05+02:00", "2025-01-02T01:04:05Z"),
        (None, "1970-01-01T00:00:00Z"),
        ("yesterday", "1970-01-01T00:00:00Z"),
        ("2025-01-02T03:04:05", "1970-01-01T00:00:00Z"),
    ],
)
def test_times(text, expected):
    assert second(text) == expected
