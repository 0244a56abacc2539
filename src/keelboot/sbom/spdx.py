"""SPDX 2.3 in JSON (spdx.github.io/spdx-spec/v2.3): the image, and the packages that it contains."""

import json
import re
from typing import Any, Final

from keelboot.sbom.contents import Contents
from keelboot.sbom.dpkg import Package
from keelboot.sbom.subject import TOOL, Subject, purl

MEDIA_TYPE: Final = "application/spdx+json"
_IMAGE = "SPDXRef-Image"


def write_spdx(contents: Contents, subject: Subject) -> bytes:
    """The document; the same image gives the same bytes."""
    names = [_reference(number, package) for number, package in enumerate(contents.packages, 1)]
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", _IMAGE), *((_IMAGE, "CONTAINS", name) for name in names)]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.name,
        "documentNamespace": f"urn:uuid:{subject.uuid('spdx')}",
        "creationInfo": {"created": subject.created, "creators": [f"Tool: {TOOL}-{subject.tool_version}"]},
        "packages": [
            _image(subject),
            *(_package(name, one, contents) for name, one in zip(names, contents.packages, strict=True)),
        ],
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in relations
        ],
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _image(subject: Subject) -> dict[str, Any]:
    return {
        "SPDXID": _IMAGE,
        "name": subject.name,
        "versionInfo": str(subject.digest),
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "primaryPackagePurpose": "CONTAINER",
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "checksums": [{"algorithm": subject.digest.algorithm.upper(), "checksumValue": subject.digest.hex}],
        "externalRefs": [_external(subject.purl)],
    }


def _package(name: str, package: Package, contents: Contents) -> dict[str, Any]:
    # The specification (7.5) has parentheses where Debian has angle brackets.
    supplier = re.sub(r" ?<([^<>]*)>$", r" (\1)", package.maintainer)
    more = {"supplier": f"Organization: {supplier}"} if supplier else {}
    if re.match("https?://[!-~]+$", package.homepage):
        more["homepage"] = package.homepage
    if package.summary:
        more["summary"] = package.summary
    return {
        "SPDXID": name,
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "sourceInfo": f"built from {package.source} {package.source_version}",
        "externalRefs": [_external(purl(package, contents.release))],
        **more,
    }


def _external(url: str) -> dict[str, str]:
    return {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": url}


def _reference(number: int, package: Package) -> str:
    """An SPDXID: letters, digits, dots and dashes only, so the number keeps two of them apart."""
    return f"SPDXRef-Package-{number}-{re.sub('[^A-Za-z0-9.-]', '-', package.name)}"
