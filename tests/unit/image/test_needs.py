"""What a label says of an image's needs: one form, bounded, and only of the layers that were measured."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from conftest import BOOTABLE
from keelboot.image import layers, needs
from keelboot.image.digest import Digest
from keelboot.image.needs import Contents, File, Needs
from keelboot.image.transports import open_image
from small_images import Files, write_layout

A, B, C = (Digest.of(letter) for letter in (b"a", b"b", b"c"))
NEEDS = Needs(layers=A, kernel=File(B, 12), initramfs=File(C, 345), var={b"lib/postgresql": 40_000_000, b"motd": 7})
TEXT = f"layers={A} kernel={B},12 initramfs={C},345 var/lib/postgresql=40000000 var/motd=7"
FACTORY = "usr/share/factory/var"


def measured(directory: Path, *more: Files, labels: Mapping[str, str] | None = None) -> Needs | None:
    base: Files = dict(BOOTABLE)
    contents = Contents()
    with open_image(write_layout(directory, base, *more, labels=labels)) as image:
        tree = layers.read_tree(image, contents)
        return needs.measure(tree, image.config.diff_ids, contents.sha256)


def files(sizes: Mapping[str, int]) -> Files:
    """A layer with files of such SIZES below the factory's directory for /var, and the directories above them."""
    paths = [Path(FACTORY, name) for name in sizes]
    above = {str(parent) for path in paths for parent in path.parents if str(parent) != "."}
    return dict.fromkeys(sorted(above)) | {str(Path(FACTORY, name)): b"x" * size for name, size in sizes.items()}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (NEEDS, TEXT),
        (Needs(layers=A, kernel=File(A, 1), initramfs=File(A, 1)), f"layers={A} kernel={A},1 initramfs={A},1"),
        (
            Needs(layers=A, kernel=File(A, 1), initramfs=File(A, 1), var={b'lib/a "=$\\\n\xff': 2**62}),
            f"layers={A} kernel={A},1 initramfs={A},1 var/lib/a%20%22%3D%24%5C%0A%FF=4611686018427387904",
        ),
    ],
)
def test_written_and_read_it_is_the_same(value: Needs, text: str) -> None:
    assert str(value) == text
    assert Needs.parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "layers kernel initramfs",
        TEXT.upper(),
        TEXT + " ",
        " " + TEXT,
        TEXT.replace(" ", "  ", 1),
        TEXT.replace(" ", "\t", 1),
        TEXT + "\n",
        TEXT.replace("layers=sha256", "layers=sha512"),
        TEXT.replace("layers=sha256:", "layers="),
        TEXT.replace("kernel=sha256", "kernel=sha512"),
        TEXT.replace("kernel=", "initramfs=", 1),
        TEXT.replace(",12 ", ",0 "),
        TEXT.replace(",12 ", ",012 "),
        TEXT.replace(",12 ", ",-12 "),
        TEXT.replace(",12 ", ",1e9 "),
        TEXT.replace(",12 ", ",\N{ARABIC-INDIC DIGIT ONE} "),
        TEXT.replace(",12 ", f",{10**19} "),
        TEXT.replace(",12 ", " "),
        f"{TEXT} var/motd=7",
        f"{TEXT} var/motd=8",
        f"{TEXT} esp=1",
        TEXT.replace("var/motd=7", "var/a=7"),
        *(
            TEXT.replace("var/motd", path)
            for path in ("var/", "var/../x", "var/x/..", "var/./x", "var//x", "var/x/y/z")
        ),
        *(TEXT.replace("var/motd", path) for path in ("var/%00", "var/%2e%2e/x", "var/%6dotd", "var/z%2fz", "var/%zz")),
        *(
            TEXT.replace("var/motd", path)
            for path in ("var/z%c3%a4", "var/\N{LATIN SMALL LETTER A WITH DIAERESIS}", "/z")
        ),
        TEXT.replace("var/motd", "var/" + "z" * 257),
        TEXT + "".join(f" var/x{number:06}=1" for number in range(5000)),
        "layers=" * 100_000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not "):
        Needs.parse(text)


def test_the_kernel_the_initramfs_and_what_var_gets_are_measured(tmp_path: Path) -> None:
    seeds = files(
        {"lib/db/a": 5000, "lib/db/deep/b": 70, "lib/db/empty": 0, "lib/other/c": 3, "lib/none/d": 0, "top": 9}
    )
    needed = measured(tmp_path, seeds)
    assert needed
    for file, content in ((needed.kernel, b"kernel" * 9000), (needed.initramfs, b"initramfs" * 5000)):
        assert (file.digest.hex, file.size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert needed.var == {b"lib/db": 5070, b"lib/other": 3, b"top": 9}
    assert Needs.parse(str(needed)) == needed


def test_what_no_label_has_room_for_is_left_out(tmp_path: Path) -> None:
    long = "l" * 255 + "/" + "n" * 255
    needed = measured(
        tmp_path, files({f"lib/{number:03}/file": 100 + number for number in range(90)} | {f"{long}/f": 9999})
    )
    assert needed
    assert set(needed.var.values()) == set(range(126, 190)), "the largest"
    assert Needs.parse(str(needed)) == needed


@pytest.mark.parametrize(
    "layer",
    [
        {"usr/lib/modules/6.12.1/.wh.vmlinuz": b""},
        {"usr/lib/modules/6.12.1/vmlinuz": "-> /etc/os-release"},
        {"usr/lib/modules/6.12.1/vmlinuz": b"small enough to be in the tree itself"},
        {
            "usr/lib/modules/2": None,
            "usr/lib/modules/2/vmlinuz": b"k" * 99,
            "usr/lib/modules/2/initramfs.img": b"i" * 99,
        },
    ],
)
def test_without_one_kernel_nothing_is_said(layer: Files, tmp_path: Path) -> None:
    assert measured(tmp_path, layer) is None


def test_a_label_counts_for_the_layers_that_were_measured(tmp_path: Path) -> None:
    needed = measured(tmp_path / "plain")
    labels = {needs.LABEL: str(needed)}
    base: Files = dict(BOOTABLE)
    for name, more, counts in (("same", [], True), ("changed", [{"usr": None, "usr/new": b"n"}], False)):
        with open_image(write_layout(tmp_path / name, base, *more, labels=labels)) as image:
            assert needs.stated(image.config) == (needed if counts else None)
            assert needs.inherited(image.config) == (needed, 1), "the lowest layer is the same"
    for label in (None, {}, {needs.LABEL: "nonsense"}):
        with open_image(write_layout(tmp_path / "without", base, labels=label)) as image:
            assert needs.stated(image.config) is None
            assert needs.inherited(image.config) == (None, 0)
    with open_image(write_layout(tmp_path / "other", {**base, "more": b"m"}, labels=labels)) as image:
        assert needs.inherited(image.config) == (None, 0)


def test_the_chain_is_what_the_specification_says() -> None:
    assert needs.chain_id([A]) == A
    assert needs.chain_id([A, B]) == Digest.of(f"{A} {B}".encode())
    assert needs.chain_id([A, B, C]) == Digest.of(f"{Digest.of(f'{A} {B}'.encode())} {C}".encode())
    assert needs.chain_id([B, A]) != needs.chain_id([A, B])
    with pytest.raises(ValueError, match="no layers"):
        needs.chain_id([])
