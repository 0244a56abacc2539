"""What the operator and the image ask for, put together."""

import pytest

from keelboot.failure import Failure, NoVerity
from keelboot.host.install import wishes
from keelboot.host.install.configuration import Configuration
from keelboot.host.install.wishes import Wishes
from keelboot.image.reference import Reference

IMAGE = Reference.parse("docker://registry.example.org/web:1")
FOUND = ["root=UUID=u", "rootflags=subvol=/a"]


def test_arguments_of_all_come_in_order_and_once() -> None:
    wanted = Wishes(image=IMAGE, arguments=("c", "b"), arguments_deleted=("x",), boot_mount_spec="UUID=boot")
    asked = Configuration(arguments=("b", "a"), arguments_deleted=("y", "x"))
    found = wishes.settings(wanted, asked, ["root=UUID=u"])
    assert found.kargs == ("root=UUID=u", "systemd.mount-extra=UUID=boot:/boot:auto:defaults", "b", "a", "c")
    assert found.kargs_deleted == ("y", "x")


@pytest.mark.parametrize(
    ("own", "images", "arguments"),
    [
        (None, None, FOUND),
        ("LABEL=r", None, ["root=LABEL=r", "rootflags=subvol=/a"]),
        (None, "LABEL=i", ["root=LABEL=i", "rootflags=subvol=/a"]),
        ("LABEL=r", "LABEL=i", ["root=LABEL=r", "rootflags=subvol=/a"]),
        ("", "LABEL=i", ["rootflags=subvol=/a"]),
    ],
)
def test_the_root_is_found_as_asked(own: str | None, images: str | None, arguments: list[str]) -> None:
    wanted = Wishes(image=IMAGE, root_mount_spec=own)
    assert wishes.root_arguments(wanted, Configuration(root_mount_spec=images), FOUND) == arguments


@pytest.mark.parametrize(
    ("asked", "image", "refused"),
    [
        (None, (), False),
        ("direct", ("tpm2-luks",), False),
        (None, ("tpm2-luks", "direct"), True),
        ("tpm2-luks", (), True),
    ],
)
def test_block_setups(asked: str | None, image: tuple[str, ...], refused: bool) -> None:
    if not refused:
        wishes.refuse_block_setup(asked, Configuration(block=image))
        return
    with pytest.raises(Failure, match="tpm2-luks") as failure:
        wishes.refuse_block_setup(asked, Configuration(block=image))
    assert "to-filesystem" in failure.value.fix


@pytest.mark.parametrize(
    ("filesystem", "kernel", "allowed", "verified"),
    [
        ("ext4", True, False, True),
        ("btrfs", True, True, True),
        ("ext4", False, True, False),
        ("xfs", True, True, False),
    ],
)
def test_verification(filesystem: str, kernel: bool, allowed: bool, verified: bool) -> None:
    assert wishes.refuse_unverified(filesystem, kernel_has_it=kernel, allowed=allowed) is verified


@pytest.mark.parametrize(
    ("filesystem", "kernel", "said"), [("ext4", False, "the kernel that runs"), ("xfs", True, "xfs has no fs-verity")]
)
def test_going_without_is_the_operators_to_say(filesystem: str, kernel: bool, said: str) -> None:
    with pytest.raises(NoVerity, match=said) as refused:
        wishes.refuse_unverified(filesystem, kernel_has_it=kernel, allowed=False)
    assert "--allow-missing-verity" in refused.value.fix
