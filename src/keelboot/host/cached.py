"""What `upgrade --check` found last, kept in state/update.json so that `status` can tell it without a network.

It is a note, not a promise: whoever reads it must be able to do without it.
"""

import json
from contextlib import suppress
from typing import Any, Final

from keelboot.durable import replacing
from keelboot.host.status import Cached
from keelboot.host.sysroot import Sysroot

NAME: Final = "update.json"
_SIZE_MAX = 1 << 16


def write(sysroot: Sysroot, cached: Cached) -> None:
    """Remember CACHED in place of what was known before. Raises OSError."""
    value = {
        "version": 1,
        "image": cached.image,
        "manifest-digest": cached.manifest_digest,
        "image-version": cached.version,
        "timestamp": cached.timestamp,
        "checked": cached.checked,
    }
    with replacing(sysroot.state / NAME) as file:
        file.write(json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")


def forget(sysroot: Sysroot) -> None:
    """Remember nothing: the machine has it now. Raises OSError."""
    (sysroot.state / NAME).unlink(missing_ok=True)


def read(sysroot: Sysroot) -> Cached | None:
    """What is remembered; None where there is nothing, or nothing that can be read."""
    with suppress(OSError, ValueError):
        with (sysroot.state / NAME).open("rb") as file:
            value: Any = json.loads(file.read(_SIZE_MAX))
        if isinstance(value, dict) and value.get("image") and value.get("manifest-digest"):
            names = ("image", "manifest-digest", "image-version", "timestamp", "checked")
            texts = [value.get(name) or "" for name in names]
            if all(isinstance(text, str) for text in texts):
                return Cached(
                    image=texts[0], manifest_digest=texts[1], version=texts[2], timestamp=texts[3], checked=texts[4]
                )
    return None
