"""bootc's tables for installing: what they say, how files add up, and what is refused."""

import pytest

from keelboot.failure import CannotFinish, InvalidImage
from keelboot.host.install.configuration import Configuration, as_json, read


def test_everything_that_is_honoured() -> None:
    text = b"""[install]
root-fs-type = "xfs"
block = ["direct", "tpm2-luks"]
kargs = ["a=1", "quiet"]
karg-deletes = ["splash"]
root-mount-spec = ""
boot-mount-spec = "LABEL=boot"
discoverable-partitions = false
enforce-container-sigpolicy = true
bootloader = "systemd"
stateroot = "default"
[install.filesystem.root]
type = "btrfs"
"""
    assert read({"10-x.toml": text}, "amd64") == Configuration(
        filesystem="btrfs",
        block=("direct", "tpm2-luks"),
        arguments=("a=1", "quiet"),
        arguments_deleted=("splash",),
        root_mount_spec="",
        boot_mount_spec="LABEL=boot",
        discoverable=False,
        strict=True,
    )


def test_files_count_in_the_order_of_their_names() -> None:
    found = read(
        {
            "90-late.toml": b'[install]\nroot-fs-type = "ext4"\nkargs = ["late"]',
            "10-early.toml": b'[install]\nroot-fs-type = "xfs"\nkargs = ["early"]',
            "50-other.toml": b'[install]\nmatch-architectures = ["aarch64"]\nroot-fs-type = "btrfs"\nkargs = ["arm"]',
            "README": b"not a table",
        },
        "amd64",
    )
    assert found == Configuration(filesystem="ext4", arguments=("early", "late"))


def test_an_image_that_says_nothing() -> None:
    assert read({}, "amd64") == Configuration()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[install]\nunknown = 1", "unknown key install.unknown"),
        ("[instal]\nkargs = []", "unknown key instal"),
        ('[install]\nkargs = "a"', "kargs is not a list"),
        ('[install]\nenforce-container-sigpolicy = "yes"', "enforce-container-sigpolicy is not true or false"),
        ('[install]\nkargs = ["a b"]', "more than one argument"),
        ('[install]\nkargs = ["composefs=0"]', "names the deployment"),
        ('[install]\nroot-fs-type = "zfs"', "'zfs' is none of"),
        ("[install]\nfilesystem.root.type = 1", "type is not a string"),
        ("[install]\nfilesystem.boot.type = 'vfat'", "unknown key install.filesystem.boot"),
        ('[install]\nblock = ["lvm"]', "'lvm', which is none of"),
        ("[install]\ndiscoverable-partitions = 1", "not true or false"),
        ('[install]\nbootloader = "lilo"', "'lilo' is none of"),
        ("[install", "Expected"),
        ("install = 3", "install is not a table"),
    ],
)
def test_refuses(text: str, said: str) -> None:
    with pytest.raises(InvalidImage) as refused:
        read({"50-x.toml": text.encode()}, "amd64")
    assert said in refused.value.why
    assert "50-x.toml" in refused.value.what


def test_a_boot_loader_that_is_not_available() -> None:
    with pytest.raises(CannotFinish, match="grub"):
        read({"50-x.toml": b'[install]\nbootloader = "grub"'}, "amd64")


def test_it_is_told_under_bootcs_names() -> None:
    found = Configuration(filesystem="xfs", arguments=("a",), root_mount_spec="", discoverable=False)
    assert as_json(found) == {
        "root-fs-type": "xfs",
        "filesystem": {"root": {"type": "xfs"}},
        "kargs": ["a"],
        "root-mount-spec": "",
        "discoverable-partitions": False,
    }
    assert as_json(Configuration()) == {}
