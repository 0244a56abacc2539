from pathlib import Path

import pytest

from keelboot.host import factory
from keelboot.host.sysroot import Sysroot
from keelboot.image.tree import ObjectId

DIGEST = ObjectId("ab" * 32)


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    found = Sysroot(tmp_path / "root", tmp_path / "esp")
    (found.deployment(DIGEST) / "etc/upper").mkdir(parents=True)
    return found


def test_the_mark_comes_and_goes(sysroot: Sysroot) -> None:
    assert not factory.is_due(sysroot)
    factory.request(sysroot)
    factory.request(sysroot)
    assert factory.is_due(sysroot)
    assert factory.cancel(sysroot)
    assert not factory.is_due(sysroot)
    assert not factory.cancel(sysroot)


def test_what_would_be_lost(sysroot: Sysroot, tmp_path: Path) -> None:
    (sysroot.deployment(DIGEST) / "etc/upper/fstab").write_text("")
    for name in ("lost+found", "lib", "home"):
        (tmp_path / "var" / name).mkdir(parents=True)
    lost = factory.loss(sysroot, DIGEST, tmp_path / "var")
    assert (lost.etc, lost.var, lost.deployments) == (("fstab",), ("home", "lib"), 1)
