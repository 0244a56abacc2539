"""The facts of bootc's published schema of its status (org.containers.bootc/v1): fields, types, enumerations.

Tables and a small reader of them. A type is a name in a table, `string`, `bool`, `datetime`, or `strings` (a map of
strings); `?` after it allows null, `[]` makes it a list. The schema allows fields that it does not name; here only
keelboot's own one is.
"""

import re
from collections.abc import Iterator

_DATETIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_WORDS = {
    "ApiVersion": ("org.containers.bootc/v1",),
    "Kind": ("BootcHost",),
    "BootOrder": ("default", "rollback"),
    "HostType": ("bootcHost",),
    "BootType": ("Bls", "Uki"),
    "Bootloader": ("grub", "grub-cc", "systemd", "none"),
    "Store": ("ostreeContainer",),
    "ImageSignature": ("containerPolicy", "insecure"),
    "AccessMode": ("readOnly", "readWrite"),
    "Persistence": ("transient", "persistent"),
}
_OBJECTS = {  # a name with ! must be there
    "Host": {
        "apiVersion!": "ApiVersion",
        "kind!": "Kind",
        "metadata": "ObjectMeta",
        "spec": "HostSpec",
        "status": "HostStatus",
    },
    "ObjectMeta": {"name": "string?", "namespace": "string?", "annotations": "strings?", "labels": "strings?"},
    "HostSpec": {"image": "ImageReference?", "bootOrder": "BootOrder"},
    "HostStatus": {
        "staged": "BootEntry?",
        "booted": "BootEntry?",
        "rollback": "BootEntry?",
        "otherDeployments": "BootEntry[]",
        "rollbackQueued": "bool",
        "type": "HostType?",
        "readOnly": "bool",
        "usrOverlay": "FilesystemOverlay?",
    },
    "BootEntry": {
        "image": "ImageStatus?",
        "cachedUpdate": "ImageStatus?",
        "incompatible!": "bool",
        "pinned!": "bool",
        "softRebootCapable": "bool",
        "downloadOnly": "bool",
        "store": "Store?",
        "ostree": "BootEntryOstree?",
        "composefs": "BootEntryComposefs?",
    },
    "ImageStatus": {
        "image!": "ImageReference",
        "version": "string?",
        "timestamp": "datetime?",
        "imageDigest!": "string",
        "architecture!": "string",
    },
    # `signature` may also be an object with `ostreeRemote`, which has no meaning here; it is left out where unset.
    "ImageReference": {"image!": "string", "transport!": "string", "signature": "ImageSignature"},
    "BootEntryOstree": {"stateroot!": "string", "checksum!": "string"},
    "BootEntryComposefs": {
        "verity!": "string",
        "bootType!": "BootType",
        "bootloader!": "Bootloader",
        "bootDigest": "string?",
        "missingVerityAllowed!": "bool",
    },
    "FilesystemOverlay": {"accessMode!": "AccessMode", "persistence!": "Persistence"},
}
_OWN = {"status.keelboot"}
# bootc writes these even where they are null; what reads the document may count on it.
_ALWAYS = {
    "Host": ("metadata", "spec", "status"),
    "HostSpec": ("image", "bootOrder"),
    "HostStatus": ("staged", "booted", "rollback", "rollbackQueued", "type", "readOnly", "usrOverlay"),
    "BootEntry": tuple(name.rstrip("!") for name in _OBJECTS["BootEntry"]),
    "ImageStatus": ("version", "timestamp"),
    "BootEntryComposefs": ("bootDigest",),
}


def faults(value: object, kind: str = "Host", path: str = "") -> list[str]:
    """What of VALUE the schema does not allow, each with its path; nothing where it is valid."""
    return list(_faults(value, kind, path))


def _faults(value: object, kind: str, path: str) -> Iterator[str]:
    if kind.endswith("?"):
        if value is not None:
            yield from _faults(value, kind[:-1], path)
    elif kind.endswith("[]"):
        if not isinstance(value, list) or not value:
            yield f"{path} is no list, or empty: {value!r}"
        else:
            for index, item in enumerate(value):
                yield from _faults(item, kind[:-2], f"{path}[{index}]")
    elif kind in _OBJECTS:
        yield from _object(value, kind, path)
    elif kind in _WORDS:
        if value not in _WORDS[kind]:
            yield f"{path} is {value!r}, not one of {_WORDS[kind]}"
    else:
        fits = {
            "bool": isinstance(value, bool),
            "string": isinstance(value, str),
            "datetime": isinstance(value, str) and bool(_DATETIME.fullmatch(value)),
            "strings": isinstance(value, dict) and all(isinstance(text, str) for text in value.values()),
        }
        if not fits[kind]:
            yield f"{path} is {value!r}, not {kind}"


def _object(value: object, kind: str, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} is {value!r}, not an object"
        return
    fields = {name.rstrip("!"): what for name, what in _OBJECTS[kind].items()}
    needed = {name.rstrip("!") for name in _OBJECTS[kind] if name.endswith("!")} | set(_ALWAYS.get(kind, ()))
    for name in sorted(needed - set(value)):
        yield f"{path}.{name} is missing"
    for name, item in value.items():
        where = f"{path}.{name}".lstrip(".")
        if name in fields:
            yield from _faults(item, fields[name], where)
        elif where not in _OWN:
            yield f"{where} is neither bootc's nor keelboot's"
