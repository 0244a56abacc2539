"""What the options of all ways to install mean."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keelboot.host.install.given import Given
    from keelboot.image.reference import Reference


def common(arguments: argparse.Namespace, given: "Given | None") -> dict[str, Any]:
    """What all ways have in common, as members of Wishes."""
    from keelboot.cli.values import kernel_argument, public_keys

    keys = arguments.root_ssh_authorized_keys
    return {
        "image": _reference(arguments.image),
        "target": _target(arguments),
        "arguments": tuple(kernel_argument(word) for word in arguments.karg),
        "arguments_deleted": tuple(arguments.karg_delete),
        "ssh_keys": tuple(public_keys(keys)) if keys else (),
        "allow_missing_verity": arguments.allow_missing_verity,
        "etc": given.files if given else {},
        "strict": arguments.enforce_container_sigpolicy,
    }


def followed(arguments: argparse.Namespace) -> "Reference":
    """What upgrades of the machine follow."""
    return _target(arguments) or _reference(arguments.image)


def _target(arguments: argparse.Namespace) -> "Reference | None":
    """What upgrades follow. bootc's --target-transport says how --target-imgref is meant, which is a name then."""
    if not arguments.target_imgref:
        return None
    transport = arguments.target_transport
    prefix = "docker://" if transport == "registry" else f"{transport}:" if transport else ""
    return _reference(prefix + arguments.target_imgref)


def _reference(text: str) -> "Reference":
    """The image TEXT names, with a whole path, so that it is the same image from everywhere."""
    import os
    from dataclasses import replace

    from keelboot.image.reference import Reference, Transport

    found = Reference.parse(text)
    if found.transport in (Transport.OCI, Transport.OCI_ARCHIVE, Transport.DOCKER_ARCHIVE):
        return replace(found, location=os.path.abspath(found.location))  # noqa: PTH100 - links in it may change
    return found
