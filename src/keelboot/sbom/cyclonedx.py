"""CycloneDX 1.5 in JSON (cyclonedx.org/docs/1.5/json): the image as what is described, its packages as components."""

import json
import re
from typing import Any, Final

from keelboot.sbom.contents import Contents
from keelboot.sbom.dpkg import Package
from keelboot.sbom.subject import TOOL, Subject, purl

MEDIA_TYPE: Final = "application/vnd.cyclonedx+json"
_HASHES = {"sha256": "SHA-256", "sha512": "SHA-512"}


def write_cyclonedx(contents: Contents, subject: Subject) -> bytes:
    """The document; the same image gives the same bytes."""
    release = contents.release
    system = [_system(release.id, release.version_id, release.pretty_name)] if release.id else []
    components = [*system, *(_component(one, contents) for one in contents.packages)]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{subject.uuid('cyclonedx')}",
        "version": 1,
        "metadata": {
            "timestamp": subject.created,
            "tools": {"components": [{"type": "application", "name": TOOL, "version": subject.tool_version}]},
            "component": {
                "type": "container",
                "bom-ref": subject.purl,
                "name": subject.name,
                "version": str(subject.digest),
                "hashes": [{"alg": _HASHES[subject.digest.algorithm], "content": subject.digest.hex}],
                "purl": subject.purl,
            },
        },
        "components": components,
        "dependencies": [{"ref": subject.purl, "dependsOn": sorted(one["bom-ref"] for one in components)}],
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _system(identity: str, version: str, title: str) -> dict[str, Any]:
    more = {"version": version} if version else {}
    return {"type": "operating-system", "bom-ref": f"os:{identity}", "name": identity, "description": title, **more}


def _component(package: Package, contents: Contents) -> dict[str, Any]:
    name = purl(package, contents.release)
    more: dict[str, Any] = {"supplier": {"name": package.maintainer}} if package.maintainer else {}
    if package.summary:
        more["description"] = package.summary
    if re.match("https?://[!-~]+$", package.homepage):
        more["externalReferences"] = [{"type": "website", "url": package.homepage}]
    return {
        "type": "library",
        "bom-ref": name,
        "name": package.name,
        "version": package.version,
        "purl": name,
        "properties": [
            {"name": "dpkg:source", "value": package.source},
            {"name": "dpkg:sourceVersion", "value": package.source_version},
        ],
        **more,
    }
