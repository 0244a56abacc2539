import re

import pytest

from keelboot.image.bootable import examine
from keelboot.image.tree import Directory, Regular, Special, Symlink

LABELS = {"containers.bootc": "1"}


def file(permissions=0o644):
    return Regular(content=b"x", permissions=permissions)


def directory(**children):
    return Directory(children={name.replace("_", ".").encode(): node for name, node in children.items()})


def system():
    """A tree that is bootable."""
    kernel = directory(vmlinuz=file(), initramfs_img=file())
    return directory(
        boot=directory(efi=directory()),
        sysroot=directory(),
        sbin=Symlink(target=b"usr/sbin"),
        usr=directory(
            lib=directory(
                modules=Directory(children={b"6.12.1": kernel}), systemd=Directory(children={b"systemd": file(0o755)})
            ),
            sbin=directory(init=Symlink(target=b"/lib/systemd/systemd")),
        ),
        lib=Symlink(target=b"usr/lib"),
    )


def modules(root):
    return root.children[b"usr"].children[b"lib"].children[b"modules"].children


def test_bootable():
    found = examine(system(), LABELS)
    assert found.bootable
    assert (found.kernel_versions, found.reasons) == (("6.12.1",), ())


@pytest.mark.parametrize("labels", [{"ostree.bootable": "true"}, {"containers.bootc": "1", "x": "y"}])
def test_labels(labels):
    assert examine(system(), labels).bootable


def _second_kernel(root):
    modules(root)[b"6.12.2"] = directory(vmlinuz=file(), initramfs_img=file())


def _replace(*path, by):
    def change(root):
        *parents, name = [part.encode() for part in path]
        for part in parents:
            root = root.children[part]
        if by is None:
            del root.children[name]
        else:
            root.children[name] = by

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_replace("usr", "lib", "modules", by=None), "no kernel"),
        (_replace("usr", "lib", "modules", "6.12.1", "vmlinuz", by=None), "no kernel"),
        (_replace("usr", "lib", "modules", "6.12.1", "vmlinuz", by=Symlink(target=b"/boot/x")), "no kernel"),
        (_replace("usr", "lib", "modules", "6.12.1", "vmlinuz", by=Regular()), "no kernel"),
        (_replace("usr", "lib", "modules", "6.12.1", "initramfs.img", by=None), "6.12.1 has no .*initramfs.img"),
        (_replace("usr", "lib", "modules", "6.12.1", by=file()), "no kernel"),
        (_second_kernel, "more than one kernel"),
        (_replace("boot", by=None), "/boot is not a directory"),
        (_replace("boot", "vmlinuz", by=file()), "/boot is not empty"),
        (_replace("sysroot", by=None), "/sysroot"),
        (_replace("sysroot", by=Symlink(target=b"boot")), "/sysroot"),
        (_replace("usr", "lib", "systemd", by=None), "no init"),
        (_replace("usr", "lib", "systemd", "systemd", by=file(0o644)), "no init"),
        (_replace("usr", "lib", "systemd", "systemd", by=Special(kind=0o010000)), "no init"),
    ],
)
def test_not_bootable(change, reason):
    root = system()
    change(root)
    found = examine(root, LABELS)
    assert len(found.reasons) == 1
    assert re.search(reason, found.reasons[0])


@pytest.mark.parametrize("labels", [{}, {"containers.bootc": "0"}, {"containers.bootc": ""}])
def test_label_missing(labels):
    assert examine(system(), labels).reasons == ("it does not have the label containers.bootc=1",)


def test_an_empty_tree_has_every_reason():
    assert len(examine(Directory(), {}).reasons) == 5
