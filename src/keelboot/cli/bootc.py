"""The same host under the name `bootc`: its verbs, flags, defaults and form of errors.

An image gets this as /usr/bin/bootc. It is no script of the Python package:
on a workstation it would hide the real one.
"""

import sys
from typing import NoReturn

from keelboot import __version__
from keelboot.cli import main
from keelboot.cli.main import Face

COMPATIBLE = "1.16"  # the version of bootc whose commands these are
_VERBS = {
    "upgrade": "stage the newest version of the image that this machine follows",
    "switch": "stage another image, and follow that from now on",
    "rollback": "boot the previous version next",
    "status": "tell what this machine runs, has staged and can go back to",
    "usr-overlay": "make /usr writable until the next boot",
    "install": "make a machine: on a disk, in a filesystem, beside a system",
    "container": "look at a root while its image is being built",
}
_IN_IMAGE = "Images are podman's business: `podman images`, `podman pull`. `bootc switch` takes them from its store."
_ELSEWHERE = {
    "edit": "Set the image with `bootc switch IMAGE` and the boot order with `bootc rollback`.",
    "image": _IN_IMAGE,
    "internals": "`keelboot fsck`, `keelboot gc` and `keelboot etc diff` look into the machine.",
    "loader-entries": "Set kernel arguments with `keelboot kargs set`.",
    "composefs-finalize-staged": "Nothing has to be finalised at shutdown: the update is complete once it is staged.",
    "config-diff": "`keelboot etc diff` shows it.",
    "delete-deployment": "`keelboot gc` removes what is not kept; `keelboot unpin` keeps one no longer.",
    "completion": "`keelboot completion bash` prints it.",
}
_FIRST_STEPS = "`bootc VERB --help` has examples. `keelboot --help` lists what keelboot offers beyond these."


def entry() -> NoReturn:
    """Run the command line and exit."""
    sys.exit(main.main(sys.argv[1:], FACE))


def _as_typed(verb: str, words: list[str]) -> list[str]:
    """The WORDS after VERB with bootc's defaults where they are not keelboot's."""
    named = any(word == "--transport" or word.startswith("--transport=") for word in words)
    if verb == "switch" and not named and not {"-h", "--help"} & set(words):
        # Under its own name keelboot tells by the name where an image is; bootc takes every one to be in a registry.
        return ["--transport=registry", *words]
    return words


FACE = Face(
    command="bootc",
    verbs=_VERBS,
    version=f"bootc {COMPATIBLE} (keelboot {__version__})",
    about="bootc's commands for a machine that keelboot runs.",
    first_steps=_FIRST_STEPS,
    modules={"container": "bootc_container"},
    aliases={"update": "upgrade", "usroverlay": "usr-overlay"},
    elsewhere=_ELSEWHERE,
    as_typed=_as_typed,
    exit_code=1,
)

if __name__ == "__main__":
    entry()
