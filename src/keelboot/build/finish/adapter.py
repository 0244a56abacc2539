"""What a distribution's module has to offer so that its images can be finished.

Every function returns POSIX shell that runs as root inside the image, under `set -eu`.
"""

from collections.abc import Sequence
from typing import Protocol

from keelboot.build.finish import debian
from keelboot.failure import UnsupportedDistribution
from keelboot.image.release import Release


class Adapter(Protocol):
    """A distribution, as a module of functions."""

    def matches(self, release: Release) -> bool:
        """Whether this adapter knows the distribution."""

    def kernel_package(self, machine: str, flavour: str) -> str:
        """The package of a kernel for MACHINE (`uname -m`). FLAVOUR is "generic", "cloud" or a package's own name."""

    def packages(self, machine: str, release: Release) -> Sequence[str]:
        """What a machine needs besides a kernel: init, initramfs generator, boot loader binary, name resolution ..."""

    def install(self, kernel: str, packages: Sequence[str]) -> str:
        """Install PACKAGES, and KERNEL only if the image has no kernel; no initramfs is made on the way."""

    def initramfs(self) -> str:
        """Make `initramfs.img` for kernel $kver beside it in /usr/lib/modules."""

    def package_database(self) -> str:
        """Move the package database under /usr, so that it describes the image after every upgrade."""

    def clean(self) -> str:
        """Remove package caches, lists and what only a mutable system runs."""


_ADAPTERS: Sequence[Adapter] = (debian,)


def adapter_for(release: Release) -> Adapter:
    """The adapter that knows RELEASE. Raises UnsupportedDistribution."""
    for adapter in _ADAPTERS:
        if adapter.matches(release):
            return adapter
    raise UnsupportedDistribution(
        f"cannot make an image of {release.pretty_name or release.id or 'an unknown distribution'} bootable",
        why=f"no finish adapter knows ID={release.id!r} in its os-release",
        fix="Use an image of Debian or Ubuntu, or one that is bootable already by bootc's conventions (--no-finish).",
    )
